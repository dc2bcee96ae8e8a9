"""Splits that hold on molecules set aside."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest, norm
from sklearn.cluster import KMeans

from scgpcl.cluster import SplitTest, _stability, any_apart, jaccard, split_test


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


def test_a_few_cells_on_either_side_are_no_group():
    _, halves, _ = counted(4.0 * np.eye(5)[:2], (50, 30))
    rng = np.random.default_rng(0)
    for sides in ((np.arange(2), np.arange(2, 80)), (np.arange(2, 80), np.arange(2))):
        assert split_test(halves, *sides, rng=rng) == SplitTest(1.0, 1.0)


@pytest.mark.parametrize("sizes", [(50, 30), (20, 200), (200, 20)])
def test_the_separation_of_two_groups_equals_a_literal_one(sizes):
    """Groups of one half as in scikit-learn; along their means, the gap in the other half over the pooled deviation."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], sizes)
    z = 6.0 * np.eye(4)[truth] + np.array([1.5, 0.5])[truth][:, None] * rng.normal(size=(len(truth), 4))
    a, b = (z + 0.5 * rng.normal(size=z.shape) for _ in range(2))
    start = np.stack([a[truth == group].mean(0) for group in (0, 1)])
    found = KMeans(2, init=start, n_init=1, tol=0.0).fit(a)
    along = b @ (found.cluster_centers_[1] - found.cluster_centers_[0])
    groups = [along[found.labels_ == group] for group in (0, 1)]
    within = np.concatenate([group - group.mean() for group in groups]).std()
    wanted = np.log((groups[1].mean() - groups[0].mean()) / within)
    assert 0.5 < wanted < 2.9  # within the bounds
    side, means = _stability._two_means(a[None], start[None])
    assert _stability._log_gap(b @ (means[0, 1] - means[0, 0]), side) == pytest.approx([wanted])


def test_the_p_value_of_a_minimum_separation_is_that_of_a_shifted_null(monkeypatch):
    """At the measured separation it is one half; at a lower minimum, the share of a normal null as many times as high."""
    rng = np.random.default_rng(0)
    z = np.repeat([[0.0, 0.0], [3.0, 0.0]], 100, axis=0) + rng.normal(size=(200, 2))
    halves = [tuple(z + 0.5 * rng.normal(size=z.shape) for _ in range(2))]
    nulls = []
    drawn = _stability._null
    monkeypatch.setattr(_stability, "_null", lambda *args: nulls.append(drawn(*args)) or nulls[-1])
    tested = lambda least: split_test(
        halves, np.arange(100), np.arange(100, 200), rng=np.random.default_rng(1), min_separation=least
    )
    found = tested(1.0)
    assert found.separation > 1.3
    assert tested(found.separation) == (found.separation, pytest.approx(0.5))
    for ratio in (0.9, 1.1):
        least = found.separation * ratio
        shifted = nulls[0] - nulls[0].mean() + np.log(least)
        wanted = norm(shifted.mean(), shifted.std(ddof=1)).sf(np.log(found.separation))
        assert tested(least) == (found.separation, pytest.approx(wanted))


