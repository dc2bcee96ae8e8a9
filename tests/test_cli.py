"""The command line: what it writes, and what it says to bad input."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

import scgpcl
from scgpcl import _files, _keys, _workflow, datasets, metrics, presets, tl
from scgpcl._report import _describe
from scgpcl.cli import app


@pytest.fixture(autouse=True)
def _close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def run():
    """Run the command with words as a shell would pass them."""

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})

    return invoke


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Every eighth or so of the bundled cells, with the genes that have the most counts and a batch."""
    adata = datasets.pbmc3k()
    chosen = np.sort(np.random.default_rng(0).choice(adata.n_obs, 300, replace=False))
    genes = np.sort(np.argsort(-adata.X.sum(axis=0).A1)[:800])
    adata = adata[chosen, genes].copy()
    adata.obs["batch"] = pd.Categorical(["a", "b"] * 150)
    return adata


@pytest.fixture
def input_path(cells, tmp_path) -> Path:
    path = tmp_path / "in.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture
def stub(monkeypatch):
    """A model that names clusters at once; `stub.calls` says with what it was made and trained."""
    calls = SimpleNamespace(setup=None, init=None, train=None, fail=None)

    class Model:
        history_ = {"train_loss_epoch": pd.DataFrame({"train_loss_epoch": [2.0, 1.0]})}

        @staticmethod
        def setup_anndata(adata, **kwargs):
            calls.setup = kwargs
            adata.obs["_scvi_batch"] = 0
            adata.uns["_scvi_uuid"] = "id"

        def __init__(self, adata, n_clusters=None, **kwargs):
            calls.init = {"n_clusters": n_clusters, **kwargs}
            self.adata, self.n_clusters = adata, n_clusters or 3

        def train(self, **kwargs):
            calls.train = kwargs
            if calls.fail is not None:
                raise calls.fail
            n_obs = self.adata.n_obs
            codes = np.sort(np.arange(n_obs) % self.n_clusters)
            self.adata.obs[_keys.CLUSTER] = pd.Categorical(codes.astype(str))
            self.adata.obsm[_keys.LATENT] = np.random.default_rng(0).normal(codes[:, None], 0.1, (n_obs, 4))

    monkeypatch.setattr(_workflow, "SCGPCL", Model)
    return calls


