from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from scgpcl import metrics


def brute_force_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Every one-to-one naming of clusters, those left over named after nothing."""
    label_names, cluster_names = np.unique(labels), np.unique(clusters)
    blanks = [-1] * max(0, len(cluster_names) - len(label_names))
    best = 0.0
    for naming in permutations([*label_names, *blanks], len(cluster_names)):
        named = np.array(naming)[np.searchsorted(cluster_names, clusters)]
        best = max(best, float(np.mean(named == labels)))
    return best


@pytest.mark.parametrize(("n_labels", "n_clusters"), [(4, 4), (3, 5), (5, 3), (1, 3), (3, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_accuracy_equals_the_best_of_all_permutations(n_labels, n_clusters, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, 60)
    clusters = np.where(rng.random(60) < 0.5, labels % n_clusters, rng.integers(0, n_clusters, 60))
    assert metrics.accuracy(labels, clusters) == pytest.approx(brute_force_accuracy(labels, clusters))


@pytest.mark.parametrize(("n_labels", "n_clusters"), [(4, 4), (3, 5), (5, 3)])
def test_scores_equal_scikit_learn_on_matched_names(n_labels, n_clusters):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, n_labels, 300)
    clusters = np.where(rng.random(300) < 0.6, labels % n_clusters, rng.integers(0, n_clusters, 300))
    mapping = metrics.match_clusters(labels, clusters)
    named = pd.Series(clusters).map(mapping).fillna(-1).to_numpy()
    assert metrics.accuracy(labels, clusters) == pytest.approx(accuracy_score(labels, named))
    expected = f1_score(labels, named, labels=np.unique(labels), average="macro", zero_division=0)
    assert metrics.macro_f1(labels, clusters) == pytest.approx(expected)


def test_perfect_agreement_under_any_names():
    labels = np.repeat(["a", "b", "c"], [50, 3, 2])
    clusters = np.repeat([2, 0, 1], [50, 3, 2])
    assert metrics.accuracy(labels, clusters) == 1
    assert metrics.macro_f1(labels, clusters) == 1
    assert metrics.match_clusters(labels, clusters) == {2: "a", 0: "b", 1: "c"}


def test_a_lost_small_type_costs_macro_f1_more_than_accuracy():
    labels = np.repeat(["a", "b"], [98, 2])
    clusters = np.zeros(100, dtype=int)
    assert metrics.accuracy(labels, clusters) == pytest.approx(0.98)
    # F1 of a is 2 * 98 / (98 + 100), of b 0
    assert metrics.macro_f1(labels, clusters) == pytest.approx(196 / 198 / 2)


def test_hungarian_leaves_clusters_over_and_majority_repeats_labels():
    labels = np.repeat(["a", "b"], [60, 10])
    clusters = np.array(["x"] * 35 + ["y"] * 25 + ["z"] * 9 + ["y"])
    assert metrics.match_clusters(labels, clusters) == {"x": "a", "z": "b"}
    assert metrics.match_clusters(labels, clusters, method="majority") == {"x": "a", "y": "a", "z": "b"}


def test_hungarian_is_not_greedy():
    # The largest entry (a, x) = 6 belongs to no best matching: 5 + 5 > 6 + 1.
    labels = np.repeat(["a", "a", "b", "b"], [6, 5, 5, 1])
    clusters = np.repeat(["x", "y", "x", "y"], [6, 5, 5, 1])
    assert metrics.match_clusters(labels, clusters) == {"x": "b", "y": "a"}
    assert metrics.accuracy(labels, clusters) == pytest.approx(10 / 17)


def test_mapping_holds_plain_python_values():
    mapping = metrics.match_clusters(np.array([1, 1, 2]), pd.Categorical(["0", "0", "1"]))
    assert mapping == {"0": 1, "1": 2}
    assert all(type(value) is int for value in mapping.values())


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="'hungarian' or 'majority', found 'best'"):
        metrics.match_clusters([0], [0], method="best")