def test_the_null_does_not_depend_on_how_many_draws_are_computed_at_once(monkeypatch):
    """Each draw stops at its own number of iterations, and some draws have a side that is too small."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(14, 5)) * np.array([3.0, 1.0, 1.0, 1.0, 0.5])
    a, b = (z + 0.5 * rng.normal(size=z.shape) for _ in range(2))
    order = np.argsort(a[:, 0])
    start = np.stack([a[order[:7]].mean(0), a[order[7:]].mean(0)])
    found = []
    for n_cells in (1, 60, 10_000):  # one draw, four, and all
        monkeypatch.setattr(_stability, "DRAWN_CELLS", n_cells)
        found.append(_stability._null(a, b, start, 7, np.random.default_rng(1), 50))
    assert (found[0] == 0.0).any()
    assert (found[0] > 0.0).any()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)


def test_the_null_is_that_of_both_halves_of_a_gaussian_group_cut_and_divided_by_two_means():
    """Both halves are drawn whole: what they share, and the noise of each."""
    rng = np.random.default_rng(0)
    n_cells, n_left, draws = 150, 40, 400
    z = rng.normal(size=(n_cells, 3)) @ np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.3, 0.4]])
    a, b = (z + scale * rng.normal(size=z.shape) for scale in (1.0, 1.5))
    start = np.stack([a[a[:, 0] < 0].mean(0), a[a[:, 0] >= 0].mean(0)])
    signal = (a.T @ b + b.T @ a) / (2 * n_cells)
    literal = []
    for _ in range(draws):
        shared = rng.multivariate_normal(np.zeros(3), signal, n_cells)
        first, second = (
            shared + rng.multivariate_normal(np.zeros(3), half.T @ half / n_cells - signal, n_cells) for half in (a, b)
        )
        order = np.argsort(first @ (start[1] - start[0]))
        cut = np.stack([first[order[:n_left]].mean(0), first[order[n_left:]].mean(0)])
        parts = KMeans(2, init=cut, n_init=1, max_iter=10, tol=0.0).fit(first)
        along = second @ (parts.cluster_centers_[1] - parts.cluster_centers_[0])
        groups = [along[parts.labels_ == group] for group in (0, 1)]
        within = np.concatenate([group - group.mean() for group in groups]).std()
        literal.append(max(0.0, np.log((groups[1].mean() - groups[0].mean()) / within)))
    found = _stability._null(a, b, start, n_left, rng, draws)
    assert ks_2samp(found, literal).pvalue > 0.01


@pytest.mark.parametrize(("n_cells", "draws"), [(40, 128), (1000, 32), (6000, 16)])
def test_the_null_of_fewer_cells_is_drawn_more_often(n_cells, draws, monkeypatch):
    drawn, rng = [], np.random.default_rng(0)
    monkeypatch.setattr(_stability, "_null", lambda *given: drawn.append(given[-1]) or np.linspace(0.0, 1.0, given[-1]))
    halves = [tuple(rng.normal(size=(2, n_cells, 2)).astype(np.float32))]
    split_test(halves, np.arange(n_cells // 2), np.arange(n_cells // 2, n_cells), rng=rng)
    assert drawn == [draws]


@pytest.mark.parametrize("side", [None, 1, 3])
def test_groups_are_apart_and_one_continuous_group_is_not(side):
    splits = (
        []
        if side is None
        else [(np.arange(0, 200, side + 1), np.setdiff1d(np.arange(200), np.arange(0, 200, side + 1)))]
    )
    halves = lambda found: (found[1][0][0], found[1][0][1])
    for seed in range(5):
        one = counted([[0.0] * 5], (200,), seed=seed)
        assert not any_apart(one[0][0], halves(one), splits, false_splits=0.01, seed=0)
        rng = np.random.default_rng(seed)  # a long gradient, as of a process that goes on in all cells
        line = np.linspace(-6.0, 6.0, 200)[:, None] * [1.0, 0.5, 0.0]
        drawn = [(line + rng.normal(size=line.shape)).astype(np.float32) for _ in range(3)]
        assert not any_apart(drawn[0], (drawn[1], drawn[2]), splits, false_splits=0.01, seed=0)
        two = counted(5.0 * np.eye(5)[:2] - 1.0, (120, 80), seed=seed)
        assert any_apart(two[0][0], halves(two), splits, false_splits=0.01, seed=0)


def test_a_small_group_apart_is_enough():
    found = counted([[0.0] * 4, [8.0, 8.0, 0.0, 0.0]], (290, 10))
    assert any_apart(found[0][0], found[1][0], [], false_splits=0.01, seed=0)


def test_a_split_that_two_means_miss_is_tested():
    rng = np.random.default_rng(0)
    z = np.r_[rng.normal(size=(290, 4)) * [3.0, 1.0, 1.0, 1.0], rng.normal(size=(12, 4)) + [0.0, 8.0, 0.0, 0.0]]
    whole, *halves = ((z - z.mean(0) + 0.3 * rng.normal(size=z.shape)).astype(np.float32) for _ in range(3))
    assert not any_apart(whole, tuple(halves), [], false_splits=0.01, seed=0)
    assert any_apart(whole, tuple(halves), [(np.arange(290), np.arange(290, 302))], false_splits=0.01, seed=0)


def judged_as(monkeypatch, *tests):
    """Replace the results of the tests, and return the list of tested sides."""
    seen, results = [], iter(tests)

    def judged(halves, left, right, *, rng):
        seen.append((left, right))
        return next(results)

    monkeypatch.setattr(_stability, "split_test", judged)
    return seen


@pytest.mark.parametrize("n_splits", [0, 1, 2])
def test_the_false_split_rate_is_shared_by_the_given_splits_and_that_of_two_means(monkeypatch, n_splits):
    whole = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    seen = judged_as(monkeypatch, *[SplitTest(3.0, 0.004)] * 3)
    splits = [(np.arange(20), np.arange(20, 60))] * n_splits
    assert any_apart(whole, (whole, whole), splits, false_splits=0.01, seed=0) == (n_splits < 2)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen[0])), np.arange(60))
    assert len(seen) == (1 if n_splits < 2 else 3)


def test_small_groups_apart_must_be_a_fifth_of_the_cells_together(monkeypatch):
    whole = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    apart, near = SplitTest(2.0, 0.0), SplitTest(1.9, 0.0)
    part = lambda start, stop: (np.r_[:start, stop:100], np.arange(start, stop))
    first, others = part(0, 50), [part(0, 8), part(8, 16), part(4, 12), part(16, 24)]
    judge = lambda tests: (
        judged_as(monkeypatch, *tests),
        any_apart(whole, (whole, whole), [first, *others], false_splits=0.01, seed=0),
    )[1]
    assert judge([apart])  # the two groups of k-means
    assert judge([near, apart])  # the first split
    assert judge([near, near, apart, apart, apart, apart])  # 24 cells
    assert not judge([near, near, apart, apart, apart, near])  # 16 cells, some of them twice
    assert not judge([near] * 6)


def test_equal_cells_are_one_group():
    zeros = np.zeros((20, 3), dtype=np.float32)
    assert not any_apart(zeros, (zeros, zeros), [], false_splits=0.01, seed=0)


def test_jaccard_of_masks():
    a, b = np.array([1, 1, 0, 0], dtype=bool), np.array([1, 0, 1, 0], dtype=bool)
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a & ~a, b & ~b) == 1.0


def test_too_few_cells_are_not_tested():
    few = np.random.default_rng(0).normal(size=(3, 19, 4)).astype(np.float32)
    assert any_apart(few[0], (few[1], few[2]), [], false_splits=0.01, seed=0)
