"""Files of every kind: the cells that were written come back, and what cannot be used is refused with the reason."""

import gzip
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import scgpcl
from scgpcl._files import InputError


@pytest.fixture
def cells(adata):
    """Cells named by barcodes, and genes of which some have names that are known."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(adata.X.copy())
    adata.obs_names = ["".join(rng.choice(list("ACGT"), 12)) + "-1" for _ in range(adata.n_obs)]
    adata.var_names = ["MT-CO1", "ACTB", "RPS3", *(f"G{i}" for i in range(adata.n_vars - 3))]
    return adata


def same(found, cells):
    assert found.obs_names.tolist() == cells.obs_names.tolist()
    assert found.var_names.tolist() == cells.var_names.tolist()
    x = found.X.toarray() if sp.issparse(found.X) else np.asarray(found.X)
    np.testing.assert_array_equal(x, cells.X.toarray())


def write_mtx(cells, folder, version, *, compressed, prefix="", with_antibody=False):
    """What Cell Ranger writes, by scipy and by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"ENSG{i:011}\t{name}" for i, name in enumerate(cells.var_names)]
    x = cells.X.T
    if version == 3:
        names = [f"{name}\tGene Expression" for name in names]
        if with_antibody:
            names.append("CD3\tCD3\tAntibody Capture")
            x = sp.vstack([x, sp.csr_matrix(np.full((1, x.shape[1]), 7.0))])
    texts = {"features.tsv" if version == 3 else "genes.tsv": names, "barcodes.tsv": cells.obs_names}
    scipy.io.mmwrite(folder / f"{prefix}matrix.mtx", x.astype(int))
    for name, lines in texts.items():
        (folder / f"{prefix}{name}").write_text("\n".join(lines) + "\n")
    if compressed:
        for name in [*texts, "matrix.mtx"]:
            path = folder / f"{prefix}{name}"
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("version", [2, 3])
def test_folders_of_cell_ranger(cells, tmp_path, version, compressed):
    write_mtx(cells, tmp_path / "s", version, compressed=compressed, with_antibody=True)
    found = scgpcl.read(tmp_path / "s")
    same(found, cells)
    if compressed == (version == 3):  # the two layouts that scanpy reads
        import scanpy as sc

        theirs = sc.read_10x_mtx(tmp_path / "s")
        same(theirs, found)
        assert theirs.var["gene_ids"].tolist() == found.var["gene_ids"].tolist()
    same(scgpcl.read(next((tmp_path / "s").glob("matrix.mtx*"))), cells)


@pytest.mark.parametrize("kind", ["protein_coding", "Gene expression", ""])
def test_folders_with_other_kinds_of_features_keep_their_genes(cells, tmp_path, kind):
    write_mtx(cells, tmp_path / "s", 3, compressed=False, with_antibody=kind == "Gene expression")
    path = tmp_path / "s" / "features.tsv"
    path.write_text(path.read_text().replace("Gene Expression", kind))
    same(scgpcl.read(tmp_path / "s"), cells)


@pytest.mark.parametrize("kind", ["Gene Expression", "protein_coding"])
def test_h5_of_cell_ranger(cells, tmp_path, kind):
    path = tmp_path / "s.h5"
    x = cells.X.tocsr()
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = x.data.astype("i4"), x.indices, x.indptr
        group["shape"], group["barcodes"] = [cells.n_vars, cells.n_obs], np.array(cells.obs_names, dtype="S")
        features = group.create_group("features")
        features["id"] = features["name"] = np.array(cells.var_names, dtype="S")
        features["feature_type"] = np.array([kind] * cells.n_vars, dtype="S")
        features["genome"] = np.array(["x"] * cells.n_vars, dtype="S")
    same(scgpcl.read(path), cells)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:loompy", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["h5ad", "zarr", "loom", "h5"])
