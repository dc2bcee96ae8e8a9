import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp


@pytest.fixture
def denoising(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.denoising")


@pytest.fixture
def simulated(adata):
    adata.obs["Group"], adata.obs["batch"] = ["Group1", "Group2"] * 60, "Batch1"
    rng = np.random.default_rng(0)
    for name in ("GeneMean", "DEFacGroup1", "DEFacGroup2"):
        adata.var[name] = rng.gamma(2.0, 1.0, adata.n_vars)
    return adata


def test_the_true_means_have_no_error_at_any_library_size(denoising, simulated):
    task = denoising.truth_task(simulated, np.random.default_rng(0))
    mean = simulated.var["GeneMean"].to_numpy() * simulated.var[["DEFacGroup1", "DEFacGroup2"]].to_numpy().T
    expected = np.tile(mean, (60, 1)) * np.arange(1, 121)[:, None]
    genes = simulated.var_names[::2]
    assert task.score(expected[:, ::2], np.ones(120), genes)["error"] == pytest.approx(0.0, abs=1e-6)
    assert task.score(np.ones_like(expected)[:, ::2], np.ones(120), genes)["error"] > 0.1


def test_a_tenth_of_the_counts_is_masked_and_scored(denoising, adata):
    task = denoising.masked_task(adata, np.random.default_rng(0))
    counts, kept = adata.X.toarray(), task.counts.toarray()
    hidden = counts != kept
    assert (kept[hidden] == 0).all()
    assert hidden.sum() / (counts > 0).sum() == pytest.approx(denoising.SHARE, abs=0.02)
    size = np.ones(adata.n_obs)
    assert task.score(counts, size, adata.var_names) == {"error": 0.0, "log_error": 0.0}
    assert task.score(kept, size, adata.var_names)["error"] == np.median(counts[hidden])
    assert task.score(counts + 2.0, size, adata.var_names)["error"] == 2.0


def test_smoothing_is_the_mean_over_the_nearest_cells(denoising):
    x = sp.csr_matrix(np.repeat(np.eye(3) * 5 + 1, 60, axis=0))
    for _, smooth in denoising._smoothed(x, 0):
        np.testing.assert_allclose(smooth, x.toarray(), atol=1e-6)


def test_run_has_a_row_per_method(denoising, adata, tmp_path):
    cells = ad.AnnData(adata.X, obs=pd.DataFrame({"cell_type": adata.obs["group"]}), var=adata.var)
    cells.write_h5ad(tmp_path / "toy.h5ad")
    rows = denoising.run(tmp_path / "toy.h5ad", "masked", 0)
    assert {row["method"] for row in rows} == set(denoising.METHODS)
    assert all(np.isfinite(row["error"]) for row in rows)
