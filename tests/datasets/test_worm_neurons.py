from importlib.resources import files

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from scgpcl import datasets


@pytest.fixture(scope="module")
def adata():
    return datasets.worm_neurons()


def test_is_the_published_set(adata):
    assert adata.shape == (4186, 13488)
    assert adata.obs["cell_type"].cat.categories.tolist() == [f"type{i}" for i in range(1, 11)]
    assert adata.obs["cell_type"].value_counts().iloc[[0, -1]].to_dict() == {"type3": 1015, "type10": 70}
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique


def test_counts_are_whole_numbers_in_csr_float32(adata):
    for x in (adata.X, adata.layers["counts"]):
        assert isinstance(x, sparse.csr_matrix)
        assert x.dtype == np.float32
        assert x.has_canonical_format
        assert x.data.min() == 1
        np.testing.assert_array_equal(x.data, np.round(x.data))
    assert not np.shares_memory(adata.X.data, adata.layers["counts"].data)


def test_equals_the_labelled_set_of_the_studies(adata, data_dir):
    other = ad.read_h5ad(data_dir / "worm_neuron.h5ad")
    assert (adata.X != other.X).nnz == 0
    np.testing.assert_array_equal(adata.obs["cell_type"].astype(str), other.obs["cell_type"].astype(str))


def test_says_where_it_comes_from_and_is_small(adata):
    assert adata.uns["source"]["accession"] == "GSE98561"
    assert "Apache-2.0" in adata.uns["source"]["licence"]
    folder = files("scgpcl.datasets") / "data"
    assert (folder / "worm_neurons.h5ad").stat().st_size < 4e6
    assert "Apache License" in (folder / "worm_neurons.LICENSE.txt").read_text()
