"""Whether two groups are apart along an axis, or result from a cut through one continuous group."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Number of grid points on which the peaks of densities are counted, and steps of the search for a bandwidth.
N_GRID, N_STEPS = 512, 30
#: Share of the highest density below which a peak is a rounding error, and the smallest separation told from none.
PEAK, LEAST = 1e-6, 0.05


class Gap(NamedTuple):
    """Logarithm of the separation of two groups, and of those of cuts through one continuous group, shape (n_null,)."""

    observed: float
    null: np.ndarray


def gap(first: np.ndarray, second: np.ndarray, side: np.ndarray, rng: np.random.Generator, n_null: int) -> Gap:
    """Compare the separation of two groups with that of cuts through one group with a single peak.

    The separation is the distance of the means over the standard deviation within the groups, and is measured along two
    scores that share no genes; the logarithms are averaged. The groups may have been found in the same counts. The comparison
    is therefore with the cut that separates best: cells are drawn from the density of the sum of the scores, smoothed with the
    smallest bandwidth that leaves a single peak (Silverman 1981) and scaled to the same variance, and as many as in the first
    group are cut off at one end. Both scores of a draw follow from the sum by regression, with residuals of the cells.

    Parameters
    ----------
    first, second
        Scores of the same cells, shape (n_cells,), larger in the second group.
    side
        Whether each cell is in the second group, bool, shape (n_cells,).
    rng
        Source of the draws.
    n_null
        Number of draws.
    """
    n_cells, n_second = len(side), int(side.sum())
    total = first + second
    variance = max(float(total.var()), np.finfo(float).tiny)
    deviation = total - total.mean()
    slope = float(deviation @ first) / n_cells / variance
    residual = first - first.mean() - slope * deviation  # what the second score lacks
    width = critical_bandwidth(total)
    null = np.empty(n_null)
    for draw in range(n_null):
        drawn = deviation[rng.integers(n_cells, size=n_cells)] + width * rng.standard_normal(n_cells)
        drawn /= np.sqrt(1.0 + width**2 / variance)
        more = residual[rng.integers(n_cells, size=n_cells)]
        cut = np.zeros(n_cells, dtype=bool)
        cut[np.argsort(drawn, kind="stable")[n_cells - n_second :]] = True
        null[draw] = _log_separation(slope * drawn + more, (1.0 - slope) * drawn - more, cut)
    return Gap(_log_separation(first, second, side), null)


def critical_bandwidth(x: np.ndarray) -> float:
    """Smallest bandwidth at which the Gaussian kernel density of numbers (n,) has one peak (Silverman 1981)."""
    span = float(np.ptp(x))
    if span == 0.0:
        return 0.0
    grid = np.linspace(x.min() - span / 2, x.max() + span / 2, N_GRID)
    step = grid[1] - grid[0]
    counts = np.histogram(x, np.r_[grid - step / 2, grid[-1] + step / 2])[0]
    spectrum, frequency = np.fft.rfft(counts), 2.0 * np.pi * np.fft.rfftfreq(N_GRID, step)
    low, high = step, span
    for _ in range(N_STEPS):
        middle = np.sqrt(low * high)
        density = np.fft.irfft(spectrum * np.exp(-0.5 * (middle * frequency) ** 2), N_GRID)
        density[density < PEAK * density.max()] = 0.0
        slope = np.sign(np.diff(density))
        slope = slope[slope != 0]
        if ((slope[:-1] > 0) & (slope[1:] < 0)).sum() <= 1:
            high = middle
        else:
            low = middle
    return float(high)


def _log_separation(first: np.ndarray, second: np.ndarray, side: np.ndarray) -> float:
    """Mean logarithm of the separations along two scores."""
    found = []
    for score in (first, second):
        own, other = score[side], score[~side]
        within = np.sqrt((own.var() * len(own) + other.var() * len(other)) / len(score))
        found.append(np.log(max((own.mean() - other.mean()) / max(within, 1e-12), LEAST)))
    return float(np.mean(found))
