import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scgpcl import metrics


@pytest.fixture(params=range(3))
def pair(request):
    rng = np.random.default_rng(request.param)
    labels = rng.integers(0, 4, 200)
    clusters = np.where(rng.random(200) < 0.7, labels, rng.integers(0, 6, 200))
    return labels, clusters


@pytest.mark.parametrize(
    ("ours", "theirs"), [(metrics.ari, adjusted_rand_score), (metrics.nmi, normalized_mutual_info_score)]
)
def test_equal_to_scikit_learn(pair, ours, theirs):
    assert ours(*pair) == pytest.approx(theirs(*pair), abs=1e-12)


@pytest.mark.parametrize("metric", [metrics.ari, metrics.nmi, metrics.accuracy])
def test_names_order_and_direction_do_not_matter(pair, metric):
    labels, clusters = pair
    expected = metric(labels, clusters)
    assert metric(clusters, labels) == pytest.approx(expected)
    assert metric(np.array(["d", "a", "c", "b"])[labels], clusters * 10.5) == pytest.approx(expected)
    assert metric(pd.Categorical(labels), pd.Series(clusters, index=np.arange(200)[::-1])) == pytest.approx(expected)
    order = np.random.default_rng(9).permutation(200)
    assert metric(labels[order], clusters[order]) == pytest.approx(expected)


def test_ari_of_the_textbook_example():
    # contingency [[1, 1, 0], [1, 2, 1], [0, 0, 4]]: Hubert and Arabie's index by hand, (8 - 13*14/45) / (13.5 - 13*14/45)
    labels = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    clusters = ["a", "b", "a", "b", "b", "c", "c", "c", "c", "c"]
    pairs_both = 1 + 6
    pairs_labels, pairs_clusters = 1 + 6 + 6, 1 + 3 + 10
    expected = pairs_labels * pairs_clusters / 45
    by_hand = (pairs_both - expected) / ((pairs_labels + pairs_clusters) / 2 - expected)
    assert metrics.ari(labels, clusters) == pytest.approx(by_hand)


ALL = [metrics.ari, metrics.nmi, metrics.accuracy, metrics.macro_f1, metrics.match_clusters]


@pytest.mark.parametrize("metric", ALL)
def test_refuses_different_lengths(metric):
    with pytest.raises(ValueError, match="found 3 labels and 2 clusters"):
        metric([0, 1, 1], [0, 1])


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    "missing",
    [
        [0.0, np.nan, 1.0],
        ["a", None, "b"],
        pd.Categorical(["a", np.nan, "b"]),
        pd.Series(["a", pd.NA, "b"], dtype="string"),
        np.array(["a", np.nan, "b"], dtype=object),
    ],
    ids=["float", "none", "categorical", "string", "object"],
)
def test_refuses_missing_values(metric, missing):
    with pytest.raises(ValueError, match=r"`labels`, found 1 missing of 3"):
        metric(missing, [0, 1, 2])
    with pytest.raises(ValueError, match=r"`clusters`, found 1 missing of 3"):
        metric([0, 1, 2], missing)


@pytest.mark.parametrize("metric", ALL)
def test_refuses_other_shapes(metric):
    with pytest.raises(ValueError, match=r"one-dimensional.*\(2, 2\)"):
        metric(np.zeros((2, 2)), [0, 1])
    with pytest.raises(ValueError, match="at least one cell"):
        metric([], [])


def test_series_of_the_same_cells_are_aligned_by_name():
    cells = pd.Index([f"cell{i}" for i in range(60)])
    rng = np.random.default_rng(0)
    labels = pd.Series(rng.integers(3, size=60), index=cells)
    clusters = pd.Series(np.where(rng.random(60) < 0.8, labels, 0), index=cells)
    for score in (metrics.ari, metrics.nmi, metrics.accuracy, metrics.macro_f1):
        wanted = score(labels.to_numpy(), clusters.to_numpy())
        assert score(labels, clusters.sample(frac=1, random_state=1)) == wanted
        assert score(labels, clusters.reset_index(drop=True)) == wanted  # other names: by position
        assert score(labels, clusters.iloc[::-1].to_numpy()) != wanted
