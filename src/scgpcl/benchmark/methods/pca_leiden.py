"""Leiden clustering of principal components, at the resolution that gives the requested number of clusters."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scanpy as sc

from scgpcl.benchmark import Clustering, register
from scgpcl.benchmark.methods.pca_kmeans import components

if TYPE_CHECKING:
    from collections.abc import Callable

with warnings.catch_warnings():
    # scanpy would import umap during the timed run, and umap warns about optional packages
    warnings.simplefilter("ignore")
    import umap  # noqa: F401

#: Number of resolutions to try.
N_STEPS = 20


def compile_neighbors() -> None:
    """Let umap compile its code for neighbour graphs, which takes longer than building the graphs."""
    sc.pp.neighbors(ad.AnnData(obsm={"z": np.eye(20, dtype=np.float32)}, shape=(20, 0)), use_rep="z")


@register("pca-leiden", prepare=compile_neighbors)
def pca_leiden(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """Run Leiden on a graph of 15 neighbours, using the components of ``pca_kmeans``.

    If no number of clusters is given, the resolution is 1. Batches are ignored.
    """
    return leiden_clusters(components(adata, seed=seed), n_clusters, seed=seed)


def leiden_clusters(z: np.ndarray, n_clusters: int | None, *, seed: int) -> Clustering:
    """Run Leiden on vectors (n_cells, n) at resolution 1, or at one that gives ``n_clusters`` clusters."""
    cells = ad.AnnData(obsm={"z": z}, shape=(len(z), 0))
    sc.pp.neighbors(cells, use_rep="z", random_state=seed)

    def leiden(resolution: float) -> np.ndarray:
        sc.tl.leiden(
            cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed, key_added="leiden"
        )
        return cells.obs["leiden"].to_numpy()

    return Clustering(leiden(1.0) if n_clusters is None else at_number(leiden, n_clusters), z)


def at_number(cluster: Callable[[float], np.ndarray], n_clusters: int) -> np.ndarray:
    """Find the resolution that gives ``n_clusters`` clusters by bisection of its logarithm, and return the labels.

    If there is no such resolution, the closest partition that was tried is returned. ``cluster`` maps a resolution to
    labels (n_cells,). The number of clusters usually increases with the resolution.
    """
    low, high = np.log(1e-3), np.log(20.0)
    best, best_gap = np.empty(0), np.inf
    for step in range(N_STEPS):
        # start with the usual resolution
        middle = 0.0 if step == 0 else (low + high) / 2
        labels = cluster(float(np.exp(middle)))
        gap = len(np.unique(labels)) - n_clusters
        if abs(gap) < best_gap:
            best, best_gap = labels, abs(gap)
        if gap == 0:
            break
        low, high = (middle, high) if gap < 0 else (low, middle)
    return best
