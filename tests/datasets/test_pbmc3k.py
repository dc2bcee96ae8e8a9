from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpcl import datasets


@pytest.fixture(scope="module")
def adata():
    return datasets.pbmc3k()


def test_has_the_published_cells_and_genes(adata):
    assert adata.shape == (2638, 13714)
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert {"CD79A", "NKG7", "PPBP", "LYZ"} <= set(adata.var_names)


def test_has_the_published_numbers_of_cells_per_type(adata):
    assert adata.obs["cell_type"].value_counts().to_dict() == {
        "Naive CD4 T": 697,
        "Memory CD4 T": 483,
        "CD14+ Mono": 480,
        "B": 344,
        "CD8 T": 271,
        "FCGR3A+ Mono": 162,
        "NK": 155,
        "DC": 32,
        "Platelet": 14,
    }


def test_counts_are_whole_numbers_in_csr_float32(adata):
    for x in (adata.X, adata.layers["counts"]):
        assert sparse.issparse(x)
        assert x.format == "csr"
        assert x.dtype == np.float32
        assert x.has_canonical_format
        assert x.data.min() == 1
        np.testing.assert_array_equal(x.data, np.round(x.data))
    assert adata.X.sum(dtype=np.float64) == 6_254_880
    assert adata.X.nnz == 2_238_732
    assert adata.X.max() == 419
    assert np.diff(adata.X.indptr).min() > 0


def test_types_express_their_markers(adata):
    """Wrongly ordered labels or genes would not pass."""
    for gene, cell_type in (("CD79A", "B"), ("PPBP", "Platelet"), ("FCER1A", "DC"), ("GNLY", "NK")):
        expression = pd.Series(adata[:, gene].X.toarray()[:, 0], index=adata.obs_names)
        assert expression.groupby(adata.obs["cell_type"], observed=True).mean().idxmax() == cell_type


def test_layer_and_calls_share_no_memory(adata):
    assert not np.shares_memory(adata.X.data, adata.layers["counts"].data)
    other = datasets.pbmc3k()
    other.X.data[:] = 0
    assert adata.X.max() == 419
    assert datasets.pbmc3k().X.max() == 419


def test_says_where_it_comes_from(adata):
    assert adata.uns["source"]["licence"] == "CC BY 4.0"
    assert "10x" in adata.uns["source"]["url"]


def test_file_is_small():
    size = (files("scgpcl.datasets") / "data" / "pbmc3k.h5ad").stat().st_size
    assert size < 4e6
