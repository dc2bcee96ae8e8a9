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
N_RUNS = 40
N_COMPARED = 10
#: Cells that the trial clusterings look at; more are sampled.
MAX_CELLS = 10_000


class Start(NamedTuple):
    """Start of the clustering stage.

    Parameters
    ----------
    centers
        Cluster centres in the space of shortened vectors, shape (n_clusters, n).
    power
        Power by which lengths are reduced.
    silhouette
        Mean cosine silhouette of the partition.
    """

    centers: Tensor
    power: float
    silhouette: float


def select_start(z: Tensor, n_clusters: int, *, powers: tuple[float, ...] = POWERS, seed: int = 0) -> Start:
    """Choose among many k-means partitions the one whose clusters differ most in direction.

    Long vectors rule squared distances, and how much they should depends on the data: with whole lengths k-means finds
    rare and unusual cells, with none it finds cells of equal composition. Inertia cannot compare spaces of different
    lengths, and within one space many partitions have nearly the same inertia. The cosine silhouette compares all of
    them on the same scale and without labels.

    Parameters
    ----------
    z
        Latent vectors, shape (n_cells, n).
    n_clusters
        Number of clusters.
    powers
        Powers to try, see :func:`scgpcl.nn.shrink_length`.
    seed
        Seed of the sample and of k-means.
    """
    if len(z) > MAX_CELLS:
        generator = torch.Generator(z.device).manual_seed(seed)
        z = z[torch.randperm(len(z), generator=generator, device=z.device)[:MAX_CELLS]]
    best = None
    for power in powers:
        shortened = shrink_length(z, power)
        runs = kmeans_runs(shortened, n_clusters, n_runs=N_RUNS, seed=seed)
        for run in runs.inertia.argsort(stable=True)[:N_COMPARED].tolist():
            centers = runs.centers[run]
            score = cosine_silhouette(z, nearest(shortened, centers)[0], n_clusters)
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
