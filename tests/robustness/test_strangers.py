"""Names from strangers cannot break the report or leave its folder, and nothing asks the network unless told to."""

import ast
import html.parser
import socket
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import scgpcl
from scgpcl import _workflow, datasets
from scgpcl._report import _describe

HOSTILE = [
    "<script>alert('x')</script>",
    "../../etc/passwd",
    "C:\\windows\\system32",
    "a\"b' onload=x",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{0$",
    "\u202egnp.exe",
    "x" * 5000,
    "_hidden",
    "&amp;<b>",
    "-- ]]> <!--",
]


class Tags(html.parser.HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


@pytest.fixture(scope="module")
def hostile(cells, build):
    """Hostile names of cells, genes, batches, types and columns."""
    adata = cells()
    adata.obs_names = [f"{HOSTILE[i % len(HOSTILE)]}{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"{HOSTILE[i % len(HOSTILE)]}{i}" for i in range(adata.n_vars)]
    adata.obs["<i>type</i>"] = pd.Categorical([HOSTILE[i % 3] for i in range(adata.n_obs)])
    adata.obs["batch"] = pd.Categorical([HOSTILE[i % 2] for i in range(adata.n_obs)])
    build(adata, train={}, setup={"batch_key": "batch"})
    adata.obsm["X_umap"] = adata.obsm["X_scgpcl"][:, :2].copy()  # so that none has to be made
    return adata


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:.*missing from font")
def test_hostile_names_do_not_break_the_report(hostile, cells, build, tmp_path):
    model = build(hostile, train={}, setup={"batch_key": "batch"})
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "r.html"
    scgpcl.report(hostile, model, path, label_key="<i>type</i>", title=HOSTILE[0] + "x" * 500)
    page = Tags()
    text = path.read_text(encoding="utf-8")
    page.feed(text)
    assert page.tags.count("script") == 3  # the data and two scripts of the page's own
    assert "i" not in page.tags
    assert "b" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert "<script>alert" not in text
    assert "49{%" not in text  # names are no templates
    assert "{{ 7 * 7 }}" not in text or "7 * 7" in text
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "r.html"]
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:.*missing from font")
def test_the_command_writes_inside_its_folders_only(hostile, tmp_path, monkeypatch):
    for column in list(hostile.obs):
        if column.startswith("_scvi"):
            del hostile.obs[column]
    clean = hostile.copy()
    del clean.obs["<i>type</i>"]  # a slash in a key is what h5ad files cannot hold
    clean.uns.clear()
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    clean.write_h5ad(tmp_path / "in" / "cells.h5ad")
    short = {"pretrain_max_epochs": 1, "cluster_max_epochs": 1}
    monkeypatch.setitem(_workflow.PRESETS, "default", {"model": {}, "train": short})
    out = tmp_path / "out"
    _workflow.cluster_file(
        [tmp_path / "in" / "cells.h5ad"],
        out / "out.h5ad",
        n_clusters=3,
        batch_key="batch",
        figures=out / "figures",
        report=out / "r.html",
    )
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {"in/cells.h5ad", "out/out.h5ad", "out/r.html", "out/figures/umap.png", "out/figures/clusters.csv"} <= names
    assert names <= {
        "in/cells.h5ad", "out/out.h5ad", "out/r.html",
        *(f"out/figures/{name}" for name in _describe.FOLDER_FILES),
    }  # fmt: skip
    plt.close("all")


@pytest.fixture
def no_network(monkeypatch):
    """Every connection to another machine is an error."""
    tried = []

    def refuse(self, address, *args):
        tried.append(address)
        msg = f"no network in this test: {address}"
        raise OSError(msg)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: refuse(None, args))
    return tried


def test_nothing_asks_the_network(cells, build, tmp_path, no_network):
    adata = cells()
    model = build(adata, train={})
    model.predict(cells(seed=1))
    model.save(tmp_path / "m", safe=True)
    scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    datasets.pbmc3k()
    scgpcl.report(adata, model, tmp_path / "r.html")
    plt.close("all")
    assert no_network == []


def test_no_part_imports_what_opens_connections():
    wanted = {"urllib", "requests", "pooch", "socket", "http", "ftplib", "httpx", "aiohttp"}
    root = Path(scgpcl.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & wanted, path


def test_importing_opens_no_connection(imported):
    assert imported["tried"] == []
