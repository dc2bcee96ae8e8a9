"""K-means on principal components, which is a strong baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import scanpy as sc
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from scgpcl.benchmark import Clustering, register

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np

N_GENES = 2000


@register("pca-kmeans")
def pca_kmeans(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """Run k-means with 20 restarts on 50 principal components. Requires the number of clusters and ignores batches."""
    z = components(adata, seed=seed)
    return Clustering(kmeans(z, n_clusters, seed=seed), z)


def components(adata: ad.AnnData, *, seed: int) -> np.ndarray:
    """Compute 50 principal components of 2000 genes, standardised and clipped at 10.

    The genes are selected by scanpy's ``seurat`` dispersion. The result has shape (n_cells, 50), with fewer columns if
    there are fewer cells or genes.
    """
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > N_GENES:
        sc.pp.highly_variable_genes(adata, n_top_genes=N_GENES, flavor="seurat")
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.scale(adata, max_value=10)
    return PCA(min(50, adata.n_obs - 1, adata.n_vars), random_state=seed).fit_transform(adata.X)


def kmeans(z: np.ndarray, n_clusters: int | None, *, seed: int) -> np.ndarray:
    """Run k-means with 20 restarts on vectors (n_cells, n_features), and return the labels (n_cells,)."""
    if n_clusters is None:
        msg = "Expected a number of clusters, which k-means needs, found none."
        raise ValueError(msg)
    return KMeans(n_clusters, n_init=20, random_state=seed).fit_predict(z)
