"""Latent space of scVI and k-means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import scanpy as sc
import scvi
import torch

from scgpcl.benchmark import Clustering, register

from .pca_kmeans import N_GENES, kmeans

if TYPE_CHECKING:
    import anndata as ad


@register("scvi-kmeans")
def scvi_kmeans(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """`scvi.model.SCVI` with its defaults on 2000 genes, k-means with 20 restarts on its latent space.

    The genes are those of `pca_kmeans`. It needs the number of clusters; batches enter the model.
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
    model.train(accelerator="cuda" if torch.cuda.is_available() else "cpu", enable_progress_bar=False)
    z = model.get_latent_representation()
    return Clustering(kmeans(z, n_clusters, seed=seed), z)