def test_formats_of_anndata(cells, tmp_path, kind):
    path = tmp_path / f"s.{kind}"
    if kind == "loom":
        import loompy

        row, column = {"Gene": cells.var_names.to_numpy()}, {"CellID": cells.obs_names.to_numpy()}
        loompy.create(str(path), cells.X.T.toarray(), row, column)
    else:
        {"zarr": cells.write_zarr}.get(kind, cells.write_h5ad)(path)
    same(scgpcl.read(str(path)), cells)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv.gz", "\t"), ("txt", " "), ("csv", ";")])
@pytest.mark.parametrize("genes", ["rows", "columns"])
def test_tables(cells, tmp_path, ending, separator, genes):
    table = cells.to_df().astype(int)
    path = tmp_path / f"s.{ending}"
    (table.T if genes == "rows" else table).to_csv(path, sep=separator)
    same(scgpcl.read(path), cells)


def test_tables_of_r_have_no_corner(cells, tmp_path):
    text = cells.to_df().T.astype(int).to_csv(sep="\t")
    (tmp_path / "s.tsv").write_text(text.lstrip("\t"))
    same(scgpcl.read(tmp_path / "s.tsv"), cells)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t"), ("csv", ";"), ("txt", " ")])
@pytest.mark.parametrize("name", ["T cell donor {}", "T cell, donor {}", "T; cell {}"])
def test_names_of_tables_may_contain_separators(cells, tmp_path, ending, separator, name):
    cells.obs_names = [name.format(i) for i in range(cells.n_obs)]
    cells.to_df().T.astype(int).to_csv(tmp_path / f"s.{ending}", sep=separator)
    same(scgpcl.read(tmp_path / f"s.{ending}"), cells)


def test_tables_with_one_column_are_refused(tmp_path):
    (tmp_path / "s.csv").write_text("ACTB\n3\n")
    with pytest.raises(InputError, match=r"^Expected .*commas, .* found none in .*s\.csv"):
        scgpcl.read(tmp_path / "s.csv")


def test_no_files_are_refused():
    with pytest.raises(ValueError, match=r"^Expected an h5ad, .* found an empty list\. Pass at least one path"):
        scgpcl.read([])


def test_tables_that_leave_genes_open_are_refused(cells, tmp_path):
    table = cells.to_df().astype(int)
    table.columns, table.index = [f"x{i}" for i in range(60)], [f"y{i}" for i in range(120)]
    table.to_csv(tmp_path / "s.csv")
    with pytest.raises(ValueError, match=r"neither side .* rows such as y0, .* columns such as x0, .*genes='rows'"):
        scgpcl.read(tmp_path / "s.csv")
    assert scgpcl.read(tmp_path / "s.csv", genes="columns").shape == (120, 60)
    assert scgpcl.read(tmp_path / "s.csv", genes="rows").shape == (60, 120)
    table["type"] = "B"
    table.to_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="text in the column 'type'"):
        scgpcl.read(tmp_path / "t.csv", genes="columns")


def test_samples_are_joined_on_their_genes(cells, tmp_path):
    half, other = cells[:70].copy(), cells[70:, 10:].copy()
    write_mtx(half, tmp_path / "runs" / "p1" / "outs" / "filtered_feature_bc_matrix", 3, compressed=True)
    write_mtx(half[:5], tmp_path / "runs" / "p1" / "outs" / "raw_feature_bc_matrix", 3, compressed=True)
    write_mtx(other, tmp_path / "runs" / "p2", 2, compressed=False)
    found = scgpcl.read(tmp_path / "runs")
    assert found.obs["batch"].value_counts().to_dict() == {"p1": 70, "p2": 50}
    np.testing.assert_array_equal(found.X.toarray(), cells[:, 10:].X.toarray())
    listed = scgpcl.read([tmp_path / "runs" / "p1", tmp_path / "runs" / "p2"])
    assert listed.obs["batch"].equals(found.obs["batch"])
    write_mtx(half, tmp_path / "flat", 3, compressed=True, prefix="GSM1_")
    write_mtx(other, tmp_path / "flat", 3, compressed=True, prefix="GSM2_")
    assert scgpcl.read(tmp_path / "flat").obs["batch"].cat.categories.tolist() == ["GSM1", "GSM2"]


