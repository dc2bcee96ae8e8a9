"""Test whether a split also appears in molecules that were not used to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import pdist
from scipy.stats import norm

from scgpcl.cluster._kmeans import kmeans
from scgpcl.nn import shrink_length

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Number of draws from the null distribution, and iterations of 2-means.
N_NULL = 16
N_STEPS = 10
#: Minimum number of cells on each side of a split, and in total to test whether there are groups.
MIN_SIDE, MIN_TESTED = 5, 20
#: Minimum separation for two groups to count as apart.
APART = 2.0
#: Power by which lengths are reduced before the groups are found, and restarts.
POWER, N_INIT = 0.5, 10
#: Logarithm at which separations are capped, because small groups can have hardly any variance.
MAX_LOG_SEPARATION = 3.0


class SplitTest(NamedTuple):
    """Separation of two groups, measured on held-out molecules.

    Parameters
    ----------
    separation
        Distance between the means over the standard deviation within groups, relative to that from cutting one
        continuous group: 1 means no gap, and well separated groups have 2 or more.
    p_value
        Probability of such a separation, or a larger one, in one continuous group.
    """

    separation: float
    p_value: float


def split_test(
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    left: np.ndarray,
    right: np.ndarray,
    *,
    rng: np.random.Generator,
    n_null: int = N_NULL,
) -> SplitTest:
    """Test whether two groups of cells are apart, or are two ends of one continuous group.

    The split is repeated with one half of the molecules of each cell, by 2-means starting from the two groups, and
    measured with the other half, along the direction between the means of the first half. Chance differences in one
    half are absent from the other (count splitting, Neufeld et al. 2022). Since any cut also separates the cells of a
    continuous group, the separation is compared with that of a Gaussian group, cut in the same way, with the covariance
    of these cells: that between the halves, which has no sampling noise, and the noise of each.

    Parameters
    ----------
    halves
        Vectors of all cells from both halves of the molecules, two arrays of shape (n_cells, n), for each kind of vectors.
        The logarithms of the separations are averaged over the kinds.
    left, right
        Positions of the cells of the two groups.
    rng
        Source of the draws.
    n_null
        Number of draws.
    """
    rows = np.r_[left, right]
    if min(len(left), len(right)) < MIN_SIDE:
        return SplitTest(1.0, 1.0)
    observed, null = 0.0, np.zeros(n_null)
    for first, second in halves:
        a, b = (half[rows].astype(np.float64) - half[rows].mean(0) for half in (first, second))
        start = np.stack([a[: len(left)].mean(0), a[len(left) :].mean(0)])
        observed += _log_separation(a, b, start)
        null += _null(a, b, start, len(left), rng, n_null)
    observed, null = observed / len(halves), null / len(halves)
    z = (observed - null.mean()) / max(null.std(ddof=1), 1e-9)
    return SplitTest(float(np.exp(observed - null.mean())), float(norm.sf(z)))


def any_apart(
    whole: np.ndarray, halves: tuple[np.ndarray, np.ndarray], n_clusters: int, *, false_splits: float, seed: int
) -> bool:
    """Whether any groups of cells are apart; otherwise the cells form one group, however much it may vary.

    Considers two groups, and the tree above ``n_clusters`` groups: k-means, and average linkage of the means by cosine.
    Splits are tested on held-out molecules, see :func:`split_test`. With too few cells for a test, returns True.

    Parameters
    ----------
    whole
        Centred vectors of the cells, shape (n_cells, n).
    halves
        The same from both halves of the molecules.
    n_clusters
        Number of groups to consider, besides two.
    false_splits
        Maximum probability of a wrong answer for one continuous group.
    seed
        Seed of the groups and of the test.
    """
    if len(whole) < MIN_TESTED:
        return True
    rng = np.random.default_rng(seed)
    rows = shrink_length(torch.from_numpy(whole).float(), POWER)
    splits = []
    for k in sorted({2, n_clusters}):
        if len(rows) < k:
            continue
        labels = kmeans(rows, k, n_init=N_INIT, seed=seed).labels.numpy()
        groups = [np.flatnonzero(labels == group) for group in np.unique(labels)]
        if len(groups) < 2:
            continue
        far = np.nan_to_num(pdist(np.stack([whole[group].mean(0) for group in groups]), "cosine"))
        for one, other in average(far)[:, :2].astype(int):
            splits.append((groups[one], groups[other]))
            groups.append(np.concatenate(splits[-1]))
    found = [split_test([halves], left, right, rng=rng) for left, right in splits]
    return any(test.separation >= APART and test.p_value * len(found) < false_splits for test in found)


def _null(
    a: np.ndarray, b: np.ndarray, start: np.ndarray, n_left: int, rng: np.random.Generator, n_null: int
) -> np.ndarray:
    """Log separations (n_null,) of draws of one group with the covariance of the cells of both halves (n_cells, n)."""
    n_cells, n = a.shape
    signal = (a.T @ b + b.T @ a) / (2 * n_cells)
    roots = [_root(value) for value in (signal, a.T @ a / n_cells - signal, b.T @ b / n_cells - signal)]
    found = np.empty(n_null)
    for draw in range(n_null):
        shared, first, second = (rng.standard_normal((n_cells, n)) @ root.T for root in roots)
        along = (shared + first) @ (start[1] - start[0])
        is_left = np.zeros(n_cells, dtype=bool)
        is_left[np.argsort(along, kind="stable")[:n_left]] = True  # as many cells as on the left of the split
        means = np.stack([(shared + first)[side].mean(0) for side in (is_left, ~is_left)])
        found[draw] = _log_separation(shared + first, shared + second, means)
    return found


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _log_separation(a: np.ndarray, b: np.ndarray, means: np.ndarray) -> float:
    """Split vectors (n_cells, n) by 2-means from two means (2, n), and measure the gap in other vectors of cells."""
    for _ in range(N_STEPS):
        side = a @ (means[1] - means[0]) > (means[1] ** 2 - means[0] ** 2).sum() / 2
        if not MIN_SIDE <= side.sum() <= len(side) - MIN_SIDE:
            return 0.0
        means = np.stack([a[~side].mean(0), a[side].mean(0)])
    along = b @ (means[1] - means[0])
    within = (along[side].var() * side.sum() + along[~side].var() * (~side).sum()) / len(side)
    gap = along[side].mean() - along[~side].mean()
    if gap <= 0.0 or within <= 0.0:
        return 0.0
    return float(np.clip(np.log(gap / np.sqrt(within)), 0.0, MAX_LOG_SEPARATION))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Cells that are in both of two groups, given as masks (n_cells,), over those in either; 1 if both are empty."""
    either = (first | second).sum()
    return float((first & second).sum() / either) if either else 1.0
