"""The page: what is in it, that nothing in it can do harm, and that a browser shows it."""

import base64
import json
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl
from scgpcl import _keys

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


@pytest.fixture(scope="module")
def trained():
    """A small trained model and its cells, with a map, so that none has to be made."""
    rng = np.random.default_rng(0)
    groups = rng.integers(3, size=150)
    mean = rng.gamma(2.0, 1.0, 80) * np.where(rng.random((3, 80)) < 0.3, 4.0, 1.0)[groups]
    x = sp.csr_matrix(rng.poisson(mean).astype(np.float32))
    adata = ad.AnnData(sp.csr_matrix(x.shape, dtype=np.float32), layers={"counts": x})
    adata.obs_names = [f"cell{i}" for i in range(150)]
    adata.var_names = [f"gene{i}" for i in range(80)]
    adata.obs["type"] = pd.Categorical([f"type {g}" for g in groups])
    adata.obs["donor"] = ["one", "two", "three"] * 50
    scgpcl.SCGPCL.setup_anndata(adata, layer="counts", batch_key="donor")
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(pretrain_max_epochs=2, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    adata.obsm["X_umap"] = adata.obsm["X_scgpcl"][:, :2].copy()
    return adata, model


@pytest.fixture
def cells(trained):
    return trained[0].copy()


@pytest.fixture
def model(trained):
    return trained[1]


def written(cells, model, folder, **kwargs):
    path = scgpcl.report(cells, model, folder / "report.html", **kwargs)
    assert sorted(one.name for one in folder.iterdir()) == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_page_has_every_section_picture_and_number(cells, model, tmp_path):
    page = Page(written(cells, model, tmp_path, label_key="type", title="My cells"))
    headings = ["data", "map", "clusters", "markers", "training", "settings", "cite"]
    assert [attrs["id"] for attrs in page.named("h2")] == headings
    pictures = page.named("img")
    assert len(pictures) == 6  # clusters, confidence, batch, comparison, markers, history
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
        "ul li strong a img".split()
    )
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], tag
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/png;base64,")
        if "style" in attrs:
            assert len(attrs["style"]) == len("background: #000000")
    assert {attrs["href"].split("/")[2] for attrs in page.named("a")} == {"doi.org", "github.com"}
    shown = [row[0] for row in page.rows[1 : 1 + len(names)]]
    assert shown[:5] == HOSTILE
    assert len(shown[5]) == 80
    assert len(text) < 3_000_000


def test_nothing_is_asked_of_the_network_and_no_script_runs(cells, model, tmp_path):
    text = written(cells, model, tmp_path)
    page = Page(text)
    policy = next(attrs["content"] for attrs in page.named("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy
    assert not page.named("script")
    assert not page.named("link")
    assert "url(" not in text
    assert "@import" not in text


def test_one_cluster_and_no_batch(model, cells, tmp_path):
    cells.obs[_keys.CLUSTER] = pd.Categorical(["0"] * 150)
    del cells.obs["donor"]
    page = Page(written(cells, model, tmp_path))
    assert len(page.named("img")) == 3  # clusters, confidence, history
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
    assert len(page.named("img")) == 5
    refused = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "r.pdf")])
    assert refused.exit_code == 2
    assert "Error: Expected an output file that ends in .html" in refused.stderr


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: What the page looks like from inside; only the test's copy may run it.
PROBE = """<script>addEventListener("load", () => {
  const pictures = [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width]);
  const color = getComputedStyle(document.body);
  document.documentElement.setAttribute("data-probe", JSON.stringify({pictures, inner: innerWidth,
    scroll: document.documentElement.scrollWidth, text: color.color, paper: color.backgroundColor,
    asked: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length}));
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [500, 1200])
def test_in_a_browser(cells, model, tmp_path, width):
    names = [f"{text} {'long name ' * 30}" for text in HOSTILE]
    cells.obs["type"] = pd.Categorical.from_codes(np.arange(150) % 5, names)
    path = scgpcl.report(cells, model, tmp_path / "report.html", label_key="type", title="W" * 500)
    text = path.read_text()
    policy = text[text.index("<meta http-equiv") : text.index(">", text.index("<meta http-equiv")) + 1]
    path.write_text(text.replace(policy, "").replace("</body>", f"{PROBE}</body>"))
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            *(f"--disable-{name}" for name in quiet),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900",
            "--virtual-time-budget=5000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    probe = next(dict(attrs)["data-probe"] for attrs in attributes_in(done.stdout) if "data-probe" in dict(attrs))
    seen = json.loads(probe)
    assert seen["asked"] == 0
    assert seen["scroll"] <= seen["inner"]  # nothing sticks out of the page
    assert len(seen["pictures"]) == 6
    assert all(natural > 100 and shown > 100 for natural, shown in seen["pictures"])
    assert (seen["text"], seen["paper"]) == ("rgb(27, 27, 27)", "rgb(255, 255, 255)")


def attributes_in(text):
    """Attributes of all tags of what a browser made of a page, whatever its form."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(attrs)
    parser.feed(text)
    return found
