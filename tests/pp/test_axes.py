import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import f_classif

from scgpcl.data import Cells
from scgpcl.nn import Moments
from scgpcl.pp import FeatureAxes, _axes, fit_features
from scgpcl.pp._genes import variance_ratio

RNG = np.random.default_rng(0)
N_CELLS, N_GENES, N_GROUPS = 300, 40, 5


def axes_at_start(cells, moments, *, seed):
    return FeatureAxes(cells, moments, discriminant=True, seed=seed).start


@pytest.mark.parametrize("n_cells", [60, 400])
def test_groups_are_tested_along_as_many_axes_whatever_the_start(counts, n_cells):
    """Few cells start at fewer axes than the principal ones along which groups are tested."""
    rng = np.random.default_rng(0)
    x = sp.csr_matrix(rng.poisson(rng.gamma(2.0, 1.0, (n_cells, 90))).astype(np.float32))
    features = fit_features(x, size=None, n_genes=90, flavor="discriminant", gene_scaling=1.0)
    found = [
        FeatureAxes(features.cells, features.moments, discriminant=kind, seed=0).principal for kind in (True, False)
    ]
    assert [len(axes) for axes in found] == [_axes.N_PRINCIPAL] * 2
    np.testing.assert_allclose(np.abs((found[0] * found[1]).sum(1)), 1.0, rtol=1e-4)  # the same up to sign


@pytest.fixture(scope="module")
def counts():
    """Counts of cells in groups, and the group of each."""
    rng = np.random.default_rng(1)
    groups = rng.integers(N_GROUPS, size=N_CELLS)
    rate = rng.gamma(0.5, 2.0, (N_GROUPS, N_GENES))[groups] * rng.uniform(0.5, 2.0, (N_CELLS, 1))
    x = rng.poisson(rate).astype(np.float32)
    x[:, 7] = 0
    x[:4, 7] = 1  # found in too few cells to count
    return sp.csr_matrix(x), groups


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_variance_ratio_is_the_f_statistic_of_scikit_learn(counts, scale):
    x, groups = counts
    size_factor = RNG.uniform(0.5, 2.0, N_CELLS)
    found = variance_ratio(x, size_factor, np.arange(N_CELLS), groups, scale=scale)
    log = np.log1p(scale * x.toarray() / size_factor[:, None])
    wanted = f_classif(log, groups)[0] * (N_GROUPS - 1) / (N_CELLS - N_GROUPS)
    assert found[7] == 0.0
    np.testing.assert_allclose(np.delete(found, 7), np.delete(wanted, 7), rtol=1e-6)


def test_the_variance_ratio_of_some_cells_is_that_of_them_alone(counts, monkeypatch):
    x, groups = counts
    index = np.arange(1, N_CELLS, 2)
    alone = variance_ratio(x[index], np.ones(len(index)), np.arange(len(index)), groups[index])
    monkeypatch.setattr("scgpcl.pp._genes.BLOCK_ROWS", 16)
    np.testing.assert_allclose(variance_ratio(x, np.ones(N_CELLS), index, groups[index]), alone, rtol=1e-12)


def test_no_gene_is_chosen_for_a_difference_between_batches(counts):
    x, groups = counts
    batch = np.arange(N_CELLS) % 2
    shifted = x.toarray()
    shifted[:, 0] = 1 + 8 * batch  # differs between the batches and between no groups
    groups = np.where(batch == 1, groups, (groups + 1) % N_GROUPS)  # groups of unequal share of the batches
    arguments = (sp.csr_matrix(shifted), np.ones(N_CELLS), np.arange(N_CELLS), groups)
    found = variance_ratio(*arguments, batch_index=batch)
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert variance_ratio(*arguments)[0] > 1e-3


def test_whitened_axes_span_the_discriminants_of_scikit_learn():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(4), 100)
    spread = rng.normal(size=(6, 6))
    scores = rng.normal(size=(4, 6))[groups] * 3 + rng.normal(size=(400, 6)) @ spread
    scores -= scores.mean(0)
    axes = _axes.whitened_axes(scores, groups, 0.0)
    lda = LinearDiscriminantAnalysis(solver="eigen").fit(scores, groups)
    found, wanted = (np.linalg.qr(each)[0] for each in (axes[:3].T, lda.scalings_[:, :3]))
    np.testing.assert_allclose(np.linalg.svd(found.T @ wanted)[1], 1.0, atol=1e-6)
    along = scores @ axes.T
    covariance = along.T @ along
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-6 * covariance.max())
    assert (np.diff(np.diag(covariance)) <= 0).all()
    means = np.stack([along[groups == each].mean(0) for each in range(4)])
    within = along - means[groups]
    np.testing.assert_allclose(within.T @ within / 400, np.eye(6), atol=1e-6)


