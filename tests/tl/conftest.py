import anndata as ad
import numpy as np
import pytest

from scgpcl import datasets


@pytest.fixture(scope="session")
def blood() -> ad.AnnData:
    """A tenth of the bundled cells, of all types but platelets, with the genes that have the most counts."""
    adata = datasets.pbmc3k()
    adata = adata[adata.obs["cell_type"] != "Platelet"]
    cells = np.sort(np.random.default_rng(0).choice(adata.n_obs, 300, replace=False))
    genes = np.sort(np.argsort(-adata.X.sum(axis=0).A1)[:800])
    adata = adata[cells, genes].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    return adata
