"""The test of two groups in held-out cells, step by step and by its rate of errors."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import binom, mannwhitneyu, ttest_ind
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from statsmodels.stats.multitest import multipletests

from scgpcl.pp import holm, pair_test
from scgpcl.pp._pairs import held_out_scores, rank_test


def one_group(seed, n_cells=300, n_genes=500):
    """Log-normalised counts of one group with a gradient that has no gap."""
    rng = np.random.default_rng(seed)
    gradient = rng.standard_normal(n_cells)[:, None] * rng.normal(0, 0.4, n_genes) * (rng.random(n_genes) < 0.2)
    mean = rng.gamma(0.5, 1.0, n_genes) * np.exp(gradient) * rng.lognormal(0, 0.3, (n_cells, 1))
    x = rng.poisson(mean).astype(float) + np.eye(n_cells, n_genes)
    return sp.csr_matrix(np.log1p(x / x.sum(1, keepdims=True) * np.median(x.sum(1))))


def two_groups(seed, n_cells=300):
    x = one_group(seed, n_cells).toarray()
    side = np.random.default_rng(seed).random(n_cells) < 0.4
    x[np.ix_(side, np.arange(0, 500, 12))] += 0.8
    return sp.csr_matrix(x), side


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
def test_scores_are_those_of_dense_steps():
    x, side = two_groups(0)
    train = np.random.default_rng(0).random(300) < 0.5
    dense = x.toarray()
    t = np.abs(ttest_ind(dense[train & side], dense[train & ~side], equal_var=False).statistic)
    t[(dense[train] > 0).sum(0) < 5] = 0
    ranked = np.argsort(-np.nan_to_num(t))[:200]
    found = held_out_scores(x, side, train, None)
    for scores, genes in zip(found, (ranked[::2], ranked[1::2]), strict=True):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(dense[train][:, genes], side[train])
        assert np.corrcoef(scores, model.decision_function(dense[~train][:, genes]))[0, 1] > 0.99


def test_ranks_are_tested_within_batches():
    rng = np.random.default_rng(0)
    score, side = rng.standard_normal(200), rng.random(200) < 0.3
    expected = mannwhitneyu(score[side], score[~side], alternative="greater", method="asymptotic", use_continuity=False)
    assert rank_test(score, side, np.zeros(200, dtype=int)) == pytest.approx(expected.pvalue)
    batch = rng.integers(4, size=200)
    order = np.argsort(batch, kind="stable")  # permutations within batches, the slow way
    ranks, weight = np.empty(200), np.empty(200)
    for code in range(4):
        ranks[batch == code] = np.argsort(np.argsort(score[batch == code])) + 1
        weight[batch == code] = 1 / ((batch == code).sum() + 1)
    observed = (ranks * weight)[side].sum()
    drawn = []
    for _ in range(4000):
        shuffled = side[order].copy()
        for code in range(4):
            own = batch[order] == code
            shuffled[own] = rng.permutation(shuffled[own])
        drawn.append((ranks * weight)[order][shuffled].sum())
    assert rank_test(score + 100.0 * batch, side, batch) == pytest.approx(
        np.mean(np.array(drawn) >= observed), abs=0.03
    )


def test_holm_equals_statsmodels():
    p = np.random.default_rng(0).random(30) ** 3
    expected = multipletests(p, method="holm")[1]
    p = np.insert(p, [4, 20], np.nan)
    found = holm(p)
    np.testing.assert_allclose(found[~np.isnan(p)], expected)
    assert np.isnan(found[np.isnan(p)]).all()


@pytest.mark.parametrize("clustered", [True, False])
def test_two_groups_are_told_apart(clustered):
    x, side = two_groups(1)
    found = pair_test(x, side, clustered=clustered, rng=np.random.default_rng(0))
    assert found.p_value < 1e-4
    assert found.auc > 0.95
    assert found.separation > 1.1


@pytest.mark.parametrize("clustered", [True, False])
def test_random_splits_are_called_real_at_most_at_the_rate(clustered):
    x, rng = one_group(2), np.random.default_rng(0)
    p = [pair_test(x, rng.random(300) < rng.uniform(0.2, 0.8), clustered=clustered, rng=rng).p_value for _ in range(80)]
    assert (np.array(p) <= 0.05).sum() <= (binom.ppf(0.99, 80, 0.05) if not clustered else 0)


@pytest.mark.parametrize("n_axes", [1, 2, 10])
def test_clusters_of_one_group_are_no_clusters(n_axes):
    """k-means finds the gradient or the noise; a test that forgets this is always sure."""
    called, naive = [], []
    for seed in range(10):
        x = one_group(seed)
        z = PCA(n_axes, random_state=0).fit_transform(x.toarray())
        side = KMeans(2, n_init=3, random_state=0).fit_predict(z) == 1
        values = (pair_test(x, side, clustered=c, rng=np.random.default_rng(0)).p_value for c in (True, False))
        for found, value in zip((called, naive), values, strict=True):
            found.append(value <= 0.05)
    assert sum(called) == 0
    assert sum(naive) == 10


def test_genes_that_were_permuted_make_no_clusters():
    """Single genes may have two states; the groups along one of them have no gap in the other genes."""
    x, _ = two_groups(3)
    dense, rng = x.toarray(), np.random.default_rng(0)
    dense[:, 7] += 3.0 * (rng.random(300) < 0.5)
    dense = np.stack([rng.permutation(gene) for gene in dense.T], 1)
    side = dense[:, 7] > 2.5
    assert pair_test(sp.csr_matrix(dense), side, clustered=True, rng=rng).p_value > 0.05
    side = KMeans(2, n_init=3, random_state=0).fit_predict(dense) == 1
    assert pair_test(sp.csr_matrix(dense), side, clustered=True, rng=rng).p_value > 0.05


def test_differences_between_batches_are_removed():
    rng = np.random.default_rng(0)
    x, batch = one_group(4).toarray(), rng.integers(2, size=300)
    x[np.ix_(batch == 1, np.arange(0, 500, 3))] += 0.5
    side = rng.random(300) < np.where(batch == 1, 0.8, 0.2)
    x = sp.csr_matrix(x)
    p = [pair_test(x, side, clustered=False, rng=np.random.default_rng(0), batch=b).p_value for b in (None, batch)]
    assert p[0] < 1e-6
    assert p[1] > 0.01
    x, side = two_groups(5)
    assert pair_test(x, side, clustered=True, rng=rng, batch=batch).p_value < 1e-4
