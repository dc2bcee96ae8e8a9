import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LinearRegression

from scgpcl.data import Cells
from scgpcl.pp import batch_moments, gene_statistics


def make(n_cells=300, n_genes=12, n_batch=3, n_groups=4, seed=0):
    rng = np.random.default_rng(seed)
    batch, group = rng.integers(n_batch, size=n_cells), rng.integers(n_groups, size=n_cells)
    mean = rng.gamma(1.0, 2.0, (n_groups, n_genes))[group] * rng.lognormal(0, 0.4, (n_batch, n_genes))[batch]
    x = sp.csr_matrix(rng.poisson(mean).astype(np.float32))
    return Cells(x, rng.uniform(0.5, 2.0, n_cells), batch_index=batch), x.toarray().astype(float), batch, group


def logs(source, x):
    return np.log1p(x / source.size_factor[:, None].astype(float))


def test_one_group_without_prior_gives_each_batchs_own_moments():
    source, x, batch, _ = make()
    moments = batch_moments(source, 3, prior=1e-9)
    log = logs(source, x)
    share = (x > 0) / (x > 0).sum(1, keepdims=True)
    norm = x / source.size_factor[:, None].astype(float)
    for b in range(3):
        rows = batch == b
        np.testing.assert_allclose(moments.mean[b], log[rows].mean(0), atol=1e-6)
        np.testing.assert_allclose(moments.std[b], log[rows].std(0), atol=1e-6)
        np.testing.assert_allclose(moments.share[b], share[rows].mean(0), atol=1e-6)
        np.testing.assert_allclose(moments.ratio[b], norm[rows].mean(0) / norm.mean(0), atol=1e-6)


def test_shifts_within_groups_are_those_of_least_squares():
    source, x, batch, group = make()
    moments = batch_moments(source, 3, groups=group, prior=1e-9)
    design = np.concatenate([np.eye(3)[batch][:, 1:], np.eye(4)[group]], 1)
    fitted = LinearRegression(fit_intercept=False).fit(design, logs(source, x)).coef_.T
    np.testing.assert_allclose(moments.mean[1] - moments.mean[0], fitted[0], atol=1e-5)
    np.testing.assert_allclose(moments.mean[2] - moments.mean[0], fitted[1], atol=1e-5)


def test_shifts_are_those_of_the_mixed_model_equations():
    """Henderson's equations written out whole, with a fixed effect per group and a random one per batch."""
    source, x, batch, group = make(n_cells=40)
    prior = 5.0
    groups, batches = np.eye(4)[group], np.eye(3)[batch]
    both = np.concatenate([groups, batches], 1)
    left = both.T @ both + np.diag([0.0] * 4 + [prior] * 3)
    log = logs(source, x)
    shift = np.linalg.solve(left, both.T @ log)[4:]
    moments = batch_moments(source, 3, groups=group, prior=prior)
    np.testing.assert_allclose(moments.mean, (log - shift[batch]).mean(0) + shift, atol=1e-10)


def test_composition_alone_is_no_difference_between_batches():
    """Batches of unlike composition but equal cells: comparing within groups finds nothing, comparing all does."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=4000)
    batch = (rng.random(4000) < np.where(group == 0, 0.9, 0.1)).astype(int)
    x = sp.csr_matrix(rng.poisson(np.where(group == 0, 1.0, 6.0)[:, None] * np.ones((1, 5))).astype(np.float32))
    source = Cells(x, np.ones(4000), batch_index=batch)
    apart = lambda moments: np.abs(moments.mean[0] - moments.mean[1]).max()
    assert apart(batch_moments(source, 2, groups=group)) < 0.06
    assert apart(batch_moments(source, 2)) > 0.6
    np.testing.assert_allclose(batch_moments(source, 2, groups=group).ratio, 1.0, atol=0.1)


def test_batches_that_share_no_group_are_not_moved():
    source, x, _, group = make(n_batch=2)
    source.batch_index = (group < 2).astype(np.int64)
    moments = batch_moments(source, 2, groups=group)
    log = logs(source, x)
    np.testing.assert_allclose(moments.mean, np.repeat(log.mean(0)[None], 2, 0), atol=1e-10)
    np.testing.assert_allclose(moments.std, np.repeat(log.std(0)[None], 2, 0), atol=1e-10)


@pytest.mark.parametrize("grouped", [True, False])
def test_small_batches_and_constant_genes_shrink_to_the_rest(grouped):
    """A batch of one cell lies near the others' moments, and no gene gets a deviation near zero."""
    source, x, _, group = make()
    source.batch_index = np.r_[0, np.ones(299, dtype=np.int64)]
    moments = batch_moments(source, 3, groups=group if grouped else None)  # the third batch has no cells at all
    log = logs(source, x)
    rest = log[1:] if not grouped else log[1:][group[1:] == group[0]]
    np.testing.assert_allclose(moments.mean[0] - moments.mean[1], (log[0] - rest.mean(0)) / 6, rtol=0.05, atol=1e-6)
    assert (moments.std[0] > 0.8 * log.std(0)).all()
    np.testing.assert_allclose(moments.std[2], log.std(0), rtol=0.05)
    np.testing.assert_allclose(moments.ratio[2], 1.0)
    y = x.copy()
    y[source.batch_index == 1, 3] = 0.0  # constant where there are many cells
    y[:, 4] = 0.0  # constant everywhere
    still = Cells(sp.csr_matrix(y.astype(np.float32)), source.size_factor, batch_index=source.batch_index)
    moments = batch_moments(still, 3, groups=group if grouped else None)
    assert all(np.isfinite(values).all() for values in moments)
    assert (moments.std > 0).all()
    assert (moments.std[:, 4] == 1).all()
    assert (moments.ratio > 0).all()


def test_statistics_within_batches():
    source, x, batch, _ = make()
    sparse = sp.csr_matrix(x)
    size = source.size_factor.astype(float)
    plain, within = gene_statistics(sparse, size), gene_statistics(sparse, size, batch_index=batch)
    norm = x / size[:, None]
    residual = lambda v: v - np.stack([v[batch == b].mean(0) for b in range(3)])[batch]
    np.testing.assert_allclose(within.norm_var, (residual(norm) ** 2).sum(0) / (300 - 3), rtol=1e-8)
    np.testing.assert_allclose(within.raw_var, (residual(x) ** 2).mean(0), rtol=1e-8)
    np.testing.assert_array_equal(within.norm_mean, plain.norm_mean)
    np.testing.assert_allclose(within.totals, [x[batch == b].sum(0) for b in range(3)])
    one = gene_statistics(sparse, size, batch_index=np.zeros(300, dtype=int))
    for a, b in zip(plain, one, strict=True):
        np.testing.assert_array_equal(a, b)
