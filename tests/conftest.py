import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest
import scipy.sparse as sp
import torch

mpl.use("Agg")


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(1)  # the tensors of most tests are too small to share


@pytest.fixture(scope="session", autouse=True)
def _generated_code():
    """Remove what PyG writes to the temporary folder for its own layers, with which tests compare."""
    yield
    for name, module in list(sys.modules.items()):
        if name.endswith(("_propagate", "_edge_updater")):
            Path(module.__file__).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of labelled data sets; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("SCGPCL_DATA", "../shared/data"))
    if folder.is_dir():
        return folder.resolve()
    if os.environ.get("SCGPCL_REQUIRE_DATA"):
        pytest.fail(f"Expected labelled data sets in {folder}, found no folder.")
    pytest.skip("no labelled data sets; set SCGPCL_DATA to their folder")


#: Imports scvi-tools and then everything of the package where no connection can be opened.
IMPORTS = """
import json, socket, sys, time
tried = []
def refuse(*args, **kwargs):
    tried.append(str(args[1:]))
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import scvi
before = set(sys.modules)
start = time.process_time()
import scgpcl
scgpcl.SCGPCL
seconds = time.process_time() - start
more = sorted({name.split(".")[0] for name in set(sys.modules) - before})
scgpcl.pl, scgpcl.tl, scgpcl.benchmark
print(json.dumps({"tried": tried, "seconds": seconds, "more": more}))
"""


@pytest.fixture(scope="session")
def import_in_a_new_process():
    """Import the package elsewhere: seconds of the processor beyond scvi-tools, packages beyond its own, connections."""

    def run() -> dict:
        command = [sys.executable, "-W", "ignore", "-c", IMPORTS]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def imported(import_in_a_new_process) -> dict:
    """Its result, of one process for all tests."""
    return import_in_a_new_process()


def make_counts(n_cells=120, n_genes=60, n_groups=3, seed=0, density_scale=1.0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Negative binomial counts of groups of cells that differ in a third of the genes."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(n_groups, size=n_cells)
    base = rng.gamma(0.6, 1.0, n_genes) * density_scale
    fold = np.where(rng.random((n_groups, n_genes)) < 0.33, rng.lognormal(0.0, 1.8, (n_groups, n_genes)), 1.0)
    size = rng.lognormal(0.0, 0.3, n_cells)[:, None]
    mean = base * fold[groups] * size
    counts = rng.poisson(rng.gamma(2.0, mean / 2.0)).astype(np.float32)
    counts[counts.sum(1) == 0, 0] = 1.0
    return sp.csr_matrix(counts), groups


@pytest.fixture
def draw_counts():
    """Maker of counts of groups of cells, and of the groups."""
    return make_counts


@pytest.fixture
def counts():
    return make_counts()[0]


@pytest.fixture
def adata() -> ad.AnnData:
    x, groups = make_counts()
    result = ad.AnnData(x)
    result.obs_names = [f"cell{i}" for i in range(x.shape[0])]
    result.var_names = [f"gene{i}" for i in range(x.shape[1])]
    result.obs["group"] = [f"type {g}" for g in groups]
    result.obs["batch"] = ["a", "b"] * (x.shape[0] // 2)
    return result


@pytest.fixture
def batch(counts):
    from scgpcl.data import bipartite_batch

    size = np.asarray(counts.sum(1)).ravel()
    return bipartite_batch(counts.copy(), size / np.median(size), np.arange(counts.shape[0]))


def to_double(batch):
    """The batch with float64 values."""
    return batch._replace(counts=batch.counts.double(), size_factor=batch.size_factor.double())


SHORT = {"pretrain_max_epochs": 2, "cluster_max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def fit():
    """Set up and train a small model: ``fit(adata, layer=..., n_clusters=..., seed=..., max_epochs=...)``."""
    import scgpcl

    def run(adata, *, setup=None, train=None, n_clusters=3, **model):
        scgpcl.SCGPCL.setup_anndata(adata, **(setup or {}))
        result = scgpcl.SCGPCL(adata, n_clusters, n_hidden=16, n_latent=8, **model)
        result.train(**{**SHORT, **(train or {})})
        return result

    return run


def snapshot(adata) -> dict:
    """Everything a user can see in an AnnData, by value."""
    x = adata.X
    parts = {"X": x.toarray() if sp.issparse(x) else np.array(x), "shape": adata.shape}
    for name in ("obs", "var"):
        parts[name] = getattr(adata, name).copy()
    for name in ("obsm", "varm", "layers", "obsp", "uns"):
        parts[name] = {
            k: np.array(v.toarray() if sp.issparse(v) else v, dtype=object) for k, v in getattr(adata, name).items()
        }
    return parts


def assert_same(before: dict, after: dict) -> None:
    """Two snapshots are equal."""
    for name, value in before.items():
        if isinstance(value, dict):
            assert value.keys() == after[name].keys(), name
            for key in value:
                assert np.array_equal(value[key], after[name][key]), (name, key)
        elif hasattr(value, "equals"):
            assert value.equals(after[name]), name
        else:
            np.testing.assert_array_equal(value, after[name], err_msg=name)


@pytest.fixture
def untouched():
    """Assert that a block leaves an AnnData as it was: ``with untouched(adata): ...``."""
    from contextlib import contextmanager

    @contextmanager
    def check(adata):
        before = snapshot(adata)
        yield
        assert_same(before, snapshot(adata))

    return check
