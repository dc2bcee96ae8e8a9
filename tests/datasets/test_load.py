"""Readers on small files in the published formats, through the whole way from a server to AnnData."""

import bz2
import gzip
import io
import tarfile
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io as scipy_io
from scipy import sparse

from scgpcl import datasets
from scgpcl.datasets import _load, _readers
from scgpcl.datasets._sources import SOURCES, File

GENES = [f"Gene{i}" for i in range(8)]


def counts(n_cells, seed=0, n_genes=len(GENES)):
    """Sparse whole numbers in which every gene and every cell has one."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.7, (n_cells, n_genes))
    x[:, 0] += 1
    x[0] += 1
    return x


def archive_of(members: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def lines(rows, separator):
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def genes_by_cells(x, separator, *, genes=GENES, header=None, quoted=False):
    quote = (lambda name: f'"{name}"') if quoted else str
    rows = [] if header is None else [[quote(name) for name in header]]
    return lines(rows + [[quote(gene), *column] for gene, column in zip(genes, x.T, strict=True)], separator)


@pytest.fixture
def serve(server, monkeypatch, tmp_path):
    """Put files for a data set on the server under their published names, and load it from there."""

    def run(name, files, *, n_cells, n_genes, n_types):
        source = SOURCES[name]
        assert set(files) == set(source.files)
        local = {}
        for key, body in files.items():
            # The end of the address, as a browser would save it; figshare has numbers.
            end = source.files[key].url.rsplit("/", 1)[-1]
            server.files[end.split("?")[0]] = body
            local[key] = File(f"{server.address}/{end}", source.files[key].name)
        small = replace(source, files=local, n_cells=n_cells, n_genes=n_genes, n_types=n_types)
        monkeypatch.setitem(_load.SOURCES, name, small)
        return datasets.load(name, cache_dir=tmp_path)

    return run


def check(adata, x, types, *, genes=GENES, batches=None):
    np.testing.assert_array_equal(adata.X.toarray(), x)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert adata.obs["cell_type"].tolist() == types
    assert adata.obs["cell_type"].dtype == "category"
    assert adata.var_names.tolist() == list(genes)
    assert adata.uns["source"]["accession"]
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), x)
    assert not np.shares_memory(adata.layers["counts"].data, adata.X.data)
    if batches is not None:
        assert adata.obs["batch"].tolist() == batches


def test_mouse_es(serve):
    parts = {
        "1599494_ES_d0_main": 3,
        "1599497_ES_d2_LIFminus": 2,
        "1599498_ES_d4_LIFminus": 2,
        "1599499_ES_d7_LIFminus": 1,
    }
    xs = [counts(n, seed) for seed, n in enumerate(parts.values())]
    members = {
        f"GSM{name}.csv.bz2": bz2.compress(genes_by_cells(x, ",").encode()) for name, x in zip(parts, xs, strict=True)
    }
    members["GSM1599495_ES_d0_biorep_techrep1.csv.bz2"] = bz2.compress(b"Gene0,9\n")
    body = archive_of(members, "w")
    adata = serve("mouse_es", {"archive": body}, n_cells=8, n_genes=8, n_types=4)
    days = ["day 0"] * 3 + ["day 2"] * 2 + ["day 4"] * 2 + ["day 7"]
    check(adata, np.concatenate(xs), days)
    assert adata.obs["batch"].nunique() == 4
    assert adata.obs_names.is_unique


def test_mouse_bladder(serve):
    x = counts(5)
    names = [f"Bladder_1.CELL{i}" for i in range(5)]
    table = genes_by_cells(x, " ", header=names, quoted=True).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("rmbatch_dge/Bladder_rm.batch_dge.txt.gz", gzip.compress(table))
        archive.writestr("rmbatch_dge/Brain1_rm.batch_dge.txt.gz", gzip.compress(b'"a"\n"Gene0" 1\n'))
    # Other tissues, another order, and a cell without annotation, which is left out.
    published = pd.DataFrame(
        {
            "Cell.name": [names[3], names[0], "Brain_1.CELL0", names[1], names[2]],
            "ClusterID": ["Bladder_2", "Bladder_1", "Brain_1", "Bladder_1", "Bladder_16"],
            "Tissue": ["Bladder", "Bladder", "Brain", "Bladder", "Bladder"],
            "Batch": ["Bladder_1"] * 5,
            "Cell.Barcode": ["A"] * 5,
            "Annotation": ["Urothelium(Bladder)"] * 5,
        },
        index=range(1, 6),
    )
    files = {"archive": stream.getvalue(), "cells": published.to_csv().encode()}
    adata = serve("mouse_bladder", files, n_cells=4, n_genes=8, n_types=3)
    check(adata, x[[3, 0, 1, 2]], ["Bladder_2", "Bladder_1", "Bladder_1", "Bladder_16"], batches=["Bladder_1"] * 4)
    assert adata.obs["annotation"].unique().tolist() == ["Urothelium(Bladder)"]


def test_zeisel(serve):
    x, names = counts(4), ["17_A01", "17_A02", "17_B01", "17_B02"]
    table = genes_by_cells(x, "\t", header=["cell_id", *names])
    # Another order of the cells than in the counts.
    order = [2, 0, 1, 3]
    head = [
        ["", "tissue", *["sscortex"] * 4],
        ["", "group #", 1, 2, 9, 4],
        ["", "total mRNA mol", 5, 5, 5, 5],
        ["", "cell_id", *(names[i] for i in order)],
        ["", "level1class", *"abcd"],
    ]
    cells = lines(head, "\t") + "\t\t\t\t\t\n" + lines([["Gene0", "1", 0, 0, 0, 0]], "\t")
    files = {"counts": gzip.compress(table.encode()), "cells": cells.encode()}
    adata = serve("zeisel", files, n_cells=4, n_genes=8, n_types=4)
    check(adata, x[order], ["interneurons", "pyramidal SS", "mural", "oligodendrocytes"])
    assert adata.obs_names.tolist() == [names[i] for i in order]


def test_pbmc4k(serve):
    x = counts(3)
    matrix = io.BytesIO()
    scipy_io.mmwrite(matrix, sparse.coo_matrix(x.T), field="integer")
    folder = "filtered_gene_bc_matrices/GRCh38"
    symbols = ["RP11", *GENES[1:7], "RP11"]  # symbols are not unique
    parts = {
        f"{folder}/genes.tsv": lines([[f"ENSG{i}", s] for i, s in enumerate(symbols)], "\t").encode(),
        f"{folder}/barcodes.tsv": b"AAA-1\nCCC-1\nGGG-1\n",
        f"{folder}/matrix.mtx": matrix.getvalue(),
    }
    clusters = {
        "analysis/clustering/graphclust/clusters.csv": b"Barcode,Cluster\nAAA-1,2\nCCC-1,1\nGGG-1,2\n",
        "analysis/clustering/kmeans_2_clusters/clusters.csv": b"Barcode,Cluster\nAAA-1,1\n",
    }
    files = {"matrix": archive_of(parts, "w:gz"), "analysis": archive_of(clusters, "w:gz")}
    adata = serve("pbmc4k", files, n_cells=3, n_genes=8, n_types=2)
    check(adata, x, ["cluster 2", "cluster 1", "cluster 2"], genes=[*symbols[:7], "RP11-1"])
    assert adata.obs_names.tolist() == ["AAA-1", "CCC-1", "GGG-1"]


def test_human_kidney(serve):
    x = counts(4)
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        csr = sparse.csr_matrix(x.astype(np.float64))
        for name in ("data", "indices", "indptr"):
            file[f"exprs/{name}"] = getattr(csr, name)
        file["exprs/shape"] = csr.shape
        file["obs/cell_type1"] = np.array([b"a", b"b", b"a", b"c"])
        file["obs_names"] = np.array([b"c1", b"c2", b"c3", b"c4"])
        file["var_names"] = np.array(GENES, dtype="S")
    adata = serve("human_kidney", {"matrix": stream.getvalue()}, n_cells=4, n_genes=8, n_types=3)
    check(adata, x, ["a", "b", "a", "c"])
    assert "batch" not in adata.obs


@pytest.mark.parametrize("name", ["baron_human", "baron_mouse"])
def test_baron(serve, name):
    individuals = [f"human{i}" for i in range(1, 5)] + ["mouse1", "mouse2"]
    members, xs = {}, {}
    for i, individual in enumerate(individuals):
        x = xs[individual] = counts(2, i)
        frame = pd.DataFrame(x, columns=GENES, index=[f"{individual}_lib1.final_cell_000{k}" for k in (1, 2)])
        frame.insert(0, "assigned_cluster", ["alpha", "beta"])
        frame.insert(0, "barcode", "ACGT-ACGT")
        members[f"GSM{2230757 + i}_{individual}_umifm_counts.csv.gz"] = gzip.compress(frame.to_csv().encode())
    wanted = [i for i in individuals if i.startswith(name.removeprefix("baron_"))]
    body = archive_of(members, "w")
    adata = serve(name, {"archive": body}, n_cells=2 * len(wanted), n_genes=8, n_types=2)
    batches = [i for i in wanted for _ in range(2)]
    check(adata, np.concatenate([xs[i] for i in wanted]), ["alpha", "beta"] * len(wanted), batches=batches)
    assert adata.obs_names[0] == f"{wanted[0]}_lib1.final_cell_0001"


def test_shekhar(serve):
    """The filters of the authors: mitochondrial share, genes in a cell, cells of a gene, counts of a gene."""
    n_genes = 600
    rng = np.random.default_rng(0)
    genes = [f"mt-Gene{i}" if i < 5 else f"Gene{i}" for i in range(n_genes)]
    x = 1 + rng.poisson(1.0, (40, n_genes))
    x[0, :5] += 200  # cell with more than a tenth of mitochondrial counts
    x[1, 300:] = 0  # cell with too few genes
    x[:, 10] = 0
    x[2:25, 10] = 9  # gene in too few cells
    x[:, 11] = 1  # gene with too few counts
    names = [f"Bipolar{1 + i // 20}_ACGT{i}" for i in range(40)]
    table = genes_by_cells(x, "\t", genes=genes, header=names)  # R writes no field above the genes
    published = [["NAME", "CLUSTER", "SUB-CLUSTER"], ["TYPE", "group", "group"]]
    published += [[name, "BC1A" if i % 2 else "MG (Mueller Glia)", "x"] for i, name in enumerate(names) if i > 1]
    files = {"counts": gzip.compress(table.encode()), "cells": lines(published, "\t").encode()}
    adata = serve("shekhar", files, n_cells=38, n_genes=598, n_types=2)
    kept = [i for i in range(n_genes) if i not in (10, 11)]
    check(
        adata,
        x[2:][:, kept],
        ["MG (Mueller Glia)", "BC1A"] * 19,
        genes=[genes[i] for i in kept],
        batches=["Bipolar1"] * 18 + ["Bipolar2"] * 20,
    )


def test_camp(serve):
    rng = np.random.default_rng(0)
    x = np.round(rng.gamma(1.0, 2.0, (6, 8)), 4).astype(np.float32) + 0.5
    lineage = pd.DataFrame(x[:3], columns=GENES, index=["ips_1", "de_1", "he_1"])
    lineage.insert(0, "experiment", ["ipsc", "de", "he1"])
    liverbud = pd.DataFrame(x[2:], columns=GENES, index=["he_1", "lb_1", "lb_2", "lb_3"])
    liverbud.insert(0, "assignment_LB", ["HE", "EC", "MC", "iH"])
    liverbud.insert(0, "experiment", ["he1", "lb1", "lb1", "lb2"])
    files = {k: gzip.compress(v.to_csv(index_label="cell_id").encode()) for k, v in
             (("lineage", lineage), ("liverbud", liverbud))}  # fmt: skip
    adata = serve("camp", files, n_cells=6, n_genes=8, n_types=6)
    assert adata.obs_names.tolist() == ["ips_1", "de_1", "he_1", "lb_1", "lb_2", "lb_3"]
    assert adata.obs["cell_type"].tolist() == [
        "iPSC", "definitive endoderm", "hepatic endoderm", "endothelial", "mesenchymal stem cell", "immature hepatoblast",
    ]  # fmt: skip
    assert adata.obs["batch"].tolist() == ["ipsc", "de", "he1", "lb1", "lb1", "lb2"]
    np.testing.assert_allclose(adata.X.toarray(), x, rtol=1e-6)
    assert not adata.layers


def test_genes_without_counts_are_left_out_and_another_size_is_told(serve):
    x = counts(4)
    x[:, 3] = 0
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        csr = sparse.csr_matrix(x)
        for name in ("data", "indices", "indptr"):
            file[f"exprs/{name}"] = getattr(csr, name)
        file["exprs/shape"] = csr.shape
        file["obs/cell_type1"] = np.array(["a", "b", "a", "c"], dtype="S")
        file["obs_names"] = np.array(list("wxyz"), dtype="S")
        file["var_names"] = np.array(GENES, dtype="S")
    with pytest.warns(UserWarning, match="'human_kidney', found 7 genes in place of 8, 3 types in place of 11"):
        adata = serve("human_kidney", {"matrix": stream.getvalue()}, n_cells=4, n_genes=8, n_types=11)
    assert adata.var_names.tolist() == [g for g in GENES if g != "Gene3"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Gene0,1,2\nGene1,1\n", "2 values in line 2, as in the first, found 1"),
        ("Gene0,1,two\n", "numbers after the gene 'Gene0' in line 1"),
        ("", "found no line of values"),
    ],
)
def test_damaged_tables_are_refused(serve, tmp_path, text, found):
    names = ["ES_d0_main", "ES_d2_LIFminus", "ES_d4_LIFminus", "ES_d7_LIFminus"]
    body = archive_of({f"GSM_{name}.csv.bz2": bz2.compress(text.encode()) for name in names}, "w")
    with pytest.raises(ValueError, match="Expected the published format of 'mouse_es'") as error:
        serve("mouse_es", {"archive": body}, n_cells=8, n_genes=8, n_types=4)
    assert found in str(error.value)
    assert str(tmp_path / "GSE65525_RAW.tar") in str(error.value)


def test_other_files_than_expected_are_refused_and_not_recorded(serve, tmp_path):
    with pytest.raises(ValueError, match="Expected the published format of 'mouse_es'"):
        serve("mouse_es", {"archive": b"<html>moved</html>"}, n_cells=8, n_genes=8, n_types=4)
    # What the message says works: the next file need not have the checksum of the damaged one.
    (tmp_path / "GSE65525_RAW.tar").unlink()
    with pytest.raises(ValueError, match="Expected one file that matches"):
        serve("mouse_es", {"archive": archive_of({"a.csv": b""}, "w")}, n_cells=8, n_genes=8, n_types=4)


def test_values_that_are_no_counts_are_refused(serve):
    x = counts(2) + 0.5
    names = ["ES_d0_main", "ES_d2_LIFminus", "ES_d4_LIFminus", "ES_d7_LIFminus"]
    table = bz2.compress(genes_by_cells(x, ",").encode())
    body = archive_of({f"GSM_{name}.csv.bz2": table for name in names}, "w")
    with pytest.raises(ValueError, match="Expected whole counts in the files of 'mouse_es'"):
        serve("mouse_es", {"archive": body}, n_cells=8, n_genes=8, n_types=4)


def test_streamed_tables_equal_those_of_pandas():
    x = counts(30, n_genes=50)
    genes, cells = [f"g{i}" for i in range(50)], [f"c{i}" for i in range(30)]
    for header in (cells, ["gene", *cells]):
        text = genes_by_cells(x, "\t", genes=genes, header=header, quoted=True)
        theirs = pd.read_csv(io.StringIO(text), sep="\t", index_col=0)
        found, names, values = _readers._genes_by_cells(io.StringIO(text), "\t")
        assert found.tolist() == theirs.index.tolist()
        assert names == theirs.columns.tolist()
        np.testing.assert_array_equal(values.toarray(), theirs.to_numpy().T)


def test_table_of_sets_is_that_of_the_paper():
    table = datasets.available()
    assert table["in_paper"].sum() == 9
    assert table.index.is_unique
    for name in table.index[table["bundled"]]:
        adata = datasets.load(name)
        row = table.loc[name]
        seen = int((adata.X.getnnz(0) > 0).sum())
        assert (row["n_cells"], row["n_genes"], row["n_types"]) == (adata.n_obs, seen, adata.obs["cell_type"].nunique())


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(ValueError, match=r"Expected one of \['pbmc3k', 'worm_neurons', 'camp', .*found 'pbmc'"):
        datasets.load("pbmc")
