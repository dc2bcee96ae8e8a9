import numpy as np
import pytest
from sklearn.decomposition import PCA

from scgpcl.pp import _axes


def test_axes_space_is_dense_pca_of_half_scaled_features(adata, fit):
    model = fit(adata)
    selected = adata[:, model.selected_genes_]
    counts = selected.X.toarray()
    library = np.asarray(adata.X.sum(1))
    scale = model.module.feature_scale.item()
    log = np.log1p(counts / (library / np.median(library)) * scale)
    half = (log - log.mean(0)) / np.sqrt(np.maximum(log.std(0), 1e-12))
    wanted = PCA(_axes.N_AXES, svd_solver="full").fit_transform(half)

    source = model._prepare()
    found = _axes.ComparisonSpace(source, model.module.moments, seed=0).all().numpy()
    n = 30  # later components are nearly alike in variance
    np.testing.assert_allclose(np.abs(found[:, :n]), np.abs(wanted[:, :n]), rtol=0.02, atol=0.02)


def test_axes_of_a_sample_place_all_cells(adata, fit, monkeypatch):
    model = fit(adata)
    source = model._prepare()
    whole = _axes.ComparisonSpace(source, model.module.moments, seed=0).all().numpy()
    monkeypatch.setattr(_axes, "MAX_COMPARED_CELLS", adata.n_obs - 40)
    monkeypatch.setattr("scgpcl.pp._axes.MAX_AXES_CELLS", 30)  # scores are made in blocks
    found = _axes.ComparisonSpace(source, model.module.moments, seed=0).all().numpy()
    assert found.shape == whole.shape
    n = 2  # the cells are of three groups
    cosine = np.corrcoef(found[:, :n].T, whole[:, :n].T)[:n, n:]
    assert (np.abs(np.diag(cosine)) > 0.9).all()


def test_many_cells_are_sampled(monkeypatch):
    monkeypatch.setattr(_axes, "MAX_COMPARED_CELLS", 50)
    index = _axes.comparison_sample(200, seed=1)
    assert len(np.unique(index)) == 50
    assert (np.diff(index) > 0).all()
    np.testing.assert_array_equal(index, _axes.comparison_sample(200, seed=1))
    np.testing.assert_array_equal(_axes.comparison_sample(30, seed=1), np.arange(30))


@pytest.mark.parametrize("n_cells", [20, 120])
def test_training_with_fewer_cells_than_axes(adata, fit, n_cells):
    small = adata[:n_cells].copy()
    assert fit(small).predict().shape == (n_cells,)