def test_a_sample_has_the_same_name_alone_and_with_others(cells, tmp_path, monkeypatch):
    """A model that was trained on several files knows each of them again."""
    from scgpcl import _files
    from scgpcl._read import read_files, read_large

    paths = {tmp_path / "study.p1.h5ad": "study.p1", tmp_path / "study.p2.h5ad": "study.p2"}
    for number, name in enumerate(("p3", "p4", "p5")):
        outs = tmp_path / name / "outs"
        write_mtx(cells, outs / "filtered_feature_bc_matrix", 3, compressed=True)
        cells.write_h5ad(outs / "filtered_feature_bc_matrix.h5")
        ending = ("", ".h5", "/matrix.mtx.gz")[number]
        paths[outs / f"filtered_feature_bc_matrix{ending}"] = name
    paths |= {tmp_path / "p6.v2.csv.gz": "p6.v2", tmp_path / "GSM7_matrix.mtx": "GSM7"}
    for path in list(paths)[:2]:
        cells.write_h5ad(path)
    cells.to_df().astype(int).to_csv(tmp_path / "p6.v2.csv.gz")
    write_mtx(cells, tmp_path, 2, compressed=False, prefix="GSM7_")
    together = read_files(list(paths))
    assert together.name is None
    assert list(together.adata.obs[together.batch_key].unique()) == list(paths.values())
    for path, name in paths.items():
        assert read_files([path]).name == name
    monkeypatch.setattr(_files, "MANY_VALUES", 0)
    large = read_large(tmp_path / "study.p1.h5ad")
    assert large.name == "study.p1"
    large.adata.file.close()


def test_columns_of_the_files_are_kept(cells, tmp_path):
    cells = cells.copy()
    for name, label in (("batch", "sample"), ("sample", "file")):
        cells.obs[name] = "own"
        for number in (1, 2):
            cells.write_h5ad(tmp_path / f"{number}.h5ad")
        found = scgpcl.read([tmp_path / "1.h5ad", tmp_path / "2.h5ad"]).obs
        assert set(found[name]) == {"own"}
        assert found[label].value_counts().to_dict() == {"1": cells.n_obs, "2": cells.n_obs}
    cells.obs["file"] = "own"
    cells.write_h5ad(tmp_path / "1.h5ad")
    with pytest.raises(ValueError, match="found all three"):
        scgpcl.read([tmp_path / "1.h5ad", tmp_path / "2.h5ad"])


def normalised(cells):
    return sp.csr_matrix(np.log1p(cells.X.toarray()))


def scaled(cells):
    return cells.X.toarray() - cells.X.toarray().mean(0)


@pytest.mark.parametrize("change", [normalised, scaled])
@pytest.mark.parametrize("place", ["counts", "X", "raw", "wider raw"])
def test_counts_are_found_by_their_values(cells, caplog, place, change):
    from scgpcl._read import find_counts

    adata = cells.copy()
    if place == "counts":
        adata.layers["counts"], adata.X = cells.X, change(cells)
    elif place == "X":
        adata.layers["counts"] = change(cells)
    else:
        adata = adata if place == "raw" else adata[:, 7:].copy()
        adata.X = change(adata)
        adata.raw = cells
    found = find_counts(adata)
    counts = found.adata.X if found.layer is None else found.adata.layers[found.layer]
    np.testing.assert_array_equal(counts.toarray(), cells.X.toarray())
    said = {"counts": "layers['counts']", "X": "from X", "raw": "from raw", "wider raw": "raw has 60 genes, X 53"}[
        place
    ]
    assert said in found.said
    other = find_counts(adata, raw=True) if adata.raw is not None else find_counts(adata, layer="counts")
    assert "as requested" in other.said


def test_read_moves_counts_to_x(cells, tmp_path):
    adata = cells.copy()
    adata.layers["umi"], adata.X = cells.X, normalised(cells)
    adata.write_h5ad(tmp_path / "s.h5ad")
    with pytest.raises(
        InputError, match=r"found X with fractions .*layers\['umi'\] holds whole numbers.*`layer='umi'`"
    ):
        scgpcl.read(tmp_path / "s.h5ad")
    found = scgpcl.read(tmp_path / "s.h5ad", layer="umi")
    same(found, cells)
    assert (found.layers["X"] != adata.X).nnz == 0
    assert list(found.layers) == ["X"]
    with pytest.raises(InputError, match="no raw in the file"):
        scgpcl.read(tmp_path / "s.h5ad", raw=True)


