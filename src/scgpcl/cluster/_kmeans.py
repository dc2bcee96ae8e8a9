"""k-means on the device of the input tensor, with all restarts computed together."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

#: If there are more cells than this, the centres are fitted to a random sample before all cells are assigned.
MAX_FIT_CELLS = 100_000
#: Number of rows compared with the centres at a time.
NEAREST_ROWS = 1 << 16


class KMeansResult(NamedTuple):
    """Result of the best restart.

    Parameters
    ----------
    centers
        Cluster centres, shape (n_clusters, n).
    labels
        Nearest centre of each row, int64, shape (n_rows,).
    inertia
        Sum of squared distances to the nearest centres.
    """

    centers: Tensor
    labels: Tensor
    inertia: float


def kmeans(
    x: Tensor,
    n_clusters: int,
    *,
    n_init: int = 10,
    init: Tensor | None = None,
    max_iter: int = 100,
    tol: float = 1e-4,
    seed: int = 0,
    directions: bool = False,
) -> KMeansResult:
    """Cluster rows by Lloyd's algorithm with greedy k-means++ initialisation.

    Parameters
    ----------
    x
        Rows to cluster, shape (n_rows, n).
    n_clusters
        Number of clusters.
    n_init
        Number of restarts. The run with the lowest inertia is returned.
    init
        Initial centres, shape (n_clusters, n). If given, there is only one run.
    max_iter
        Maximum number of iterations.
    tol
        A run stops when the squared shift of its centres is below ``tol`` times the mean variance of the columns.
    seed
        Random seed for the initial centres. The same seed gives the same result.
    directions
        Whether to scale each row to length 1 as it is read, which avoids a scaled copy of many rows.

    Raises
    ------
    ValueError
        If there are fewer rows than clusters, or no clusters.
    """
    runs = kmeans_runs(
        x, n_clusters, n_runs=n_init, init=init, max_iter=max_iter, tol=tol, seed=seed, directions=directions
    )
    best = runs.centers[int(runs.inertia.argmin())]
    labels, distance = nearest(x, best, directions=directions)
    return KMeansResult(best, labels, float(distance.double().sum()))


class KMeansRuns(NamedTuple):
    """Results of all k-means runs.

    Parameters
    ----------
    centers
        Cluster centres of each run, shape (n_runs, n_clusters, n).
    inertia
        Inertia of each run over the rows used to fit the centres, shape (n_runs,).
    """

    centers: Tensor
    inertia: Tensor


def kmeans_runs(
    x: Tensor,
    n_clusters: int,
    *,
    n_runs: int,
    init: Tensor | None = None,
    max_iter: int = 100,
    tol: float = 1e-4,
    seed: int = 0,
    directions: bool = False,
) -> KMeansRuns:
    """Run k-means several times and keep all runs. See :func:`scgpcl.cluster.kmeans` for the arguments."""
    if n_clusters < 1:
        msg = f"Expected at least one cluster, found `n_clusters={n_clusters}`."
        raise ValueError(msg)
    if x.shape[0] < n_clusters:
        msg = f"Expected at least as many rows as clusters, found {x.shape[0]} rows for {n_clusters} clusters."
        raise ValueError(msg)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device starts from the same rows
    fit = x
    if x.shape[0] > max(MAX_FIT_CELLS, n_clusters):
        fit = x[torch.randperm(x.shape[0], generator=generator)[:MAX_FIT_CELLS].to(x.device)]
    if directions:
        fit = normalize(fit, dim=1)
    centers = _plus_plus(fit, n_clusters, n_runs, generator) if init is None else init.unsqueeze(0).to(fit)
    return KMeansRuns(*_lloyd(fit, centers, max_iter, tol * float(fit.var(0, correction=0).mean())))


def nearest(x: Tensor, centers: Tensor, *, directions: bool = False) -> tuple[Tensor, Tensor]:
    """Find the nearest centre of each row and the squared distance to it.

    Parameters
    ----------
    x
        Rows, shape (n_rows, n).
    centers
        Cluster centres, shape (n_clusters, n).
    directions
        Whether to scale each row to length 1 as it is read.

    Returns
    -------
    Labels (int64) and squared distances, each of shape (n_rows,).
    """
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distance = x.new_empty(len(x))
    for start in range(0, len(x), NEAREST_ROWS):
        rows = slice(start, start + NEAREST_ROWS)
        part = normalize(x[rows], dim=1) if directions else x[rows]
        value, labels[rows] = _half_distance(part, centers.unsqueeze(0))[:, 0].min(1)
        distance[rows] = (2.0 * value + part.square().sum(1)).clamp(min=0.0)
    return labels, distance


def _half_distance(x: Tensor, centers: Tensor) -> Tensor:
    """Compute half the squared distances without the norms of the rows, shape (n_rows, n_runs, n_clusters)."""
    n_runs, n_clusters, n = centers.shape
    flat = centers.reshape(n_runs * n_clusters, n)
    return torch.addmm(0.5 * flat.square().sum(1), x, flat.t(), alpha=-1.0).view(-1, n_runs, n_clusters)


def _plus_plus(x: Tensor, n_clusters: int, n_runs: int, generator: torch.Generator) -> Tensor:
    """Initialise all runs at once by greedy k-means++ (Arthur and Vassilvitskii 2007).

    The initial centres have shape (n_runs, n_clusters, n).
    """
    n_rows = x.shape[0]
    n_trials = 2 + int(math.log(n_clusters))
    norm = x.square().sum(1)
    chosen = torch.randint(n_rows, (n_runs,), generator=generator).to(x.device)
    # one block for all centres: small ones between the loop's large ones would keep the allocator from reusing these
    centers = x.new_empty(n_runs, n_clusters, x.shape[1])
    centers[:, 0] = x[chosen]
    closest = _squared_distance(x, norm, x[chosen])  # (n_rows, n_runs)
    for k in range(1, n_clusters):
        cumulative = closest.double().cumsum(0).t().contiguous()  # (n_runs, n_rows)
        draw = torch.rand(n_runs, n_trials, generator=generator, dtype=torch.float64).to(x.device)
        trial = torch.searchsorted(cumulative, draw * cumulative[:, -1:]).clamp(max=n_rows - 1)
        distance = _squared_distance(x, norm, x[trial.flatten()]).view(n_rows, n_runs, n_trials)
        distance = torch.minimum(distance, closest.unsqueeze(-1))
        best = distance.sum(0).argmin(1)
        runs = torch.arange(n_runs, device=x.device)
        centers[:, k] = x[trial[runs, best]]
        closest = distance[:, runs, best]
    return centers


def _squared_distance(x: Tensor, norm: Tensor, points: Tensor) -> Tensor:
    return (norm.unsqueeze(1) - 2.0 * x @ points.t() + points.square().sum(1)).clamp(min=0.0)


def _lloyd(x: Tensor, centers: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Iterate all runs, stopping each one once it has converged, and return the centres and inertias (n_runs,)."""
    n_runs, n_clusters, n = centers.shape
    norm = x.square().sum()
    offset = torch.arange(n_runs, device=x.device) * n_clusters
    moving = torch.ones(n_runs, dtype=torch.bool, device=x.device)
    centers = centers.clone()
    for _ in range(max_iter):
        runs = moving.nonzero().squeeze(1)
        value, label = _half_distance(x, centers[runs]).min(2)  # (n_rows, n_moving)
        flat = (label + offset[: len(runs)]).flatten()
        size = torch.bincount(flat, minlength=len(runs) * n_clusters).to(x.dtype)
        total = _scatter_rows(x, label, len(runs), n_clusters)
        mean = total / size.clamp(min=1.0).view(-1, n_clusters, 1)
        mean = _fill_empty(x, value, mean, size.view(-1, n_clusters))
        shift = (mean - centers[runs]).square().sum((1, 2))
        centers[runs] = mean
        moving[runs] = shift > tol
        if not bool(moving.any()):
            break
    value, _ = _half_distance(x, centers).min(2)
    return centers, 2.0 * value.sum(0) + norm


