import random

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, jaccard_score, silhouette_score

from scgpcl.cluster import _n_clusters, also_stable, cosine_silhouette, estimate_n_clusters, runners_up


def blobs(k, seed=0, n=400, sizes=None, std=0.6):
    x, _ = make_blobs(sizes or n, 12, centers=None if sizes else k, cluster_std=std, random_state=seed)
    return (x - x.mean(0)).astype(np.float32)


@pytest.mark.parametrize("k", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_finds_the_number_of_separate_blobs(k, power):
    found = estimate_n_clusters(blobs(k, seed=k), power=power, k_range=(2, 15))
    assert found.n_clusters == k


def test_finds_small_groups_beside_large_ones():
    assert estimate_n_clusters(blobs(4, sizes=[400, 120, 40, 15]), k_range=(2, 12)).n_clusters == 4


def test_one_blob_does_not_fail_and_is_announced():
    x = np.random.default_rng(0).normal(size=(300, 10))
    with pytest.warns(UserWarning, match=r"No number of clusters from 2 to 30 is stable.*Taking \d+"):
        found = estimate_n_clusters(x)
    curve = found.curve
    assert found.n_clusters == curve["K"][curve["stability"] == curve["stability"].max()].min()


def test_equal_cells_do_not_fail():
    with pytest.warns(UserWarning, match="is stable"):
        assert estimate_n_clusters(np.ones((50, 4)), k_range=(3, 6)).n_clusters == 3


def test_curve_has_a_row_per_number():
    curve = estimate_n_clusters(blobs(4), k_range=(3, 7)).curve
    assert curve["K"].tolist() == [3, 4, 5, 6, 7]
    assert list(curve) == ["K", "stability", "spread", "agreement", "silhouette"]
    assert curve["stability"].between(0, 1).all()
    assert (curve["spread"] >= 0).all()
    at = curve.set_index("K")
    assert at["silhouette"].idxmax() == 4
    assert at.loc[4, "agreement"] == pytest.approx(1.0)
    assert at.loc[4, "stability"] == pytest.approx(1.0)
    assert at.loc[5, "stability"] < 0.8


def test_stability_of_the_weakest_cluster_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    first = rng.integers(4, size=80)
    labels = np.stack([np.where(rng.random(80) < 0.2 * run, rng.integers(4, size=80), first) for run in range(4)])
    labels[2][labels[2] == 3] = 0  # one clustering leaves a cluster empty
    wanted = []
    for run in range(4):
        stability = []
        for cluster in range(4):
            best = [
                max(jaccard_score(labels[run] == cluster, labels[other] == c) for c in np.unique(labels[other]))
                if cluster in labels[run]
                else 0.0
                for other in range(4)
                if other != run
            ]
            stability.append(np.mean(best))
        wanted.append(min(stability))
    found = _n_clusters._weakest_cluster(torch.from_numpy(labels), 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    alone = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 0]])  # a cluster of one cell that all find
    np.testing.assert_array_equal(_n_clusters._weakest_cluster(alone, 2), [1.0, 1.0])


