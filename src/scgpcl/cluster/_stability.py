"""Test whether a split also appears in molecules that were not used to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.stats import norm

from scgpcl.cluster._kmeans import kmeans
from scgpcl.nn import shrink_length

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Number of cells in all draws from the null distribution together, and the minimum and maximum number of draws. The
#: separation of few cells varies more from draw to draw, so more draws are needed for the same precision.
NULL_CELLS, N_NULL = 32_000, (16, 128)
#: Number of cells of the draws that are computed at once.
DRAWN_CELLS = 4_000
#: Number of iterations of 2-means.
N_STEPS = 10
#: Minimum number of cells on each side of a split, and minimum number of cells needed to test for groups.
MIN_SIDE, MIN_TESTED = 5, 20
#: Minimum separation for two groups to count as apart.
APART = 2.0
#: Minimum share of the cells in groups that are apart, unless they are the two groups of k-means or the sides of the first
#: split. Small groups, such as doublets, are also apart in a single cell line.
APART_SHARE = 0.2
#: Power by which vector lengths are reduced before the groups are found, and number of k-means restarts.
POWER, N_INIT = 0.5, 10
#: Upper bound for the logarithm of a separation, because small groups can have hardly any variance.
MAX_LOG_SEPARATION = 3.0


class SplitTest(NamedTuple):
    """Separation of two groups, measured on held-out molecules.

    Parameters
    ----------
    separation
        Distance between the means divided by the standard deviation within groups, relative to the value from cutting
        one continuous group. A value of 1 means no gap, and well-separated groups have 2 or more.
    p_value
        Probability of a separation at least this large if the true separation is the minimum separation of the test. By
        default, this is the separation of one continuous group.
    """

    separation: float
    p_value: float


def split_test(
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    left: np.ndarray,
    right: np.ndarray,
    *,
    rng: np.random.Generator,
    min_separation: float = 1.0,
) -> SplitTest:
    """Test whether two groups of cells are apart or are the two ends of one continuous group.

    The split is repeated on one half of the molecules of each cell, by 2-means starting from the two groups. It is then
    measured on the other half, along the direction between the means of the first half. Chance differences in one half
    are absent from the other (count splitting, Neufeld et al. 2022). Since any cut also separates the cells of a
    continuous group, the separation is compared with the separation of a Gaussian group that is cut in the same way.
    This group has the same covariance as the cells: the covariance between the halves, which is free of sampling noise,
    plus the noise of each half.

    Parameters
    ----------
    halves
        Two arrays of shape (n_cells, n) for each kind of vectors, which hold the vectors of all cells from the two
        halves of the molecules. The log separations are averaged over the kinds of vectors.
    left, right
        Positions of the cells in the two groups.
    rng
        Random number generator for the draws.
    min_separation
        Separation that the p-value refers to. With a value above 1, small p-values require a separation that is not only
        different from that of a continuous group but also larger by a relevant amount (McCarthy and Smyth 2009).
    """
    rows = np.r_[left, right]
    if min(len(left), len(right)) < MIN_SIDE:
        return SplitTest(1.0, 1.0)
    n_null = int(np.clip(NULL_CELLS // len(rows), *N_NULL))
    observed, null = 0.0, np.zeros(n_null)
    for first, second in halves:
        a, b = (half[rows].astype(np.float64) - half[rows].mean(0) for half in (first, second))
        start = np.stack([a[: len(left)].mean(0), a[len(left) :].mean(0)])
        side, means = _two_means(a[None], start[None])
        observed += float(_log_gap(b @ (means[0, 1] - means[0, 0]), side)[0])
        null += _null(a, b, start, len(left), rng, n_null)
    observed, null = observed / len(halves), null / len(halves)
    larger = observed - null.mean()
    z = (larger - np.log(min_separation)) / max(null.std(ddof=1), 1e-9)
    return SplitTest(float(np.exp(larger)), float(norm.sf(z)))


def any_apart(
    whole: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    false_splits: float,
    seed: int,
) -> bool:
    """Return whether groups of cells are apart. Otherwise, the cells form one group, however much it may vary.

    The candidates are the split into two groups by k-means and the given splits, which are tested on held-out molecules
    (see :func:`split_test`). The two groups by k-means, or the sides of the first given split, decide alone. For the
    other splits, the smaller sides that are apart must together contain a fifth of the cells. If there are too few cells
    for a test, the result is ``True``.

    Parameters
    ----------
    whole
        Centred vectors of the cells, shape (n_cells, n).
    halves
        Centred vectors of the cells from the two halves of the molecules.
    splits
        Positions of the cells on both sides of splits, in the order in which they are made.
    false_splits
        Maximum probability of a wrong answer for one continuous group.
    seed
        Random seed for the groups and the test.
    """
    if len(whole) < MIN_TESTED:
        return True
    rng = np.random.default_rng(seed)
    rows = shrink_length(torch.from_numpy(whole).float(), POWER)
    right = kmeans(rows, 2, n_init=N_INIT, seed=seed).labels.numpy() == 1
    small = np.zeros(len(whole), dtype=bool)
    for number, sides in enumerate([(np.flatnonzero(~right), np.flatnonzero(right)), *splits]):
        found = split_test([halves], *sides, rng=rng)
        if found.separation < APART or found.p_value * (1 + len(splits)) > false_splits:
            continue
        small[min(sides, key=len)] = True
        if number < 2 or small.mean() >= APART_SHARE:
            return True
    return False


def _null(
    a: np.ndarray, b: np.ndarray, start: np.ndarray, n_left: int, rng: np.random.Generator, n_null: int
) -> np.ndarray:
    """Draw one group with the covariance of the cells repeatedly, and return the log separations (n_null,).

    ``a`` and ``b`` are the vectors of the cells from both halves, each of shape (n_cells, n). Drawn are the vectors of
    the first half, along the axes of their covariance, and those of the second half given the first, but only along the
    direction in which they are measured.
    """
    n_cells = len(a)
    signal = (a.T @ b + b.T @ a) / (2 * n_cells)
    shared = _without_negative(signal)
    first, second = (shared + _without_negative(half.T @ half / n_cells - signal) for half in (a, b))
    values, axes = np.linalg.eigh(first)
    varies = values > 1e-9 * values[-1]
    values, axes = values[varies], axes[:, varies]
    slope = axes.T @ shared @ axes / values
    rest = axes.T @ second @ axes - (slope * values) @ slope.T
    scale, direction = np.sqrt(values).astype(np.float32), (start[1] - start[0]) @ axes
    found = []
    for n_draws in np.diff(np.r_[0 : n_null : max(1, DRAWN_CELLS // n_cells), n_null]):
        x = np.empty((n_draws, n_cells, len(values)), dtype=np.float32)
        noise = np.empty((n_draws, n_cells))
        for draw in range(n_draws):
            rng.standard_normal(dtype=np.float32, out=x[draw])
            rng.standard_normal(out=noise[draw])
        x *= scale
        is_right = np.ones((n_draws, n_cells), dtype=bool)
        lowest = np.argpartition(x @ direction, n_left, axis=1)[:, :n_left]
        np.put_along_axis(is_right, lowest, False, axis=1)  # as many cells as on the left of the split
        side, means = _two_means(x, _means(x, is_right))
        between = means[:, 1] - means[:, 0]
        spread = np.sqrt(np.maximum(((between @ rest) * between).sum(1), 0.0))
        found.append(_log_gap(_along(x, between @ slope) + spread[:, None] * noise, side))
    return np.concatenate(found)


def _without_negative(covariance: np.ndarray) -> np.ndarray:
    """Remove the directions in which an estimated covariance is negative."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def _along(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Project the cells (n_draws, n_cells, n) of each draw onto a direction (n_draws, n)."""
    return (x @ direction[:, :, None].astype(x.dtype))[:, :, 0]


