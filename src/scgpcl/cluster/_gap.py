"""Test whether two groups are separate along an axis or result from cutting one continuous group."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Number of grid points used to count the peaks of a density, and number of steps in the bandwidth search.
N_GRID, N_STEPS = 512, 30
#: Share of the highest density below which a peak is a rounding error, and the smallest separation that is
#: distinguished from no separation.
PEAK, LEAST = 1e-6, 0.05


class Gap(NamedTuple):
    """Log separation of two groups, and the log separations (n_null,) of cuts through one continuous group."""

    observed: float
    null: np.ndarray


def gap(first: np.ndarray, second: np.ndarray, side: np.ndarray, rng: np.random.Generator, n_null: int) -> Gap:
    """Compare the separation of two groups with cuts through one group that has a single peak.

    The separation is the distance between the means divided by the standard deviation within the groups. It is measured
    along two scores that share no genes, and the logarithms are averaged. Because the groups may have been found in the
    same counts, the separation is compared with the cut that separates best. For this comparison, cells are drawn from
    the density of the sum of the scores, smoothed with the smallest bandwidth that leaves a single peak (Silverman
    1981) and scaled to the same variance. They are cut at one end, with as many cells cut off as there are in the first
    group. Both scores of a drawn cell are predicted from the sum by regression, with residuals taken from the original
    cells.

    Parameters
    ----------
    first, second
        Scores of the same cells, each of shape (n_cells,) and larger in the second group.
    side
        Whether each cell is in the second group, bool, shape (n_cells,).
    rng
        Random number generator for the draws.
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
    """Find the smallest bandwidth at which the Gaussian kernel density of ``x`` (n,) has one peak (Silverman 1981)."""
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
    """Return the mean logarithm of the separations along two scores."""
    found = []
    for score in (first, second):
        own, other = score[side], score[~side]
        within = np.sqrt((own.var() * len(own) + other.var() * len(other)) / len(score))
        found.append(np.log(max((own.mean() - other.mean()) / max(within, 1e-12), LEAST)))
    return float(np.mean(found))