def test_repeated_names_get_a_number(cells, tmp_path):
    adata = cells.copy()
    adata.var_names = ["G1", "G1", *adata.var_names[2:]]
    adata.write_h5ad(tmp_path / "s.h5ad")
    assert scgpcl.read(tmp_path / "s.h5ad").var_names.is_unique


def test_what_cannot_be_read_is_refused(tmp_path):
    for name in ("a.rds", "a.xlsx", "a.h5", "a.loom", "a.csv"):
        (tmp_path / name).write_text("")
        with pytest.raises(InputError, match=rf"^Expected .*{name}"):
            scgpcl.read(tmp_path / name)
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / ".zgroup").write_text("{}")
    with pytest.raises(InputError, match="zarr"):
        scgpcl.read(tmp_path / "x.zarr")
    (tmp_path / "matrix.mtx").write_text("")
    with pytest.raises(InputError, match=r"features or genes\.tsv beside"):
        scgpcl.read(tmp_path / "matrix.mtx")


def test_a_missing_file_is_refused_before_heavy_imports(tmp_path):
    code = (
        "import sys, scgpcl\ntry: scgpcl.read('none.h5ad')\nexcept FileNotFoundError as error: print(error)\n"
        "print([name for name in ('anndata', 'pandas', 'torch', 'scanpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    said, heavy = done.stdout.splitlines()
    assert "found nothing at none.h5ad" in said
    assert heavy == "[]"


def test_genes_of_raw_do_not_replace_those_of_the_file(cells, tmp_path, monkeypatch):
    """The command writes back the file it was given, with the clusters of the counts in ``raw``."""
    from scgpcl import _keys, _workflow

    short = {"pretrain_max_epochs": 1, "cluster_max_epochs": 1}
    monkeypatch.setitem(_workflow.PRESETS, "default", {"model": {"n_hidden": 8, "n_latent": 4}, "train": short})
    adata = cells[:, 7:].copy()
    adata.X = normalised(adata)
    adata.raw = cells
    adata.write_h5ad(tmp_path / "in.h5ad")
    _workflow.cluster_file([tmp_path / "in.h5ad"], tmp_path / "out.h5ad", n_clusters=3, min_counts=10)
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    assert found.var_names.tolist() == adata.var_names.tolist()
    assert {_keys.CLUSTER, _keys.CONFIDENCE} <= set(found.obs)
    assert found.obsm[_keys.LATENT].shape == (found.n_obs, 4)
    assert found.var[_keys.SELECTED].all()
    pd.testing.assert_index_equal(found.obs_names, adata.obs_names[cells.X.sum(1).A1 >= 10])


def test_tables_of_r_may_have_separators_in_quoted_names(tmp_path):
    """As `write.table` writes them: separated by spaces, without a corner."""
    names = ["MT-CO1; old, name", "ACTB; b, c", "RPS3"]
    rows = "\n".join(f'"{name}" {i} 2 0' for i, name in enumerate(names))
    (tmp_path / "s.txt").write_text('"AAACCTGAGA" "AAACCTGAGC" "AAACCTGAGG"\n' + rows + "\n")
    found = scgpcl.read(tmp_path / "s.txt", genes="rows")
    assert found.var_names.tolist() == names
    np.testing.assert_array_equal(found.X.toarray(), [[0, 1, 2], [2, 2, 2], [0, 0, 0]])


def test_features_without_a_type_are_not_genes_if_others_are(adata):
    from scgpcl._read import _only_genes

    some = adata[:, :3].copy()
    some.var["feature_types"] = ["Gene Expression", np.nan, "Antibody Capture"]
    assert _only_genes(some).var_names.tolist() == adata.var_names[:1].tolist()