def test_agreement_and_silhouette_are_means_over_the_clusterings():
    from sklearn.metrics import silhouette_score

    z = torch.from_numpy(blobs(3, n=90, std=3.0))
    labels = torch.from_numpy(np.random.default_rng(0).integers(3, size=(3, 90)))
    row = _n_clusters._row(z, 3, labels)
    pairs = [adjusted_rand_score(labels[a], labels[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert row["agreement"] == pytest.approx(np.mean(pairs))
    silhouettes = [silhouette_score(z, found, metric="cosine") for found in labels]
    assert row["silhouette"] == pytest.approx(np.mean(silhouettes), abs=1e-5)


def test_same_seed_same_curve_and_global_state_stays():
    x = blobs(6, std=3.0)
    random.seed(0)
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state())  # noqa: NPY002
    one, two = (estimate_n_clusters(rows, seed=3, k_range=(2, 12)) for rows in (x, torch.from_numpy(x)))
    pd.testing.assert_frame_equal(one.curve, two.curve)
    assert one.n_clusters == two.n_clusters
    assert not one.curve.equals(estimate_n_clusters(x, seed=4, k_range=(2, 12)).curve)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_order_of_the_cells_and_scale_do_not_matter():
    x = blobs(6)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(x))
        assert estimate_n_clusters(x[order], k_range=(2, 12)).n_clusters == 6
    assert estimate_n_clusters(100.0 * x, k_range=(2, 12)).n_clusters == 6


def test_more_cells_than_it_looks_at_are_sampled(monkeypatch):
    seen = []
    rows = _n_clusters._subsample_labels
    monkeypatch.setattr(_n_clusters, "_subsample_labels", lambda x, *args: seen.append(len(x)) or rows(x, *args))
    assert estimate_n_clusters(blobs(5, n=1000), max_cells=200).n_clusters == 5
    assert seen == [200]


def test_takes_the_best_separated_stable_number_and_of_close_ones_the_smaller():
    silhouette = np.array([0.5, 0.5, 0.5, 0.9])
    curve = pd.DataFrame({"K": [2, 3, 4, 5], "stability": [1.0, 0.9, 0.8, 0.79], "silhouette": silhouette})
    assert _n_clusters._choose(curve, 0.8) == 4
    assert _n_clusters._choose(curve, 0.79) == 5
    assert _n_clusters._choose(curve, 0.95) == 2
    for share, wanted in ((0.995, 3), (0.98, 4)):  # of the product at 4
        curve["silhouette"] = [0.1, share * 0.5 * np.log(4) / np.log(3), 0.5, 0.9]
        assert _n_clusters._choose(curve, 0.8) == wanted


def test_groups_without_separation_give_the_smallest_stable_number():
    curve = pd.DataFrame({"K": [2, 3, 4], "stability": [0.5, 0.9, 0.9], "silhouette": 0.0})
    assert _n_clusters._choose(curve, 0.8) == 3
    assert _n_clusters._silhouette(torch.eye(4), torch.zeros(4, dtype=torch.int64), 1) == 0.0


def test_where_none_is_stable_the_most_stable_is_taken_and_of_equals_the_smallest():
    curve = pd.DataFrame({"K": [2, 3, 4, 5], "stability": [0.4, 0.5, 0.5, 0.3], "silhouette": 0.5})
    with pytest.warns(UserWarning, match="reaches 0.50 at most, 0.8 counts as stable. Taking 3"):
        assert _n_clusters._choose(curve, 0.8) == 3


@pytest.mark.parametrize("n_cells", [3, 4, 10])
@pytest.mark.filterwarnings("ignore:No number of clusters")
def test_few_cells(n_cells):
    found = estimate_n_clusters(np.random.default_rng(0).normal(size=(n_cells, 5)))
    assert 2 <= found.n_clusters < n_cells


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_range": (6, 3)}, r"2 <= smallest <= largest, found \(6, 3\)"),
        ({"k_range": (1, 3)}, r"found \(1, 3\)"),
        ({"k_range": (2, 60)}, "found 60 for 40 cells"),
        ({"threshold": 0.0}, "`threshold`.*found 0.0"),
        ({"threshold": 1.5}, "found 1.5"),
        ({"n_subsamples": 1}, "`n_subsamples`.* of at least 2, found 1"),
        ({"max_cells": 2}, "`max_cells`.* of at least 3, found 2"),
        ({"power": 2.0}, "`power`.* from 0 to 1, found 2.0"),
        ({"latent": np.full((50, 3), np.nan)}, "found NaN or infinite values in 50 rows"),
        ({"latent": np.zeros(50)}, r"found shape \(50,\)"),
        ({"latent": np.zeros((2, 5))}, r"at least 3 cells.*\(2, 5\)"),
    ],
)
def test_bad_input_is_refused(change, message):
    kwargs = {"latent": blobs(3, n=50), **change}
    with pytest.raises(ValueError, match=message):
        estimate_n_clusters(kwargs.pop("latent"), **kwargs)


def test_cosine_silhouette_equals_scikit_learn():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(150, 6, generator=g, dtype=torch.float64)
    labels = torch.randint(4, (150,), generator=g)
    labels[labels == 3] = torch.where(torch.arange(int((labels == 3).sum())) == 0, 3, 0)  # a cluster of one cell
    wanted = silhouette_score(z.numpy(), labels.numpy(), metric="cosine")
    assert cosine_silhouette(z, labels, 4) == pytest.approx(wanted, abs=1e-10)
    assert cosine_silhouette(z, labels, 6) == pytest.approx(wanted, abs=1e-10)  # empty clusters do not count


def test_runners_up_are_the_other_peaks_of_stable_numbers():
    stability = [0.9, 0.9, 0.9, 0.9, 0.5, 0.9, 0.95, 0.9, 0.9, 0.9, 0.9]
    silhouette = np.array([0.5, 0.9, 0.5, 0.4, 9.0, 0.8, 0.6, 0.55, 0.6, 0.5, 0.52])
    curve = pd.DataFrame({"K": range(2, 13), "stability": stability})
    curve["silhouette"] = silhouette / np.log(curve["K"])
    assert runners_up(curve, 3) == [7, 10, 12]  # 6 is not stable
    assert runners_up(curve, 7) == [3, 10, 12]
    assert runners_up(curve, 3, threshold=0.95) == [8]
    assert runners_up(curve, 3, threshold=0.99) == []
    assert also_stable([]) == ""
    assert also_stable([7]) == "7 is stable too: model.cut(7)"
    assert also_stable([7, 10, 12]) == "7, 10 and 12 are stable too: model.cut(7)"
