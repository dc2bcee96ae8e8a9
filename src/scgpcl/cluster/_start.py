"""Read-out: where the cluster centres start, and how strongly lengths of latent vectors are reduced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from scgpcl.cluster._kmeans import kmeans, kmeans_runs, nearest
from scgpcl.cluster._scores import cosine_silhouette
from scgpcl.nn import shrink_length

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

#: Powers by which the length of latent vectors is reduced in the trial clusterings.
POWERS = (0.0, 0.25, 0.4, 0.6, 1.0)
#: k-means runs at each power, and how many of them, those of lowest inertia, are compared.
N_RUNS = 120
N_COMPARED = 20
#: Restarts of k-means where the power is given.
CENTERS_INIT = 20


class Start(NamedTuple):
    """Centres in the space of shortened vectors (n_clusters, n), the power, and the silhouette they were chosen by."""

    centers: Tensor
    power: float
    silhouette: float = float("nan")


def start_centers(
    z: Tensor,
    n_clusters: int,
    *,
    shrinkage: float | Literal["auto"],
    sample: np.ndarray,
    reference: Callable[[], Tensor],
    seed: int,
) -> Start:
    """Place the centres of the clusters in the latent space.

    Parameters
    ----------
    z
        Latent vectors of all cells, of whole length, shape (n_cells, n).
    n_clusters
        Number of clusters.
    shrinkage
        Power by which lengths are reduced, or ``"auto"`` to choose it with :func:`select_start`.
    sample, reference
        Cells that partitions are compared on, and their components; called only if they are needed.
    seed
        Seed of k-means.
    """
    if shrinkage == "auto":
        rows = z[torch.from_numpy(sample).to(z.device)]
        return select_start(rows, n_clusters, reference=reference().to(z), seed=seed)
    found = kmeans(shrink_length(z, shrinkage), n_clusters, n_init=CENTERS_INIT, seed=seed)
    return Start(found.centers, shrinkage)


def select_start(
    z: Tensor, n_clusters: int, *, reference: Tensor | None = None, powers: tuple[float, ...] = POWERS, seed: int = 0
) -> Start:
    """Choose among many k-means partitions the one whose clusters differ most in direction.

    Long vectors dominate squared distances, and how much they should depends on the data: with whole lengths k-means
    finds rare and unusual cells, with none it finds cells of equal composition. Inertia cannot compare spaces of different
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
        If ``powers`` is empty, or if the reference has another number of cells.
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