def assert_refused(result, *words):
    """A last line that says what was wrong, exit code 2 and no traceback."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert [line.startswith("Error: Expected") for line in lines] == [False] * (len(lines) - 1) + [True], result.stderr
    for word in words:
        assert str(word) in lines[-1]
    assert result.stdout == ""


# what it does


def test_real_run_annotates_and_draws(run, cells, input_path, tmp_path, monkeypatch):
    short = {"pretrain_max_epochs": 3, "cluster_max_epochs": 2}
    monkeypatch.setitem(_workflow.PRESETS, "default", {"model": {}, "train": short})
    output, figures = tmp_path / "out.h5ad", tmp_path / "figures"
    words = ("cluster", input_path, "-o", output, "--n-clusters", 4, "--layer", "counts", "--batch-key", "batch")
    more = ("--levels", "2,1,5,900", "--report", tmp_path / "report.html", "--model", tmp_path / "model", "--stability")
    result = run(*words, "--figures", figures, *more)
    assert result.exit_code == 0, result.output
    assert "Skipped --levels 900" in result.stderr

    written = ad.read_h5ad(output)
    assert (written.X != cells.X).nnz == 0
    assert (written.layers["counts"] != cells.layers["counts"]).nnz == 0
    levels = [f"scgpcl_level_{number}" for number in (1, 2, 5)]
    new = {_keys.CLUSTER, _keys.CONFIDENCE, *levels}
    assert set(written.obs) - set(cells.obs) == new
    assert set(written.uns) - set(cells.uns) == {_keys.UNS, _keys.UMAP}
    assert written.obs[list(cells.obs)].equals(cells.obs)
    assert set(written.obsm) == {_keys.LATENT, _keys.PROBABILITY, _keys.UMAP}
    sizes = written.obs[_keys.CLUSTER].value_counts(sort=False)
    assert sizes.is_monotonic_decreasing
    assert len(sizes) <= 4
    assert metrics.ari(written.obs["cell_type"], written.obs[_keys.CLUSTER]) > 0.2
    for coarse, fine in ((levels[0], levels[1]), (levels[1], _keys.CLUSTER), (_keys.CLUSTER, levels[2])):
        assert (written.obs.groupby(fine, observed=True)[coarse].nunique() == 1).all()

    table = pd.read_csv(figures / "clusters.csv", dtype={"cluster": str})
    assert table["cluster"].tolist() == list(sizes.index)
    assert table["size"].tolist() == sizes.tolist()
    stability = written.uns[_keys.UNS]["stability"]
    np.testing.assert_allclose(table["halves"], stability.loc[sizes.index, "halves"], atol=1e-4)
    assert "confused with" in result.stdout
    for name in ("umap.png", "history.png", "markers.png"):
        assert (figures / name).read_bytes().startswith(b"\x89PNG")
        assert str(figures / name) in result.stdout
    names = ["figures", "in.h5ad", "model", "out.h5ad", "report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.h5"]
    finer = run("cut", tmp_path / "model", input_path, "-o", tmp_path / "finer.h5ad", "--n", 5)
    assert finer.exit_code == 0, finer.output
    cut = ad.read_h5ad(tmp_path / "finer.h5ad").obs
    assert metrics.ari(cut[_keys.CLUSTER], written.obs[levels[2]]) == 1.0
    assert_refused(run(*words[:3], tmp_path / "other.h5ad", "--model", tmp_path / "model"), "model.h5", "--force")
    page = (tmp_path / "report.html").read_text()
    assert "Confused with" in page
    assert [f'"name":"{level}"' in page for level in levels] == [True] * 3


def test_options_reach_the_model(run, stub, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    words = ("--n-clusters", 5, "--layer", "counts", "--batch-key", "batch", "--seed", 7, "--preset", "paper")
    assert run("cluster", input_path, "-o", output, *words).exit_code == 0
    assert stub.setup == {"layer": "counts", "batch_key": "batch"}
    assert stub.init == {"n_clusters": 5, "seed": 7, **presets.PAPER["model"]}
    assert stub.train == presets.PAPER["train"]

    assert run("cluster", input_path, "-o", output, "--force").exit_code == 0
    assert stub.setup == {"layer": "counts", "batch_key": None}
    assert stub.init == {"n_clusters": None, "seed": 0}
    assert run("cluster", input_path, "-o", output, "--force", "--n-clusters", "auto").exit_code == 0
    assert stub.init == {"n_clusters": None, "seed": 0}
    assert stub.train == {}


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_many_counts_stay_on_disk_and_are_copied_as_they_are(run, stub, cells, tmp_path, monkeypatch, kind):
    cells = cells.copy()
    del cells.layers["counts"]
    cells.uns["kept"], cells.obsm["kept"], cells.layers["kept"] = {"a": 1}, np.ones((300, 2)), cells.X.copy()
    path = tmp_path / f"in.{kind}"
    if kind == "zarr":
        pytest.importorskip("zarr")
        cells.write_zarr(path)
    else:
        cells.write_h5ad(path, compression="lzf")
    outputs = [tmp_path / "memory.h5ad", tmp_path / "disk.h5ad"]
    backed = []
    setup = _workflow.SCGPCL.setup_anndata
    on_disk = lambda adata: not isinstance(adata.X, sparse.csr_matrix)
    monkeypatch.setattr(
        _workflow.SCGPCL, "setup_anndata", staticmethod(lambda a, **kw: backed.append(on_disk(a)) or setup(a, **kw))
    )
    monkeypatch.setattr(_files, "COPIED_VALUES", 1000)
    for output, many in zip(outputs, (cells.X.nnz, cells.X.nnz - 1), strict=True):
        monkeypatch.setattr(_files, "MANY_VALUES", many)
        assert run("cluster", path, "-o", output).exit_code == 0
    assert backed == [False, True]
    memory, disk = map(ad.read_h5ad, outputs)
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(memory, name), getattr(disk, name))
    assert _keys.UMAP in memory.obsm
    assert set(memory.obsm) == set(disk.obsm)
    for name in ("obsm", "layers"):
        ours, theirs = getattr(disk, name), getattr(memory, name)
        assert all(
            np.array_equal(*(np.asarray(sparse.csr_matrix(m[key]).todense()) for m in (ours, theirs))) for key in ours
        )
    assert disk.uns["kept"] == {"a": 1}
    assert (disk.X != cells.X).nnz == 0
    if kind == "h5ad":
        with h5py.File(path) as source, h5py.File(outputs[1]) as copy:
            assert copy["X/data"].compression == source["X/data"].compression == "lzf"


def test_many_cells_have_a_map_only_with_figures(run, stub, input_path, tmp_path, monkeypatch):
    monkeypatch.setattr(_workflow, "MAX_MAP_CELLS", 299)
    assert run("cluster", input_path, "-o", tmp_path / "plain.h5ad").exit_code == 0
    assert run("cluster", input_path, "-o", tmp_path / "drawn.h5ad", "--figures", tmp_path / "figures").exit_code == 0
    assert [_keys.UMAP in ad.read_h5ad(tmp_path / name).obsm for name in ("plain.h5ad", "drawn.h5ad")] == [False, True]


def test_many_counts_are_read_where_more_than_the_cells_is_wanted(run, stub, input_path, tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "MANY_VALUES", 0)
    monkeypatch.setattr(_workflow, "read_large", lambda path: pytest.fail("left on disk"))
    for i, words in enumerate((("--min-counts", 1), ("--layer", "counts"))):
        assert run("cluster", input_path, "-o", tmp_path / f"out{i}.h5ad", *words).exit_code == 0


def test_earlier_clusters_are_replaced_where_counts_come_from_raw(run, stub, cells, tmp_path):
    cells = cells.copy()
    cells.raw, cells.obs[_keys.CLUSTER] = cells.copy(), "old"
    cells.X = np.log1p(cells.X)
    cells.write_h5ad(tmp_path / "in.h5ad")
    assert run("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad", "--raw").exit_code == 0
    assert set(ad.read_h5ad(tmp_path / "out.h5ad").obs[_keys.CLUSTER]) == {"0", "1", "2"}


def test_output_replaces_an_older_file_and_keeps_no_registration(run, stub, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    output.write_text("old")
    result = run("cluster", input_path, "-o", output, "--force")
    assert result.exit_code == 0
    assert str(output) in result.stdout
    written = ad.read_h5ad(output)
    assert _keys.CLUSTER in written.obs
    assert not [name for name in [*written.obs, *written.uns] if name.startswith("_scvi")]


def test_demo_leaves_its_files_and_shows_scores(run, stub, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(_workflow.datasets, "pbmc3k", cells.copy)
    out = tmp_path / "demo"
    result = run("demo", "--out", out, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert stub.init["n_clusters"] == cells.obs["cell_type"].nunique()
    assert stub.init["seed"] == 3
    assert stub.setup["layer"] == "counts"
    names = ["clusters.csv", "comparison.png", "history.png", "markers.png", "pbmc3k_scgpcl.h5ad", "umap.png"]
    assert sorted(path.name for path in out.iterdir()) == names

    written = ad.read_h5ad(out / "pbmc3k_scgpcl.h5ad")
    ari = metrics.ari(written.obs["cell_type"], written.obs[_keys.CLUSTER])
    assert f"ARI {ari:.3f}" in result.stdout
    assert "NMI" in result.stdout
    assert "ACC" in result.stdout
    table = pd.read_csv(out / "clusters.csv", dtype={"cluster": str})
    assert list(table) == ["cluster", "size", "markers", "closest_type", "share"]
    assert table["size"].sum() == cells.n_obs
    for closest in table["closest_type"]:
        assert closest in result.stdout


def test_version(run):
    from scgpcl import __version__

    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"scgpcl {__version__}\n"


@pytest.mark.parametrize(
    "words", [("--help",), ("demo", "--help"), ("cluster", "--help"), ("cut", "--help"), ("subcluster", "--help")]
)
def test_help(run, words):
    result = run(*words)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("n_cells", [3, 6])
def test_figures_of_very_few_cells(run, stub, cells, tmp_path, n_cells):
    cells[:n_cells].copy().write_h5ad(tmp_path / "in.h5ad")
    words = ("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad", "--n-clusters", 2)
    result = run(*words, "--figures", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "figures" / "umap.png").exists()


def test_two_cells_have_no_map(run, stub, cells, tmp_path):
    cells[:2].copy().write_h5ad(tmp_path / "in.h5ad")
    words = ("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad", "--n-clusters", 2)
    result = run(*words, "--figures", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["clusters.csv", "history.png"]


# what it refuses


def test_refuses_a_missing_or_foreign_input(run, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    assert_refused(run("cluster", tmp_path / "no.h5ad", "-o", output), "no.h5ad", "Check the path")
    assert_refused(run("cluster", tmp_path, "-o", output), "found a folder")
    text = tmp_path / "text.h5ad"
    text.write_text("gene,cell\n")
    assert_refused(run("cluster", text, "-o", output), text)
    truncated = tmp_path / "truncated.h5ad"
    truncated.write_bytes(input_path.read_bytes()[:5000])
    assert_refused(run("cluster", truncated, "-o", output), truncated)
    other = tmp_path / "other.h5ad"
    with h5py.File(other, "w") as file:
        file["matrix"] = np.ones(3)
    assert_refused(run("cluster", other, "-o", output), "without obs and var")
    broken = tmp_path / "broken.h5ad"
    broken.write_bytes(input_path.read_bytes())
    with h5py.File(broken, "a") as file:
        del file["X/indices"]
    assert_refused(run("cluster", broken, "-o", output), broken)
    assert not output.exists()


def test_refuses_an_unusable_output(run, input_path, tmp_path):
    before = input_path.read_bytes()
    assert_refused(run("cluster", input_path, "-o", input_path), "Choose another name")
    link = tmp_path / "link.h5ad"
    link.symlink_to(input_path)
    assert_refused(run("cluster", input_path, "-o", link), "Choose another name")
    assert_refused(run("cluster", input_path, "-o", tmp_path / "no" / "out.h5ad"), tmp_path / "no", "Make it first")
    assert_refused(run("cluster", input_path, "-o", tmp_path / "out.csv"), ".h5ad", "out.csv")
    folder = tmp_path / "folder.h5ad"
    folder.mkdir()
    assert_refused(run("cluster", input_path, "-o", folder), "found a folder")
    assert input_path.read_bytes() == before


def test_refuses_unusable_figure_folders(run, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    words = ("cluster", input_path, "-o", output, "--figures")
    assert_refused(run(*words, input_path), "found a file")
    assert_refused(run(*words, tmp_path / "no" / "figures"), "Make it first")
    assert_refused(run("demo", "--out", input_path), "found a file")
    assert not output.exists()


def test_refuses_a_folder_that_cannot_be_written_to(run, input_path, tmp_path, monkeypatch):
    monkeypatch.setattr(_files.os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(run("cluster", input_path, "-o", tmp_path / "out.h5ad"), "can be written to", tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--layer", "raw_counts"), "raw_counts"),
        (("--batch-key", "plate"), "plate"),
        (("--n-clusters", 301), "300"),
        (("--n-clusters", 1), "1"),
        (("--n-clusters", -3), "-3"),
        (("--n-clusters", "many"), "auto or a whole number, found 'many'"),
    ],
    ids=["layer", "batch", "too many", "one", "negative", "word"],
)
def test_refuses_bad_arguments_of_the_model(run, input_path, tmp_path, words, expected):
    result = run("cluster", input_path, "-o", tmp_path / "out.h5ad", "--figures", tmp_path / "figures", *words)
    assert_refused(result, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad"]


@pytest.mark.parametrize("bad", [-1.0, 0.5, np.nan, np.inf])
def test_refuses_values_that_are_not_counts(run, cells, tmp_path, bad):
    adata = ad.AnnData(cells.X.copy(), obs=cells.obs, var=cells.var)
    adata.X.data[3] = bad
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert_refused(run("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad"]


def test_refuses_a_file_without_counts(run, tmp_path):
    ad.AnnData(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["x"])).write_h5ad(tmp_path / "in.h5ad")
    assert_refused(run("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad"))


def test_misspelt_options_are_usage_errors(run, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    for words in (("--preset", "best"), ("--seed", "-1"), ("--seed", "one"), ("--clusters", "3")):
        result = run("cluster", input_path, "-o", output, *words)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert run("cluster", input_path).exit_code == 2
    assert not output.exists()


# what a failure leaves behind


def test_failed_training_leaves_nothing_and_is_not_hidden(run, stub, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    output.write_text("old")
    stub.fail = RuntimeError("a defect")
    result = run("cluster", input_path, "-o", output, "--figures", tmp_path / "figures", "--force")
    # A defect of the package keeps its traceback.
    assert isinstance(result.exception, RuntimeError)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


def test_failed_writing_leaves_the_older_file(run, stub, input_path, tmp_path, monkeypatch):
    output = tmp_path / "out.h5ad"
    output.write_text("old")

    def full(self, path, **kwargs):
        Path(path).write_text("half")
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(ad.AnnData, "write_h5ad", full)
    assert_refused(run("cluster", input_path, "-o", output, "--force"), "No space left on device", output)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_output_has_the_usual_file_mode(run, stub, input_path, tmp_path):
    assert run("cluster", input_path, "-o", tmp_path / "out.h5ad").exit_code == 0
    assert (tmp_path / "out.h5ad").stat().st_mode == input_path.stat().st_mode


# pieces


@pytest.fixture(scope="module")
def typed(cells):
    adata = cells.copy()
    codes = {name: str(i) for i, name in enumerate(adata.obs["cell_type"].cat.categories)}
    adata.obs["group"] = pd.Categorical(adata.obs["cell_type"].map(codes).astype(str))
    return adata


def test_table_has_the_markers_of_the_published_types(typed):
    genes = tl.top_markers(_describe.rank(typed, "group", layer="counts"))
    table = _describe.cluster_table(typed, "group", "cell_type", genes=genes).set_index("closest_type")
    assert (table["share"] == 1).all()
    assert table["size"].to_dict() == typed.obs["cell_type"].value_counts().to_dict()
    assert {"CD79A", "CD79B"} & set(table.loc["B", "markers"].split(", "))
    assert {"S100A8", "S100A9", "LYZ"} & set(table.loc["CD14+ Mono", "markers"].split(", "))
    assert {"GZMB", "NKG7", "GNLY", "PRF1"} & set(table.loc["NK", "markers"].split(", "))


def test_a_single_cell_and_a_single_cluster_have_no_markers(typed):
    adata = typed.copy()
    adata.obs["group"] = pd.Categorical(["1"] + ["0"] * (adata.n_obs - 1))
    assert tl.top_markers(_describe.rank(adata, "group"))["1"] == []
    adata.obs["group"] = pd.Categorical(["0"] * adata.n_obs)
    assert _describe.rank(adata, "group") is None
    assert _describe.cluster_table(adata, "group", genes={}).to_dict("records") == [
        {"cluster": "0", "size": adata.n_obs, "markers": ""}
    ]


def test_table_with_partly_missing_types():
    obs = pd.DataFrame(
        {"group": pd.Categorical(list("00011")), "type": pd.Categorical(["a", "a", None, None, None])},
        index=list("vwxyz"),
    )
    table = _describe.cluster_table(ad.AnnData(sparse.csr_matrix((5, 1)), obs=obs), "group", "type")
    assert table["closest_type"].tolist() == ["a", None]
    assert table["share"].tolist() == pytest.approx([2 / 3, 0])


def test_names_with_brackets_are_shown_as_they_are(capsys):
    from scgpcl import cli

    table = pd.DataFrame({"cluster": ["0"], "size": [2], "closest_type": ["[bold]T"]})
    cli._report(_workflow.Result(table, [Path("a[1].h5ad")], 1.0, {}), title="x[red].h5ad")
    shown = capsys.readouterr().out
    assert "[bold]T" in shown
    assert "x[red].h5ad" in shown
    assert "a[1].h5ad" in shown


# what a shell says


def test_errors_name_options_and_not_arguments(run, stub, input_path, tmp_path):
    words = ("cluster", input_path, "-o", tmp_path / "out.h5ad")
    assert_refused(run(*words, "--layer", "raw"), "layers['raw']", "found layers 'counts'", "Leave out --layer")
    assert_refused(run(*words, "--batch-key", "plate"), "--batch-key 'plate'", "found columns 'cell_type', 'batch'")


def test_too_few_cells_are_one_line(run, cells, tmp_path):
    cells[:2].copy().write_h5ad(tmp_path / "in.h5ad")
    result = run("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad")
    assert_refused(result, "at least 3 cells", "found 2", "--n-clusters 2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad"]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Expected `n_clusters` to be at least 2. Pass None to estimate it.", "Expected --n-clusters to be at least 2. Leave it out to estimate it."),
        ("Pass `layer=None` to use X, or name one with `layer=`.", "Leave out --layer to use X, or name one with --layer."),
        ("Name one, or pass `batch_key=None`.", "Name one, or leave out --batch-key."),
        ("found 1. Pass `n_clusters=2`.", "found 1. Pass --n-clusters 2."),
        ("found 7 empty cells. Remove them: `sc.pp.filter_cells(adata, min_counts=1)`.", "found 7 empty cells. Pass --min-counts 1 to leave them out."),
        ("pass `layer='umi counts'` if", "pass --layer umi counts if"),
        ("Call `adata.obs_names_make_unique()`, `scib` or `x`.", "Call `adata.obs_names_make_unique()`, --scib or `x`."),
    ],
)  # fmt: skip
def test_arguments_become_options(message, shown):
    from scgpcl import cli

    assert cli._for_shell(message) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("found 7 empty cells. Remove them: `sc.pp.filter_cells(adata, min_counts=1)`.", "found 7 empty cells. Remove them: `sc.pp.filter_cells(adata, min_counts=1)`."),
        ("found 2 missing. Check their names. If so, pass a larger `max_missing`.", "found 2 missing. Check their names."),
        ("found 'c'. Pass `transform_batch='p1.v2'` to treat it so, or train a model with it.", "found 'c'. Train a model with it."),
        ("found none. Rename yours, or pass `transform_batch='a'` to treat them so.", "found none. Rename yours."),
        ("found -1. Scaled data is not supported: pass the layer with raw counts as `layer=`.", "found -1. Scaled data is not supported."),
        ("A batch was not in training. Pass `transform_batch=` to name a batch.", "A batch was not in training."),
        ("Expected columns (`batch_key='donor'`), found none. Pass `n=2` or `seed`.", "Expected columns (`batch_key='donor'`), found none. Pass --n 2 or --seed."),
    ],
)  # fmt: skip
def test_advice_to_pass_an_option_that_a_command_lacks_is_left_out(message, shown):
    from scgpcl import cli

    assert cli._for_shell(message, {"n", "seed"}) == shown


def test_arguments_that_become_options_are_options():
    import typer

    from scgpcl import cli

    commands = typer.main.get_command(app).commands.values()
    named = {option for command in commands for one in command.params for option in one.opts}
    assert {f"--{name.replace('_', '-')}" for name in cli.OPTIONS} <= named


@pytest.mark.parametrize("words", [("cluster", "no.h5ad", "-o", "out.h5ad"), ("benchmark", "no.h5ad")])
def test_a_missing_input_is_told_before_the_slow_imports(words, tmp_path):
    code = (
        "import sys; from scgpcl.cli import app\n"
        f"try: app({list(words)})\n"
        "finally: print(sorted({'anndata', 'torch', 'scvi', 'scanpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Expected an h5ad")
    assert "found nothing at no.h5ad. Check the path." in done.stderr
    assert done.stdout.strip() == "[]"


def test_several_inputs_are_batches(run, stub, cells, tmp_path):
    for name, part in (("a", cells[:100]), ("b", cells[100:])):
        part.copy().write_h5ad(tmp_path / f"{name}.h5ad")
    result = run("cluster", tmp_path / "a.h5ad", tmp_path / "b.h5ad", "-o", tmp_path / "out.h5ad", "--n-clusters", 3)
    assert result.exit_code == 0, result.output
    assert stub.setup == {"layer": None, "batch_key": "sample"}  # the files have another column called "batch"
    obs = ad.read_h5ad(tmp_path / "out.h5ad").obs
    assert obs["sample"].value_counts().to_dict() == {"b": 200, "a": 100}
    assert obs["batch"].value_counts().to_dict() == {"a": 150, "b": 150}
    assert "Read 100 cells" in result.stderr
    assert "layers['counts']" in result.stderr


def test_empty_cells_have_an_option(run, stub, cells, tmp_path):
    adata = ad.AnnData(sparse.vstack([sparse.csr_matrix((7, cells.n_vars)), cells.X[7:]], format="csr"))
    adata.write_h5ad(tmp_path / "in.h5ad")
    words = ("cluster", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad", "--n-clusters", 3)
    result = run(*words, "--min-counts", 1)
    assert result.exit_code == 0, result.output
    assert "Left out 7 cells" in result.stderr
    assert ad.read_h5ad(tmp_path / "out.h5ad").n_obs == cells.n_obs - 7


def test_quiet_prints_nothing(run, stub, input_path, tmp_path):
    output = tmp_path / "out.h5ad"
    result = run("cluster", input_path, "-o", output, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert stub.train == {"enable_progress_bar": False}
    assert_refused(run("cluster", input_path, "-o", output, "--quiet"), "--force")
    said = run("cluster", input_path, "-o", output, "--force", "--figures", tmp_path / "figures").stderr
    for step in ("Read 300 cells", "Ranking marker genes", f"Wrote {output}", "umap.png"):
        assert step in said


def test_markers_name_the_clusters(run, stub, input_path, tmp_path):
    markers, out = tmp_path / "markers.csv", tmp_path / "out.h5ad"
    markers.write_text("cell type,gene\nB,CD79A\nT,CD3D\nMono,LST1\nDC,no such gene\n")
    result = run("cluster", input_path, "-o", out, "--n-clusters", 4, "--markers", markers)
    assert result.exit_code == 0, result.output
    found = ad.read_h5ad(out)
    assert set(found.obs[_keys.NAME]) <= {"B", "T", "Mono", "unknown"}
    assert "name" in result.output
    markers.write_text("a,b\n1,2\n")
    result = run("cluster", input_path, "-o", out, "--markers", markers, "--force")
    assert result.exit_code == 2
    assert "a column of types" in result.output


@pytest.fixture(scope="module")
def saved(cells, tmp_path_factory) -> Path:
    """Folder of a model of the first cells, with these cells."""
    path = tmp_path_factory.mktemp("saved") / "model"
    reference = cells[:200].copy()
    scgpcl.SCGPCL.setup_anndata(reference, layer="counts")
    model = scgpcl.SCGPCL(reference, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(path, save_anndata=True)
    return path


def test_a_saved_model_labels_other_cells(run, cells, saved, tmp_path):
    query_path, out = tmp_path / "query.h5ad", tmp_path / "out.h5ad"
    model = scgpcl.SCGPCL.load(saved, False, accelerator="cpu")
    query = cells[200:].copy()
    query.layers["raw"], query.X = query.X.copy(), np.log1p(query.X)
    query.write_h5ad(query_path)
    result = run("map", saved, query_path, "-o", out)
    assert result.exit_code == 0, result.output
    found = ad.read_h5ad(out)
    assert found.obs[_keys.CLUSTER].astype(str).tolist() == list(model.predict(cells[200:].copy()))
    assert _keys.LATENT in found.obsm
    np.testing.assert_array_equal(found.layers["raw"].toarray(), query.layers["raw"].toarray())
    novel = model.get_novelty(cells[200:].copy()) > 0.5
    result = run("map", saved, query_path, "-o", out, "--force", "--max-novelty", 0.5)
    assert result.exit_code == 0, result.output
    assert ((ad.read_h5ad(out).obs[_keys.CLUSTER] == "unassigned") == novel).all()
    before = out.read_bytes()
    for words, expected in (
        (("map", tmp_path / "none", query_path, "-o", out, "--force"), "saved model"),
        (("map", saved, query_path, "-o", out), "--force"),
        (("map", saved, query_path, "-o", out, "--force", "--transform-batch", "z"), "--transform-batch"),
    ):
        result = run(*words)
        assert result.exit_code == 2, words
        assert expected in result.output
        assert out.read_bytes() == before


@pytest.mark.filterwarnings("ignore:A batch was not in training")
def test_files_that_do_not_name_their_batch_are_batches(run, cells, tmp_path):
    """A file is the batch of its name, known or new, whether it is read alone or with others."""
    reference = cells[:180].copy()
    reference.obs["donor"] = np.repeat(["p1", "p2"], 90)
    scgpcl.SCGPCL.setup_anndata(reference, layer="counts", batch_key="donor")
    model = scgpcl.SCGPCL(reference, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "model", save_anndata=True)
    for name, part in (("p1", cells[:90]), ("p3", cells[180:])):
        part.copy().write_h5ad(tmp_path / f"{name}.h5ad")
    named = cells[180:].copy()
    named.obs["donor"] = "p3"
    for words, wanted in (
        (("map", tmp_path / "model", tmp_path / "p1.h5ad"), model.predict()[:90]),
        (("map", tmp_path / "model", tmp_path / "p3.h5ad"), model.predict(named)),
        (
            ("map", tmp_path / "model", tmp_path / "p3.h5ad", "--transform-batch", "p2"),
            model.predict(named, transform_batch="p2"),
        ),
        (("cut", tmp_path / "model", tmp_path / "p3.h5ad", "--n", 2), model.predict(named, level=2)),
        (
            ("map", tmp_path / "model", tmp_path / "p1.h5ad", tmp_path / "p3.h5ad"),
            [*model.predict()[:90], *model.predict(named)],
        ),
    ):
        result = run(*words, "-o", tmp_path / "out.h5ad", "--force")
        assert result.exit_code == 0, result.output
        assert ad.read_h5ad(tmp_path / "out.h5ad").obs[_keys.CLUSTER].astype(str).tolist() == list(wanted), words


@pytest.mark.filterwarnings("default:A batch was not in training")
def test_warnings_are_one_line_and_name_options(run, cells, tmp_path):
    reference = cells[:180].copy()
    scgpcl.SCGPCL.setup_anndata(reference, layer="counts", batch_key="batch")
    model = scgpcl.SCGPCL(reference, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "model")
    query = cells[180:].copy()
    query.obs["batch"] = "c"
    query.write_h5ad(tmp_path / "c.h5ad")
    for words in (("map",), ("cut", "--n", 2)):
        command, *more = words
        result = run(command, tmp_path / "model", tmp_path / "c.h5ad", *more, "-o", tmp_path / "out.h5ad", "--force")
        assert result.exit_code == 0, result.output
        said = [line for line in result.stderr.splitlines() if "not in training" in line]
        assert len(said) == 1
        assert said[0].startswith("Warning: A batch was not in training. ")
        assert said[0].endswith(" Pass --transform-batch to name a batch.")
        result = run(
            command, tmp_path / "model", tmp_path / "c.h5ad", *more, "-o", tmp_path / "out.h5ad", "--force",
            "--transform-batch", "a",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "not in training" not in result.stderr
        labels = ad.read_h5ad(tmp_path / "out.h5ad").obs[_keys.CLUSTER].astype(str).tolist()
        level = 2 if command == "cut" else None
        assert labels == list(model.predict(query, transform_batch="a", level=level))


def test_files_are_the_batches_that_they_were_in_training(run, cells, tmp_path):
    """A new batch would be a warning, which is an error here."""
    paths = {"p1.v2": tmp_path / "p1.v2.h5ad", "p2": tmp_path / "p2" / "outs" / "filtered_feature_bc_matrix.h5"}
    paths["p2"].parent.mkdir(parents=True)
    for part, path in zip((cells[:150], cells[150:]), paths.values(), strict=True):
        part.copy().write_h5ad(path)
    reference = scgpcl.read(list(paths.values()))
    scgpcl.SCGPCL.setup_anndata(reference, batch_key="sample")
    model = scgpcl.SCGPCL(reference, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "model")
    for name, path in paths.items():
        for words in (("map",), ("cut", "--n", 2), ("subcluster", "--n", 2)):
            command, *options = words
            cluster = ["0"] if command == "subcluster" else []
            result = run(command, tmp_path / "model", *cluster, path, *options, "-o", tmp_path / "out.h5ad", "--force")
            assert result.exit_code == 0, result.output
            assert set(ad.read_h5ad(tmp_path / "out.h5ad").obs["sample"]) == {name}


def test_a_saved_model_labels_cells_at_another_level(run, cells, saved, tmp_path):
    query_path, out = tmp_path / "query.h5ad", tmp_path / "out.h5ad"
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    result = run("cut", saved, "--n", 5, "-o", out)  # the cells of the model
    assert result.exit_code == 0, result.output
    found = ad.read_h5ad(out)
    model = scgpcl.SCGPCL.load(saved, accelerator="cpu")
    assert found.obs[_keys.CLUSTER].astype(str).tolist() == list(model.predict(level=5))
    assert not [name for name in [*found.obs, *found.uns] if name.startswith("_scvi")]

    query = cells[200:].copy()
    query.write_h5ad(query_path)
    result = run("cut", saved, query_path, "--n-clusters", 2, "-o", out, "--force")
    assert result.exit_code == 0, result.output
    labels = ad.read_h5ad(out).obs[_keys.CLUSTER].astype(str)
    assert labels.tolist() == list(model.predict(query, level=2))
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before

    written = out.read_bytes()
    words = ("cut", saved, "-o", out, "--force")
    assert_refused(run(*words), "--n-clusters", "--support", "found neither")
    assert_refused(run(*words, "--n", 2, "--support", 0.9), "found both")
    assert_refused(run(*words, "--n", 99), "--n-clusters", "from 1 to", "found 99. Choose one of these.")
    assert_refused(run("cut", saved, "--n", 2, "-o", out), "--force")
    assert_refused(run("cut", saved, "--n", 2, "-o", saved / "adata.h5ad", "--force"), "another output file")
    assert out.read_bytes() == written
    shutil.copytree(saved, tmp_path / "alone", ignore=lambda *_: ["adata.h5ad"])
    assert_refused(run("cut", tmp_path / "alone", "--n", 2, "-o", out, "--force"), "files with cells", "alone")


def test_a_saved_model_divides_a_cluster(run, cells, saved, tmp_path):
    query_path, out = tmp_path / "query.h5ad", tmp_path / "out.h5ad"
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    result = run("subcluster", saved, "0", "--n", 2, "-o", out)  # the cells of the model
    assert result.exit_code == 0, result.output
    found = ad.read_h5ad(out)
    model = scgpcl.SCGPCL.load(saved, accelerator="cpu")
    model.subcluster("0", 2)
    assert found.obs[_keys.CLUSTER].astype(str).tolist() == list(model.predict())
    assert "0.a" in result.output
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before

    query = cells[:150].copy()
    query.write_h5ad(query_path)
    assert run("subcluster", saved, "0", query_path, "--n", 2, "-o", out, "--force").exit_code == 0
    assert ad.read_h5ad(out).n_obs == 150

    written = out.read_bytes()
    words = ("subcluster", saved, "-o", out, "--force")
    assert_refused(run(*words, "9"), "CLUSTER to be one of the present clusters, '0', '1', '2', found '9'")
    assert_refused(run(*words, "0", "--n", 99), "for --n 99", "from 2 to")
    assert_refused(run(*words, "0", "--n", 1), "--n to be a whole number of at least 2, found 1")
    assert_refused(run("subcluster", saved, "0", "-o", out), "--force")
    assert out.read_bytes() == written


MODEL_COMMANDS = [("map",), ("cut", "--n", 2), ("subcluster", "--n", 2)]


@pytest.mark.parametrize("words", MODEL_COMMANDS, ids=lambda words: words[0])
def test_a_saved_model_labels_cells_that_options_choose(run, cells, saved, tmp_path, words):
    """The options that say where the counts are and which cells to use are those of `scgpcl cluster`."""
    command, *more = words
    cluster = ["0"] if command == "subcluster" else []
    out, path = tmp_path / "out.h5ad", tmp_path / "in.h5ad"
    adata = ad.AnnData(sparse.vstack([sparse.csr_matrix((7, cells.n_vars)), cells.X[7:]], format="csr"))
    adata.obs_names, adata.var_names = cells.obs_names, cells.var_names
    adata.write_h5ad(path)
    run_on = lambda path, *options: run(command, saved, *cluster, path, *more, *options, "-o", out, "--force")
    assert_refused(run_on(path), "found 7 empty cells", "Pass --min-counts 1 to leave them out")
    result = run_on(path, "--min-counts", 1)
    assert result.exit_code == 0, result.output
    assert "Left out 7 cells" in result.stderr
    found = ad.read_h5ad(out)
    assert found.obs_names.tolist() == cells.obs_names[7:].tolist()
    assert found.obs[_keys.CLUSTER].notna().all()

    other = cells.copy()
    other.raw, other.X = cells, cells.X * 2
    del other.layers["counts"]
    other.write_h5ad(path)
    result = run_on(path, "--raw")
    assert result.exit_code == 0, result.output
    assert "from raw, as requested" in result.stderr
    assert not [name for name in ad.read_h5ad(out).obs if name.startswith("_scvi")]

    table = pd.DataFrame(cells.X.toarray().astype(int), index=cells.obs_names, columns=cells.var_names)
    table.index = [f"cell{i}" for i in range(cells.n_obs)]
    table.T.to_csv(tmp_path / "in.csv")
    result = run_on(tmp_path / "in.csv", "--genes", "rows")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("words", MODEL_COMMANDS[:2], ids=lambda words: words[0])
@pytest.mark.filterwarnings("ignore:.* genes that the model uses are missing")
def test_a_saved_model_may_lack_genes(run, cells, saved, tmp_path, words):
    command, *more = words
    model = scgpcl.SCGPCL.load(saved, False, accelerator="cpu")
    few = cells[:, ~cells.var_names.isin(model.reference.selected[::3])].copy()
    few.write_h5ad(tmp_path / "in.h5ad")
    words = (command, saved, tmp_path / "in.h5ad", *more, "-o", tmp_path / "out.h5ad")
    assert_refused(run(*words), "If so, pass a larger --max-missing")
    result = run(*words, "--max-missing", 0.5)
    assert result.exit_code == 0, result.output


def test_subcluster_does_not_advise_options_that_it_lacks(run, cells, saved, tmp_path):
    model = scgpcl.SCGPCL.load(saved, False, accelerator="cpu")
    cells[:, ~cells.var_names.isin(model.reference.selected[::3])].copy().write_h5ad(tmp_path / "in.h5ad")
    result = run("subcluster", saved, "0", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad")
    assert_refused(result, "check that both data sets name genes alike")
    assert "missing`" not in result.stderr
    assert "--max-missing" not in result.stderr


@pytest.mark.parametrize("levels", ["five", "5;6", "", "0,3", "-1"])
def test_levels_that_no_tree_has_are_refused_before_training(run, input_path, tmp_path, levels):
    words = ("cluster", input_path, "-o", tmp_path / "out.h5ad", f"--levels={levels}")
    assert_refused(run(*words), "--levels", "such as --levels 5,10,20")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad"]