def _means(x: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Compute the means (n_draws, 2, n) of the cells (n_draws, n_cells, n) on the left and on the right side."""
    sides = np.stack([~side, side], axis=1).astype(x.dtype)
    return (sides @ x).astype(np.float64) / np.maximum(sides.sum(2, keepdims=True), 1.0)


def _two_means(x: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split vectors (n_draws, n_cells, n) by 2-means from two means (n_draws, 2, n), separately for each draw.

    Returns whether each cell is on the right side (n_draws, n_cells), and the means. If one side is too small, the split
    is left as it is.
    """
    side = np.zeros(x.shape[:2], dtype=bool)
    for _ in range(N_STEPS):
        new = _along(x, means[:, 1] - means[:, 0]) > (means[:, 1] ** 2 - means[:, 0] ** 2).sum(1, keepdims=True) / 2
        unchanged, side = np.array_equal(new, side), new
        if unchanged:
            break
        means = np.where(_both_large(side)[:, None, None], _means(x, side), means)
    return side, means


def _both_large(side: np.ndarray) -> np.ndarray:
    """Return for each draw whether both sides (n_draws, n_cells) have enough cells, bool, shape (n_draws,)."""
    n_right = side.sum(1)
    return (n_right >= MIN_SIDE) & (n_right <= side.shape[1] - MIN_SIDE)


def _log_gap(along: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Compute the log separation of the two sides (n_draws, n_cells) along a direction (n_draws, n_cells)."""
    sides = np.stack([~side, side]).astype(np.float64)
    n = np.maximum(sides.sum(2), 1.0)
    mean = (sides * along).sum(2) / n
    within = (sides * (along - mean[:, :, None]) ** 2).sum((0, 2)) / side.shape[1]
    gap = mean[1] - mean[0]
    apart = _both_large(side) & (gap > 0.0) & (within > 0.0)
    ratio = np.divide(gap, np.sqrt(within), out=np.ones_like(gap), where=apart)
    return np.clip(np.log(ratio), 0.0, MAX_LOG_SEPARATION)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Jaccard index of two groups of cells, given as masks (n_cells,). It is 1 if both groups are empty."""
    either = (first | second).sum()
    return float((first & second).sum() / either) if either else 1.0
