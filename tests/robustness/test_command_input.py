"""Bad input to each command: exit code 2, one line, no traceback, and every file as it was."""

import signal

import anndata as ad
import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from scgpcl import _workflow
from scgpcl.cli import app


def run(*words):
    env = {"COLUMNS": "200", "TERM": "dumb"}
    return CliRunner().invoke(app, [str(word) for word in words], env=env)


@pytest.fixture
def folder(cells, tmp_path, monkeypatch):
    """Folder with cells and with results of an earlier run, from which the commands are called."""
    cells().write_h5ad(tmp_path / "in.h5ad")
    spoilt = cells()
    spoilt.X.data[3] = 0.5
    spoilt.write_h5ad(tmp_path / "halves.h5ad")
    (tmp_path / "text.h5ad").write_text("gene,cell\n")
    (tmp_path / "cut.h5ad").write_bytes((tmp_path / "in.h5ad").read_bytes()[:3000])
    with h5py.File(tmp_path / "matrix.h5ad", "w") as file:
        file["matrix"] = np.ones(3)
    for name in ("old.h5ad", "old.html", "methods.py"):
        (tmp_path / name).write_text("old")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "umap.png").write_text("old")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.h5ad").symlink_to(tmp_path / "in.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OUT = ("-o", "out.h5ad")

# name: (words of the command, words of the message)
CASES = {
    "no input": (("cluster", "no.h5ad", *OUT), ("found nothing at no.h5ad", "Check the path")),
    "a folder": (("cluster", "empty", *OUT), ("found a folder",)),
    "text": (("cluster", "text.h5ad", *OUT), ("another or a damaged one", "text.h5ad")),
    "truncated": (("cluster", "cut.h5ad", *OUT), ("damaged", "cut.h5ad")),
    "no AnnData": (("cluster", "matrix.h5ad", *OUT), ("without obs and var",)),
    "no counts": (("cluster", "halves.h5ad", *OUT), ("whole counts", "X with fractions (0.5)")),
    "the input as output": (("cluster", "in.h5ad", "-o", "in.h5ad"), ("Choose another name",)),
    "the input by another name": (("cluster", "in.h5ad", "-o", "link.h5ad", "--force"), ("Choose another name",)),
    "the input, forced": (("cluster", "in.h5ad", "-o", "in.h5ad", "--force"), ("Choose another name",)),
    "an older output": (("cluster", "in.h5ad", "-o", "old.h5ad"), ("found one", "--force")),
    "an older report": (("cluster", "in.h5ad", *OUT, "--report", "old.html"), ("old.html", "--force")),
    "older figures": (("cluster", "in.h5ad", *OUT, "--figures", "figures"), ("umap.png", "--force")),
    "output in no folder": (("cluster", "in.h5ad", "-o", "no/out.h5ad"), ("found none at no", "Make it first")),
    "output of another kind": (("cluster", "in.h5ad", "-o", "out.csv"), ("ends in .h5ad", "out.csv")),
    "report of another kind": (("cluster", "in.h5ad", *OUT, "--report", "r.txt"), ("ends in .html", "r.txt")),
    "report in no folder": (("cluster", "in.h5ad", *OUT, "--report", "no/r.html"), ("Make it first",)),
    "figures in a file": (("cluster", "in.h5ad", *OUT, "--figures", "in.h5ad"), ("found a file",)),
    "no layer": (("cluster", "in.h5ad", *OUT, "--layer", "raw"), ("layers['raw']", "found layers")),
    "no batches": (("cluster", "in.h5ad", *OUT, "--batch-key", "plate"), ("'plate'", "found columns")),
    "one cluster": (("cluster", "in.h5ad", *OUT, "--n-clusters", "1"), ("at least 2, found 1",)),
    "more clusters than cells": (("cluster", "in.h5ad", *OUT, "--n-clusters", "61"), ("61", "60 cells")),
    "demo in a file": (("demo", "--out", "in.h5ad"), ("found a file", "Choose another name")),
    "demo in no folder": (("demo", "--out", "no/demo"), ("Make it first",)),
    "demo over results": (("demo", "--out", "figures"), ("umap.png", "--force")),
    "benchmark of nothing": (("benchmark", "no"), ("found nothing at no", "Check the path")),
    "benchmark of no sets": (("benchmark", "empty"), ("found none in empty",)),
    "benchmark of another set": (("benchmark", "in.h5ad", "--datasets", "x"), ("among in, found x",)),
    "benchmark by no method": (("benchmark", "in.h5ad", "--methods", "x"), ("a method among", "found 'x'")),
    "benchmark by none": (("benchmark", "in.h5ad", "--methods", ","), ("at least one method",)),
    "benchmark without seeds": (("benchmark", "in.h5ad", "--seeds", "0"), ("at least one seed", "found 0")),
    "benchmark of a number": (("benchmark", "in.h5ad", "--n-clusters", "3"), ("'known' or 'auto', found '3'",)),
    "benchmark without threads": (("benchmark", "in.h5ad", "--threads", "0"), ("at least one thread", "found 0")),
    "benchmark without time": (("benchmark", "in.h5ad", "--timeout", "-1"), ("above 0 seconds", "found -1")),
    "benchmark into a file": (("benchmark", "in.h5ad", "--out", "text.h5ad"), ("found a file",)),
    "labels as batches": (
        ("benchmark", "in.h5ad", "--labels", "group", "--batch-key", "group"),
        ("another column than the labels",),
    ),
    "methods that are none": (("benchmark", "in.h5ad", "--register", "methods.py"), ("one that fails", "methods.py")),
    "methods of no file": (("benchmark", "in.h5ad", "--register", "no.py"), ("found none at no.py",)),
}


