"""The number of clusters: what counts as a split, and which other numbers are named."""

import random

import numpy as np
import pandas as pd
import pytest
import torch

from scgpcl.cluster import Evidence, also_stable, estimate_n_clusters, runners_up
from scgpcl.cluster._stability import split_test
from scgpcl.cluster._tree import grow


def cells(sizes, *, seed=0, distance=6.0, noise=0.6):
    """Draws of groups of cells around corners of a simplex, and their halves, with noise of the molecules of each."""
    rng = np.random.default_rng(seed)
    z = distance * np.eye(8)[np.repeat(np.arange(len(sizes)), sizes)] + 0.5 * rng.normal(size=(sum(sizes), 8))
    z -= z.mean(0)
    drawn = lambda: (z + noise * rng.normal(size=z.shape)).astype(np.float32)
    return [torch.from_numpy(drawn()) for _ in range(4)], [(drawn(), drawn())]


def estimated(sizes, *, false_splits=0.01, **kwargs):
    draws, halves = cells(sizes, **kwargs)
    return estimate_n_clusters(Evidence.of(draws, 2, seed=0), halves, false_splits=false_splits, seed=0)


@pytest.mark.parametrize(
    "sizes", [[300], [200, 150], [100] * 3, [300, 60, 40, 20], [60] * 5, [200, 100, 50, 40, 30, 20, 20, 20]]
)
def test_finds_the_number_of_separate_groups(sizes):
    for seed in range(2):
        assert estimated(sizes, seed=seed).n_clusters == len(sizes)


def test_finds_more_groups_than_the_tree_of_a_model_has_leaves():
    rng = np.random.default_rng(0)
    z = 6.0 * np.eye(40).repeat(40, 0) + 0.3 * rng.normal(size=(1600, 40))
    drawn = lambda: (z + 0.3 * rng.normal(size=z.shape)).astype(np.float32)
    evidence = Evidence.of([torch.from_numpy(drawn()) for _ in range(4)], 2, seed=0)
    found = estimate_n_clusters(evidence, [(drawn(), drawn())], false_splits=0.01, seed=0)
    assert found.n_clusters == 40
    assert found.curve["holds"].sum() == 39
    assert found.curve["holds"].iloc[-1]  # the curve ends where the splits that hold do


def test_majority_alone_divides_one_group_and_the_test_does_not():
    curve = estimated([150, 150]).curve
    assert (curve["share"] > 0.5).sum() > 1
    assert curve["holds"].tolist() == [True] + [False] * (len(curve) - 1)


