"""Counts on disk: the same rows and results as in memory."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scgpcl.data import CountSource

TRAIN = {"pretrain_max_epochs": 2, "cluster_max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def path(adata, tmp_path):
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "counts.h5ad")
    return tmp_path / "counts.h5ad"


@pytest.mark.parametrize(
    "index", [[5, 6, 7, 8], [8, 2, 5], [3, 3, 1], [], [4]], ids=["in a row", "any order", "repeated", "none", "one"]
)
@pytest.mark.parametrize("columns", [None, [4, 2, 40]])
def test_rows_are_those_of_memory_in_the_order_asked_for(path, index, columns):
    index, columns = np.array(index, dtype=int), None if columns is None else np.array(columns)
    backed = ad.read_h5ad(path, backed="r")
    memory = sp.csr_matrix(ad.read_h5ad(path).X).toarray()
    size = np.ones(len(memory))
    wanted = memory[index] if columns is None else memory[index][:, columns]
    for x in (backed.X, sp.csr_matrix(memory)):
        np.testing.assert_array_equal(CountSource(x, size, columns).rows(index).toarray(), wanted)
    backed.file.close()


def test_training_and_getters_equal_those_in_memory(path, fit):
    models = [fit(ad.read_h5ad(path, **mode), train=TRAIN, seed=3) for mode in ({}, {"backed": "r"})]
    memory, backed = (model.get_latent_representation() for model in models)
    np.testing.assert_array_equal(memory, backed)
    np.testing.assert_array_equal(models[0].predict(), models[1].predict())
    order = np.array([9, 3, 50, 3])
    np.testing.assert_array_equal(models[1].get_latent_representation(indices=order), backed[order])
