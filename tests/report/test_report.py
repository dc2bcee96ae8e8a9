"""The page as a file: what is in it, and that nothing in it can do harm."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgpcl
from scgpcl import _keys
from scgpcl._report import _page

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "../../etc/passwd", "$\\frac{"]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; open tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        if "script" in self.open:
            self.scripts.append((self.tags[-1][1].get("type"), data))
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True)
def _close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def written(cells, model, folder, **kwargs):
    path = scgpcl.report(cells, model, folder / "report.html", **kwargs)
    assert sorted(one.name for one in folder.iterdir()) == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_page_has_every_section_picture_and_number(cells, model, tmp_path):
    page = Page(written(cells, model, tmp_path, label_key="type", title="My cells"))
    headings = ["map", "clusters", "quality", "markers", "about"]
    assert [attrs["id"] for attrs in page.named("h2")] == headings
    folded = {attrs["id"]: "open" not in attrs for attrs in page.named("details")}
    assert folded == {"training": True, "settings": True, "cite": False, "licences": True}
    pictures = page.named("img")
    assert len(pictures) == 4  # clusters (without WebGL), comparison, markers, history
    for picture in pictures:
        kind, data = picture["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert picture["alt"]
    text = " ".join(page.text)
    assert "My cells" in text
    for name in ("btad342", "s41587-021-01206-w", "s13059-017-1382-0", scgpcl.__version__):
        assert name in text
    assert "150" in page.text
    assert f"{np.median(cells.layers['counts'].sum(1).A1):,.0f}" in page.text


def test_table_has_the_sizes_markers_and_types_of_the_clusters(cells, model, tmp_path):
    page = Page(written(cells, model, tmp_path, label_key="type"))
    sizes = cells.obs[_keys.CLUSTER].value_counts(sort=False)
    top = scgpcl.tl.top_markers(scgpcl.tl.rank_markers(cells, layer="counts", key_added=None), 8)
    rows = page.rows[1 : 1 + len(sizes)]
    for row, (name, size) in zip(rows, sizes.items(), strict=True):
        own = cells.obs[_keys.CLUSTER] == name
        closest = cells.obs["type"][own].mode()[0]
        assert row[0] == name
        assert row[1] == str(size)
        assert float(row[3]) == pytest.approx(cells.obs[_keys.CONFIDENCE][own].mean(), abs=0.006)
        assert row[4].startswith(closest)
        assert row[5].split(", ") == (top[name] or ["none"])
    settings = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert settings["n_clusters"] == "3 (given)"
    assert settings["counts"] == "layer 'counts'"
    assert settings["n_latent"] == "8"
    assert settings["epochs of pre-training"] == "2"


def test_names_of_clusters_are_shown_where_there_are_any(cells, model, tmp_path):
    cells.obs[_keys.NAME] = pd.Categorical(["B cell & co"] * 150)
    page = Page(written(cells, model, tmp_path))
    assert page.rows[0][1] == "Name"
    assert {row[1] for row in page.rows[1 : 1 + cells.obs[_keys.CLUSTER].nunique()]} == {"B cell & co"}


def test_cells_are_not_changed(cells, model, tmp_path, untouched):
    with untouched(cells):
        written(cells, model, tmp_path, label_key="type")


def test_hostile_names_are_harmless(cells, model, tmp_path):
    names = [*HOSTILE, "x" * 20000]
    codes = np.arange(150) % len(names)
    cells.obs[_keys.CLUSTER] = pd.Categorical.from_codes(codes, names)
    cells.uns[f"{_keys.CLUSTER}_colors"] = ["red;background:url(http://x)"] * len(names)
    cells.obs["type"] = pd.Categorical.from_codes(codes[::-1], names)
    cells.obs["donor"] = pd.Categorical.from_codes(codes, names)
    cells.obs[_keys.NAME] = cells.obs["type"]
    cells.var_names = [f"{HOSTILE[i % 5]}{i}" for i in range(80)]
    text = written(cells, model, tmp_path, label_key="type", title=HOSTILE[0])
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= set(
        "html head meta title style body header main section h1 h2 p dl div dt dd table thead tbody tr th td span bdi "
        "ul li strong a img details summary pre aside label select input output canvas button script".split()
    )
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], tag
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/png;base64,")
        if "style" in attrs:
            assert len(attrs["style"]) == len("background: #000000")
    assert {attrs["href"].split("/")[2] for attrs in page.named("a")} == {"doi.org", "github.com"}
    assert not set("<>&") & set(page.scripts[0][1])  # names in the data cannot end the script
    shown = [row[0] for row in page.rows[1 : 1 + len(names)]]
    assert shown[:5] == HOSTILE
    assert len(shown[5]) == 80
    assert len(text) < 3_000_000


def test_nothing_is_asked_of_the_network_and_only_own_scripts_may_run(cells, model, tmp_path):
    text = written(cells, model, tmp_path)
    page = Page(text)
    policy = next(attrs["content"] for attrs in page.named("meta") if "http-equiv" in attrs)
    allowed = re.search(r"script-src ([^;]*)", policy)[1].split()
    digest = lambda script: f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert policy.startswith("default-src 'none';")
    assert [kind for kind, _ in page.scripts] == ["application/json", None, None]
    assert allowed == ["'unsafe-eval'", *(digest(script) for _, script in page.scripts[1:])]
    assert not page.named("link")
    for _, script in page.scripts:
        text = text.replace(script, "")
    assert "url(" not in text
    assert "@import" not in text


def test_title_comes_with_the_data(cells, tmp_path):
    assert _page.title_of(cells) == "Clusters of cells"
    assert _page.title_of(cells, "sample") == "sample"
    cells.write_h5ad(tmp_path / "blood.h5ad")
    assert _page.title_of(ad.read_h5ad(tmp_path / "blood.h5ad", backed="r")) == "blood"
    cells.uns["title"] = "From the data"
    assert _page.title_of(cells, "sample") == "From the data"


def test_methods_say_what_the_model_did(cells, model, tmp_path):
    text = " ".join(Page(written(cells, model, tmp_path)).text)
    for words in (
        "The model uses all 80 genes and corrects for batches.",
        "pre-trained for 2 epochs",
        "3 clusters (a given number) by the consensus of k-means and Leiden partitions",
        "distilled for 2 epochs",
        "starts at discriminant axes of the expression",
        "one half of a cell's molecules",
    ):
        assert words in text
    paper = SimpleNamespace(
        **{name: getattr(model, name) for name in ("init_params_", "registry", "history_", "n_clusters_", "seed_")}
    )
    paper.module = SimpleNamespace(n_genes=20, n_batch=0, temperature=np.float32(1))
    for flavor, words in {
        "discriminant": "the 20 genes that differ most between many small groups of cells",
        "pearson_residuals": "the 20 genes with the largest variance of Pearson residuals",
        "seurat": "the 20 genes with the largest normalised dispersion",
        "variance": "the 20 genes with the largest variance of counts",
    }.items():
        paper.init_params_ = {"non_kwargs": {**model.init_params_["non_kwargs"], "gene_flavor": flavor, "start": "pca"}}
        text = _page._methods(cells, paper, _keys.CLUSTER)
        assert words in text
        assert "starts at principal components" in text
    assert "by k-means on the latent vectors, refined by 2 epochs of self-training" in text
    assert "distilled" not in text


def test_one_cluster_and_no_batch(model, cells, tmp_path):
    cells.obs[_keys.CLUSTER] = pd.Categorical(["0"] * 150)
    del cells.obs["donor"]
    page = Page(written(cells, model, tmp_path))
    assert len(page.named("img")) == 2  # clusters, history
    assert page.rows[1][-1] == "none"


def test_users_style_and_figures_are_left_alone(cells, model, tmp_path):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with plt.style.context("dark_background"):
        before = dict(mpl.rcParams)
        figure = plt.figure()
        written(cells, model, tmp_path)
        assert dict(mpl.rcParams) == before
        assert plt.get_fignums() == [figure.number]


def test_older_file_is_replaced_or_left_whole(cells, model, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    scgpcl.report(cells, model, str(path))
    assert path.read_text().startswith("<!DOCTYPE html>")
    path.write_text("old")

    def full(self, *args, **kwargs):
        self.write_bytes(b"half")
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(ValueError, match="No space left"):
        scgpcl.report(cells, model, path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_refuses_bad_input_before_any_work(cells, model, tmp_path, untouched):
    path = tmp_path / "report.html"
    untrained = SimpleNamespace(is_trained_=False, history_=None)
    bare = cells.copy()
    del bare.obsm[_keys.LATENT]
    with untouched(cells):
        with pytest.raises(ValueError, match=r"ends in \.html"):
            scgpcl.report(cells, model, tmp_path / "report.pdf")
        with pytest.raises(ValueError, match="Make it first"):
            scgpcl.report(cells, model, tmp_path / "no" / "report.html")
        with pytest.raises(RuntimeError, match=r"model\.train\(\)"):
            scgpcl.report(cells, untrained, path)
        with pytest.raises(KeyError, match=r"model\.annotate"):
            scgpcl.report(cells, model, path, key="leiden")
        with pytest.raises(KeyError, match=r"model\.annotate"):
            scgpcl.report(bare, model, path)
        with pytest.raises(KeyError, match="celltype"):
            scgpcl.report(cells, model, path, label_key="celltype")
    assert list(tmp_path.iterdir()) == []


def levels_of(cells, **columns):
    return pd.DataFrame(columns, index=cells.obs_names)


REFUSED = {
    "levels that are no table": (lambda cells: {"levels": [0, 1]}, TypeError, "found list"),
    "levels without a column": (lambda cells: {"levels": levels_of(cells)}, TypeError, "found no columns"),
    "levels of other cells": (lambda cells: {"levels": levels_of(cells, a=1)[::-1]}, ValueError, "in their order"),
    "levels with gaps": (
        lambda cells: {"levels": levels_of(cells, a=[None, *"x" * 149])},
        ValueError,
        "found 1 without one",
    ),
    "levels of one name": (
        lambda cells: {"levels": pd.concat([levels_of(cells, a=1)] * 2, axis=1)},
        ValueError,
        "different names",
    ),
    "levels that are not nested": (
        lambda cells: {"levels": levels_of(cells, coarse=[*"ab"] * 75, fine=[*"xyz"] * 50)},
        ValueError,
        "found group 'x' of 'fine' in 2 groups of 'coarse'",
    ),
    "an unknown gene": (lambda cells: {"genes": ["gene1", "CD3E"]}, ValueError, "found ['CD3E']"),
    "genes that are one text": (lambda cells: {"genes": "gene1"}, TypeError, "a list of names"),
    "doublets that are no flag": (lambda cells: {"doublets": "yes"}, TypeError, "`doublets`"),
    "a title that is no text": (lambda cells: {"title": 3}, TypeError, "`title`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_bad_options(cells, model, tmp_path, untouched, case):
    options, error, words = REFUSED[case]
    with untouched(cells), pytest.raises(error) as caught:
        scgpcl.report(cells, model, tmp_path / "report.html", **options(cells))
    text = str(caught.value)
    assert text.startswith("Expected")
    assert words in text
    assert list(tmp_path.iterdir()) == []


def test_command_writes_it(tmp_path, monkeypatch, trained):
    from typer.testing import CliRunner

    from scgpcl import _workflow
    from scgpcl.cli import app

    short = {"pretrain_max_epochs": 2, "cluster_max_epochs": 1}
    monkeypatch.setitem(_workflow.PRESETS, "default", {"model": {}, "train": short})
    cells = trained[0]
    plain = cells.copy()
    for mapping in (plain.obs, plain.uns, plain.obsm, plain.var):
        for name in [name for name in mapping if "scgpcl" in name or "scvi" in name]:
            del mapping[name]
    # A map of somebody else's, so that none has to be made here.
    plain.obsm["X_umap"] = cells.obsm["X_umap"]
    plain.write_h5ad(tmp_path / "in.h5ad")
    words = ["cluster", "in.h5ad", "-o", "out.h5ad", "--n-clusters", "3", "--layer", "counts", "--batch-key", "donor"]
    words = [str(tmp_path / word) if word.endswith(".h5ad") else word for word in words]
    result = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "r.html") in result.stdout.replace("\n", "")
    page = Page((tmp_path / "r.html").read_text())
    assert len(page.named("img")) == 3  # clusters, markers, history
    refused = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "r.pdf")])
    assert refused.exit_code == 2
    assert "Error: Expected an output file that ends in .html" in refused.stderr


def test_batches_of_covariates_are_counted():
    """Every combination of the columns is a batch, with and without a ``batch_key``."""
    adata = ad.AnnData(np.random.default_rng(0).poisson(1.0, (60, 20)).astype(np.float32))
    adata.obs["study"] = pd.Categorical(np.arange(adata.n_obs) % 2 == 0)
    adata.obs["donor"] = pd.Categorical(np.arange(adata.n_obs) % 3)
    for setup, wanted in (
        ({"categorical_covariate_keys": ["study", "donor"]}, ("6", "batches (study, donor)")),
        ({"batch_key": "study"}, ("2", "batches (study)")),
    ):
        scgpcl.SCGPCL.setup_anndata(adata, **setup)
        model = scgpcl.SCGPCL(adata, 2)
        adata.obs["group"] = pd.Categorical(["a", "b"] * 30)
        batch_key = model.registration.batch_columns[0]
        assert _page._facts(adata, model, "group", layer=None, batch_key=batch_key)[-1] == wanted