@pytest.mark.parametrize("case", CASES)
def test_commands_refuse_in_one_line(folder, files_of, case):
    words, message = CASES[case]
    before = sorted(path.name for path in folder.rglob("*"))
    files = files_of(folder)
    result = run(*words)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert [line.startswith("Error: Expected") for line in lines] == [False] * (len(lines) - 1) + [True], result.stderr
    for word in message:
        assert word in lines[-1], (word, lines[-1])
    assert result.stdout == ""
    assert files_of(folder) == files
    assert sorted(path.name for path in folder.rglob("*")) == before


# what typer itself refuses, with its own words
USAGE = {
    "preset": ("cluster", "in.h5ad", *OUT, "--preset", "best"),
    "negative seed": ("cluster", "in.h5ad", *OUT, "--seed", "-1"),
    "seed too large": ("cluster", "in.h5ad", *OUT, "--seed", str(2**32)),
    "seed as text": ("demo", "--seed", "one"),
    "option": ("cluster", "in.h5ad", *OUT, "--clusters", "3"),
    "no output": ("cluster", "in.h5ad"),
    "no command": ("clusters", "in.h5ad"),
    "no data": ("benchmark",),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors(folder, files_of, case):
    before = files_of(folder)
    result = run(*USAGE[case])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "Usage" in result.stderr
    assert files_of(folder) == before


def test_force_replaces(folder, monkeypatch):
    def fit(adata, n_clusters, **kwargs):
        adata.obs["scgpcl_cluster"] = ["0", "1"] * (adata.n_obs // 2)
        adata.obsm["X_umap"] = np.zeros((adata.n_obs, 2))  # a map that need not be made
        return None, 0.0

    monkeypatch.setattr(_workflow, "_fit", fit)
    assert run("cluster", "in.h5ad", "-o", "old.h5ad").exit_code == 2
    assert run("cluster", "in.h5ad", "-o", "old.h5ad", "--force").exit_code == 0
    assert "scgpcl_cluster" in ad.read_h5ad(folder / "old.h5ad").obs


@pytest.mark.parametrize(
    ("interrupt", "code"), [(lambda: signal.raise_signal(signal.SIGTERM), 143), (lambda: signal.raise_signal(signal.SIGINT), 130)],
    ids=["SIGTERM", "Ctrl-C"],
)  # fmt: skip
def test_an_interrupted_command_leaves_no_half_file(folder, files_of, monkeypatch, interrupt, code):
    def fit(adata, n_clusters, **kwargs):
        adata.obsm["X_umap"] = np.zeros((adata.n_obs, 2))
        return None, 0.0

    def half(self, path, **kwargs):
        path.write_text("half")
        interrupt()

    monkeypatch.setattr(_workflow, "_fit", fit)
    monkeypatch.setattr(ad.AnnData, "write_h5ad", half)
    before, handler = files_of(folder), signal.getsignal(signal.SIGTERM)
    # a process that a shell starts in the background ignores Ctrl-C
    keyboard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("cluster", "in.h5ad", "-o", "old.h5ad", "--force")
    finally:
        signal.signal(signal.SIGINT, keyboard)
    assert result.exit_code == code
    assert files_of(folder) == before
    assert signal.getsignal(signal.SIGTERM) is handler
