"""Variance of Pearson residuals from sparse counts in one pass, against scanpy's dense residuals."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from lightning.pytorch import LightningDataModule

import scgpcl
from scgpcl.data import DataModuleCounts
from scgpcl.pp import _genes, fit_features, gene_statistics, library_sizes
from scgpcl.pp._genes import pearson_residual_variance


def ours(x, batch_index=None):
    library = library_sizes(x)
    statistics = gene_statistics(x, library / np.median(library), batch_index=batch_index)
    return pearson_residual_variance(x, library, statistics.totals, batch_index)


def theirs(x):
    adata = ad.AnnData(sp.csr_matrix(x))
    sc.experimental.pp.highly_variable_genes(adata, flavor="pearson_residuals", n_top_genes=2)
    return adata.var["residual_variances"].to_numpy()


def few_cells(n_cells=20, n_genes=300, seed=0):
    """Rare counts of several molecules, whose residuals are above the square root of so few cells."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.3, 1.0, n_genes), (n_cells, n_genes)).astype(np.float32)
    x[rng.integers(n_cells, size=60), rng.integers(n_genes, size=60)] += 40
    x[:, :3] = 0  # genes without counts
    return sp.csr_matrix(x)


def residuals(x, theta=100.0):
    x = x.toarray().astype(float)
    mean = x.sum(1, keepdims=True) * x.sum(0, keepdims=True) / x.sum()
    return (x - mean) / np.sqrt(np.where(mean > 0, mean + mean**2 / theta, 1.0))


def test_equals_scanpy_on_pbmc3k():
    x = scgpcl.datasets.pbmc3k().layers["counts"][:500]
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_cells", [5, 20, 90])
def test_equals_scanpy_where_residuals_are_clipped(n_cells, seed):
    x = few_cells(n_cells, seed=seed)
    assert (residuals(x) > np.sqrt(n_cells)).any()
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6)
    assert (ours(x)[:3] == 0).all()


def test_equals_scanpy_where_residuals_of_zeros_are_clipped():
    """A gene that is most of the library of few cells is expected so often that a zero lies beyond the clip."""
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, (12, 40)).astype(np.float32)
    x[:, 0] = rng.poisson(600.0, 12)
    x[3, 0] = 0
    assert residuals(sp.csr_matrix(x)).min() < -np.sqrt(12)
    np.testing.assert_allclose(ours(sp.csr_matrix(x)), theirs(x), rtol=1e-6)


def test_with_batches_it_is_the_mean_within_them_weighted_by_their_cells():
    x = few_cells(100)
    batch = np.where(np.arange(100) % 10 < 3, 1, 0)
    x = sp.csr_matrix(x.multiply(np.where(batch == 1, 3.0, 1.0)[:, None]), dtype=np.float32)
    wanted = 0.7 * theirs(x[batch == 0]) + 0.3 * theirs(x[batch == 1])
    np.testing.assert_allclose(ours(x, batch), wanted, rtol=1e-6)


class Dense(LightningDataModule):
    """Counts of two batches as the data modules of scvi-tools give them."""

    def __init__(self, x, batch_index):
        super().__init__()
        self.x, self.batch_index, (self.n_obs, self.n_vars) = x.toarray(), batch_index, x.shape

    def inference_dataloader(self):
        for rows in np.array_split(np.arange(self.n_obs), 7):
            yield {"X": torch.from_numpy(self.x[rows]), "batch": torch.from_numpy(self.batch_index[rows, None])}


@pytest.mark.parametrize("batches", [False, True])
def test_storage_does_not_matter(tmp_path, monkeypatch, batches):
    x, batch = few_cells(90), np.arange(90) % 2
    wanted = ours(x, batch if batches else None)
    ad.AnnData(x).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    module = DataModuleCounts(Dense(x, batch))
    library_sizes(module)
    for _ in module.row_blocks():  # its first pass finds libraries and batches
        pass
    monkeypatch.setattr(_genes, "RESIDUAL_ROWS", 33)
    for stored in (x.tocsc(), x.toarray(), backed.X, module):
        np.testing.assert_allclose(ours(stored, batch if batches else None), wanted, rtol=1e-12)
    backed.file.close()


def test_the_genes_of_a_model_are_those_of_scanpy(data_dir):
    adata = ad.read_h5ad(data_dir / "zilionis_mouse_lung_800.h5ad")
    found = fit_features(adata.X, size=None, n_genes=2000, flavor="pearson_residuals", gene_scaling=0.75)
    sc.experimental.pp.highly_variable_genes(adata, flavor="pearson_residuals", n_top_genes=2000)
    assert found.mask.sum() == 2000
    differing = np.flatnonzero(found.mask != adata.var["highly_variable"])
    assert len(differing) <= 2  # a tie at the threshold may fall either way
