"""Where the clustering stage starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scgpcl.cluster._kmeans import kmeans_runs, nearest
from scgpcl.nn import shrink_length

#: Powers by which the length of latent vectors is reduced in the trial clusterings.
POWERS = (0.0, 0.25, 0.4, 0.6, 1.0)
#: k-means runs at each power, and how many of them, those of lowest inertia, are compared.
N_RUNS = 120
N_COMPARED = 20


class Start(NamedTuple):
    """Start of the clustering stage.

    Parameters
    ----------
    centers
        Cluster centres in the space of shortened vectors, shape (n_clusters, n).
    power
        Power by which lengths are reduced.
    silhouette
        Mean cosine silhouette of the partition in the space in which partitions were compared.
    """

    centers: Tensor
    power: float
    silhouette: float


def select_start(
    z: Tensor, n_clusters: int, *, reference: Tensor | None = None, powers: tuple[float, ...] = POWERS, seed: int = 0
) -> Start:
    """Choose among many k-means partitions the one whose clusters differ most in direction.

    Long vectors rule squared distances, and how much they should depends on the data: with whole lengths k-means finds
    rare and unusual cells, with none it finds cells of equal composition. Inertia cannot compare spaces of different
    lengths, and within one space many partitions have nearly the same inertia. The cosine silhouette compares all of
    them on the same scale and without labels.

    Contrastive training pulls cells to the clusters they were in, so that in the trained space wrong partitions look
    as good as right ones. A ``reference`` space that was not trained tells them apart.

    Parameters
    ----------
    z
        Latent vectors to cluster, shape (n_cells, n).
    n_clusters
        Number of clusters.
    reference
        Vectors of the same cells in which the partitions are compared, shape (n_cells, m); ``None`` compares them in
        ``z``.
    powers
        Powers to try, see :func:`scgpcl.nn.shrink_length`.
    seed
        Seed of k-means.

    Raises
    ------
    ValueError
        If there is no power to try, or if the reference has another number of cells.
    """
    reference = z if reference is None else reference
    if len(reference) != len(z):
        msg = f"Expected a reference of the same {len(z)} cells, found {len(reference)}."
        raise ValueError(msg)
    best = None
    for power in powers:
        shortened = shrink_length(z, power)
        runs = kmeans_runs(shortened, n_clusters, n_runs=N_RUNS, seed=seed)
        for run in runs.inertia.argsort(stable=True)[:N_COMPARED].tolist():
            centers = runs.centers[run]
            score = cosine_silhouette(reference, nearest(shortened, centers)[0], n_clusters)
            if best is None or score > best.silhouette:
                best = Start(centers, power, score)
    if best is None:
        msg = "Expected at least one power to try, found none."
        raise ValueError(msg)
    return best


def cosine_silhouette(z: Tensor, labels: Tensor, n_clusters: int) -> float:
    """Mean silhouette with cosine distance (Rousseeuw 1987), exact and linear in the number of cells.

    The mean cosine distance of a cell to a cluster is one minus its product with the cluster's mean unit vector, so
    that no distances between cells are needed.

    Parameters
    ----------
    z
        Shape (n_cells, n).
    labels
        int64, shape (n_cells,).
    n_clusters
        Number of clusters; empty ones are left out.
    """
    unit = normalize(z, dim=1)
    size = torch.bincount(labels, minlength=n_clusters).to(z)
    total = unit.new_zeros(n_clusters, unit.shape[1]).index_add_(0, labels, unit)
    similarity = unit @ total.t()  # sum of a cell's cosines to each cluster
    own_size = size[labels]
    own = similarity.gather(1, labels.unsqueeze(1)).squeeze(1)
    within = 1.0 - (own - 1.0) / (own_size - 1.0).clamp(min=1.0)
    between = 1.0 - similarity / size.clamp(min=1.0)
    between[:, size == 0] = torch.inf
    between = between.scatter(1, labels.unsqueeze(1), torch.inf).min(1).values
    value = (between - within) / torch.maximum(between, within)
    return float(torch.where(own_size > 1, value, 0.0).double().mean())
