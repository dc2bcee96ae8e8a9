"""Splits that hold on molecules set aside."""

import numpy as np
import pytest
from scipy.stats import kstest

from scgpcl.cluster import jaccard, split_test


def counted(centers, sizes, seed=0, noise=0.7):
    """Draws and halves of groups of cells around centres (n_groups, n), with noise of the molecules of each draw."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    z = np.asarray(centers, dtype=float)[truth] + 0.5 * rng.normal(size=(len(truth), len(centers[0])))
    drawn = lambda: (z + noise * rng.normal(size=z.shape)).astype(np.float32)
    return [drawn() for _ in range(4)], [(drawn(), drawn())], truth


def test_p_values_are_uniform_or_larger_where_one_group_is_cut():
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(120, 4)) * [3.0, 1.0, 1.0, 1.0]
        first, second = (z + rng.normal(size=z.shape) for _ in range(2))
        whole = first + second
        side = whole[:, 0] > 0
        p.append(split_test([(first, second)], np.flatnonzero(~side), np.flatnonzero(side), rng=rng).p_value)
    assert kstest(p, "uniform", alternative="greater").pvalue > 0.01  # not too many small ones
    assert np.mean(np.array(p) < 0.05) <= 0.125


def test_a_gap_is_found_on_molecules_set_aside():
    _, halves, truth = counted(4.0 * np.eye(5)[:2], (50, 30))
    found = split_test(halves, np.flatnonzero(truth == 0), np.flatnonzero(truth == 1), rng=np.random.default_rng(0))
    assert found.separation > 1.5
    assert found.p_value < 1e-3
    few = split_test(halves, np.arange(2), np.arange(2, 80), rng=np.random.default_rng(0))
    assert few.p_value == 1.0


def test_jaccard_of_masks():
    a, b = np.array([1, 1, 0, 0], dtype=bool), np.array([1, 0, 1, 0], dtype=bool)
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a & ~a, b & ~b) == 1.0