@pytest.mark.parametrize("sizes", [[120, 80, 60], [120, 80, 35, 25]])
def test_curve_and_splits_that_hold_are_those_of_a_slow_walk_down_the_tree(sizes):
    draws, halves = cells(sizes, distance=3.0)
    evidence = Evidence.of(draws, 2, seed=0)
    found = estimate_n_clusters(evidence, halves, false_splits=0.01, seed=0)
    curve = found.curve
    assert list(curve) == ["K", "share", "separation", "p_value", "holds"]
    assert curve["K"].tolist() == list(range(2, len(curve) + 2))
    assert curve["share"].is_monotonic_decreasing
    tree, own = grow(evidence, np.zeros(260, dtype=int), 1, 260 // 15)
    rng, holds, main = np.random.default_rng(0), {}, []
    for row, node in zip(curve.itertuples(), tree.splits, strict=True):
        left, right = (own[child] for child in tree.children[node])
        apart = np.mean(
            [[(evidence.labels[:, i] != evidence.labels[:, j]).float().mean() for j in right[::5]] for i in left[::5]]
        )
        assert row.share == pytest.approx(apart, abs=0.1)
        above = holds.get(tree.parent[node], tree.parent[node] < 0)
        if row.share > 0.5 and above:
            test = split_test(halves, left, right, rng=rng, min_separation=1.11)
            assert (row.separation, row.p_value) == (test.separation, test.p_value)
            wanted = test.p_value * (curve["share"] > 0.5).sum() <= 0.01
        else:
            assert np.isnan(row.separation)
            assert np.isnan(row.p_value)
            wanted = False
        holds[node] = wanted
        assert row.holds == wanted
        if tree.parent[node] < 0 or wanted:
            main.append((left, right))
    assert len(found.splits) == len(main) > 1
    for sides, others in zip(found.splits, main, strict=True):
        for side, other in zip(sides, others, strict=True):
            np.testing.assert_array_equal(side, other)
    assert found.n_clusters == 1 + sum(holds.values())


def test_splits_that_do_not_exceed_the_separation_do_not_hold():
    draws, halves = cells([120, 80, 60], distance=3.0)
    evidence = Evidence.of(draws, 2, seed=0)
    curve = estimate_n_clusters(evidence, halves, false_splits=0.01, seed=0).curve
    held = curve.loc[curve["holds"], "separation"]
    for limit, wanted in ((held.min() / 1.5, len(held) + 1), (held.max(), 1)):
        found = estimate_n_clusters(evidence, halves, min_separation=limit, false_splits=0.01, seed=0)
        assert found.n_clusters == wanted


def test_no_split_holds_at_a_false_split_rate_of_zero():
    found = estimated([100, 100], false_splits=0.0)
    assert found.n_clusters == 1
    assert len(found.splits) == 1  # the first, whether it holds or not
    assert sorted(np.concatenate(found.splits[0])) == list(range(200))


def test_the_false_split_rate_is_that_of_all_splits_together(monkeypatch):
    from scgpcl.cluster import _n_clusters

    candidates = (estimated([100, 80, 60]).curve["share"] > 0.5).sum()
    monkeypatch.setattr(_n_clusters, "split_test", lambda *args, **kwargs: _n_clusters_test(0.01 / candidates))
    assert estimated([100, 80, 60], false_splits=0.01).n_clusters == candidates + 1
    assert estimated([100, 80, 60], false_splits=0.0099).n_clusters == 1


def _n_clusters_test(p_value):
    from scgpcl.cluster import SplitTest

    return SplitTest(3.0, p_value)


@pytest.mark.parametrize("n_cells", [3, 20, 60])
def test_equal_and_few_cells_are_one_group(n_cells):
    zeros = np.zeros((n_cells, 4), dtype=np.float32)
    evidence = Evidence.of([torch.from_numpy(zeros)] * 3, 2, seed=0)
    assert estimate_n_clusters(evidence, [(zeros, zeros)], false_splits=0.01, seed=0).n_clusters == 1


def test_same_seed_same_curve_and_global_state_stays():
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state().clone()  # noqa: NPY002
    one, two = (estimated([120, 80, 40], distance=2.5) for _ in range(2))
    pd.testing.assert_frame_equal(one.curve, two.curve)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_runners_up_are_numbers_after_which_the_share_falls():
    share = [0.9, 0.88, 0.6, 0.58, 0.55, 0.5, 0.3, 0.29, 0.28, 0.27]
    curve = pd.DataFrame({"K": range(2, 12), "share": share})
    assert runners_up(curve, 5) == [3, 7]
    assert runners_up(curve, 7) == [3]
    assert runners_up(curve, 1) == []  # one group
    assert runners_up(curve, 2) == [7]  # 3 is its neighbour
    steps = pd.DataFrame(
        {"K": range(2, 14), "share": np.cumsum([1.0, 0, -0.1, 0, -0.12, 0, -0.2, 0, -0.15, 0, -0.04, 0])}
    )
    assert runners_up(steps, 12) == [7, 9, 5]  # three at most, and no small falls
    assert runners_up(pd.DataFrame({"K": [], "share": []}), 2) == []


def test_words_for_runners_up():
    assert also_stable([]) == ""
    assert also_stable([7]) == "7 is stable too: model.cut(7)"
    assert also_stable([7, 10, 12]) == "7, 10 and 12 are stable too: model.cut(7)"