def test_axes_weaken_variation_within_groups(counts):
    """A loud direction that no group shares, such as the cell cycle, is quiet along discriminant axes."""
    rng = np.random.default_rng(3)
    groups = rng.integers(10, size=800)
    rate = rng.gamma(2.0, 2.0, (10, 60))[groups]
    rate[:, :15] *= np.exp(1.5 * rng.normal(size=(800, 1)))  # one program of 15 genes
    x = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    features = fit_features(x, size=np.ones(800), n_genes=60, flavor="discriminant", gene_scaling=1.0)
    shares = []
    for axes in (
        _axes.principal_axes(features.cells, features.moments, 9, seed=0),
        axes_at_start(features.cells, features.moments, seed=0)[:9],
    ):
        scores = _axes.scores_along(features.cells, features.moments, axes)
        means = np.stack([scores[groups == each].mean(0) for each in range(10)])[groups]
        shares.append(((means - means.mean(0)) ** 2).sum() / ((scores - scores.mean(0)) ** 2).sum())
    assert shares[1] > shares[0] + 0.1


@pytest.mark.parametrize("share", [1.0, 0.6, 0.1, 0.0])
def test_labelled_cells_are_grouped_by_type(share, monkeypatch):
    """Axes are the discriminants of scikit-learn, of types if many cells are labelled and of fine groups of other cells."""
    rng = np.random.default_rng(4)
    types = rng.integers(3, size=600)
    rate = rng.gamma(2.0, 2.0, (3, 60))[types]
    rate[:, :15] *= np.exp(rng.normal(size=(600, 1)))
    x = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    known = np.where(rng.random(600) < share, types, -1)
    monkeypatch.setattr(_axes, "RIDGE", 0.0)
    monkeypatch.setattr(_axes, "RIDGE_CELLS", 0)
    features = fit_features(
        x, size=np.ones(600), n_genes=60, flavor="discriminant", gene_scaling=1.0, label_index=known
    )
    axes = axes_at_start(features.cells, features.moments, seed=0)
    base = _axes.principal_axes(features.cells, features.moments, 59, seed=0)
    scores = _axes.scores_along(features.cells, features.moments, base).astype(np.float64)
    groups = 3 + _axes.fine_groups((scores - scores.mean(0))[:, : _axes.N_GROUP_AXES])
    if share > 0.5:
        groups = np.where(known >= 0, known, groups)
    n_axes = min(len(np.unique(groups)) - 1, _axes.N_AXES)
    assert len(axes) == _axes.N_AXES
    lda = LinearDiscriminantAnalysis(solver="eigen").fit(scores, groups)
    wanted = np.linalg.qr((base.T @ lda.scalings_)[:, :n_axes])[0]
    found = np.linalg.qr(axes[:n_axes].T)[0]
    np.testing.assert_allclose(np.linalg.svd(found.T @ wanted)[1], 1.0, atol=1e-3)
    along = _axes.scores_along(features.cells, features.moments, axes)
    means = pd.DataFrame(along).groupby(groups).transform("mean").to_numpy()
    within = ((along - means) ** 2).mean(0)
    np.testing.assert_allclose(within / within[0], 1.0, rtol=1e-3)


def test_axes_of_few_or_equal_cells(counts):
    x, _ = counts
    moments = Moments(np.zeros(N_GENES, dtype=np.float32), np.ones(N_GENES, dtype=np.float32))
    few = axes_at_start(Cells(x[:6], np.ones(6)), moments, seed=0)
    assert few.shape == (5, N_GENES)
    assert np.isfinite(few).all()
    assert axes_at_start(Cells(x[np.zeros(50, dtype=int)], np.ones(50)), moments, seed=0) is None
    pairs = axes_at_start(Cells(x[np.repeat([0, 1], 50)], np.ones(100)), moments, seed=0)  # no spread within groups
    assert np.isfinite(pairs).all()


def test_seeds_of_the_model_leave_axes_and_genes_as_they_are(counts):
    x, _ = counts
    found = [fit_features(x, size=None, n_genes=20, flavor="discriminant", gene_scaling=0.75, seed=s) for s in (0, 1)]
    assert np.array_equal(found[0].mask, found[1].mask)
    axes = [axes_at_start(each.cells, each.moments, seed=s) for s, each in enumerate(found)]
    np.testing.assert_allclose(np.abs(axes[0]), np.abs(axes[1]), rtol=1e-3, atol=1e-5)


def test_discriminant_genes_tell_types_apart_better(data_dir):
    adata = ad.read_h5ad(data_dir / "tm_kidney_smartseq2.h5ad")
    types = np.unique(adata.obs["cell_type"], return_inverse=True)[1]
    mean_f = {}
    for flavor in ("discriminant", "pearson_residuals"):
        found = fit_features(adata.X, size=None, n_genes=1000, flavor=flavor, gene_scaling=0.75, feature_total=2000.0)
        log = np.log1p(found.cells.rows(np.arange(adata.n_obs)).toarray() / found.cells.size_factor[:, None])
        mean_f[flavor] = np.nanmean(f_classif(log, types)[0])
    assert mean_f["discriminant"] > 1.2 * mean_f["pearson_residuals"]
