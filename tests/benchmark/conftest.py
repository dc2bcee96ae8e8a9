from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

from scgpcl.benchmark import _registry
from scgpcl.cli import app

CHEAP = Path(__file__).with_name("cheap.py")


def _make_set(n_types: int, *, seed: int, n_cells: int = 60, n_genes: int = 40) -> ad.AnnData:
    """Counts of types with genes of their own, and everything in the AnnData that could give the types away."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(n_types, size=n_cells))
    mean = np.ones((n_types, n_genes))
    for group in range(n_types):
        mean[group, group::n_types] = 6.0
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(mean[groups]).astype(np.float32)))
    adata.obs_names = [f"type{g}_{i}" for i, g in enumerate(groups)]
    adata.var_names = [f"gene{i}" for i in range(n_genes)]
    adata.obs["cell_type"] = pd.Categorical([f"type {g}" for g in groups])
    adata.obs["also"] = adata.obs["cell_type"]
    adata.obs["batch"] = ["a", "b"] * (n_cells // 2)
    adata.uns["types"] = list(map(str, groups))
    adata.obsm["X_types"] = np.eye(n_types)[groups]
    adata.layers["types"] = adata.X.copy()
    adata.var["marks"] = "a type"
    adata.raw = adata
    return adata


@pytest.fixture(scope="session")
def make_set():
    """Make a labelled set: `make_set(n_types, seed=..., n_cells=..., n_genes=...)`."""
    return _make_set


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Folder with two labelled sets, a text file and a folder that is not looked into."""
    folder = tmp_path_factory.mktemp("data")
    _make_set(3, seed=0).write_h5ad(folder / "three.h5ad")
    _make_set(2, seed=1).write_h5ad(folder / "two.h5ad")
    (folder / "README.md").write_text("not a set")
    (folder / "deeper").mkdir()
    _make_set(2, seed=2).write_h5ad(folder / "deeper" / "hidden.h5ad")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cheap_methods():
    _registry.import_file(CHEAP)


@pytest.fixture
def command():
    """Run `scgpcl benchmark` with words as a shell would pass them."""

    def invoke(*words):
        return CliRunner().invoke(app, ["benchmark", *map(str, words)], env={"COLUMNS": "200", "TERM": "dumb"})

    return invoke


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """A benchmark of two sets, three methods (one fails) and two seeds: its folder and its table."""
    from scgpcl import benchmark

    out = tmp_path_factory.mktemp("finished") / "out"
    table = benchmark.run(data, ["pca-kmeans", "svd", "fails"], out=out, seeds=2, threads=1, progress=False)
    return out, table
