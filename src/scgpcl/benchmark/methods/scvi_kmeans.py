"""K-means on the latent space of scVI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import scanpy as sc
import scvi
import torch

from scgpcl.benchmark import Clustering, register
from scgpcl.benchmark.methods.pca_kmeans import N_GENES, kmeans

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np


def scvi_latent(adata: ad.AnnData, *, seed: int, batch_key: str | None, max_epochs: int | None = None) -> np.ndarray:
    """Train ``scvi.model.SCVI`` with its defaults and return the latent vectors (n_cells, 10).

    The model uses the 2000 genes of ``pca_kmeans``.
    """
    if adata.n_vars > N_GENES:
        expression = adata.copy()
        sc.pp.normalize_total(expression, target_sum=1e4)
        sc.pp.log1p(expression)
        sc.pp.highly_variable_genes(expression, n_top_genes=N_GENES, flavor="seurat")
        adata = adata[:, expression.var["highly_variable"]].copy()
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch_key)
    model = scvi.model.SCVI(adata)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    model.train(max_epochs=max_epochs, accelerator=accelerator, enable_progress_bar=False)
    return model.get_latent_representation()


@register("scvi-kmeans")
def scvi_kmeans(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """Run k-means with 20 restarts on the latent space of scVI.

    Requires the number of clusters. Batches are used in the model.
    """
    z = scvi_latent(adata, seed=seed, batch_key=batch_key)
    return Clustering(kmeans(z, n_clusters, seed=seed), z)