def _scatter_rows(x: Tensor, label: Tensor, n_runs: int, n_clusters: int) -> Tensor:
    """Sum the rows of each cluster in each run, shape (n_runs, n_clusters, n)."""
    total = x.new_zeros(n_runs, n_clusters, x.shape[1])
    for run in range(n_runs):
        add_rows(total[run], label[:, run], x)
    return total


def add_rows(total: Tensor, label: Tensor, x: Tensor) -> None:
    """Add each row of ``x`` (n_rows, n) to the row of ``total`` (n_groups, n) given by its label (n_rows,).

    The rows are added in the same order on every device, whereas ``index_add_`` on a GPU adds them in any order.
    """
    if x.device.type == "cpu":
        total.index_add_(0, label, x)
    else:
        total.add_(one_hot(label, len(total)).to(x).t() @ x)


def _fill_empty(x: Tensor, value: Tensor, mean: Tensor, size: Tensor) -> Tensor:
    """Move the centre of each empty cluster to the row that lies farthest from its own centre."""
    empty = (size == 0).nonzero()
    if len(empty):
        distance = value + 0.5 * x.square().sum(1, keepdim=True)
        for run, cluster in empty.tolist():
            row = int(distance[:, run].argmax())
            mean[run, cluster] = x[row]
            distance[row, run] = -torch.inf
    return mean
