import numpy as np
import pytest
from sklearn.decomposition import PCA

from scgpcl.model import _features


def test_comparison_space_is_dense_pca_of_half_scaled_features(adata, fit):
    model = fit(adata)
    selected = adata[:, model.selected_genes_]
    counts = selected.X.toarray()
    library = np.asarray(adata.X.sum(1))
    scale = model.module.feature_scale.item()
    log = np.log1p(counts / (library / np.median(library)) * scale)
    half = (log - log.mean(0)) / np.sqrt(np.maximum(log.std(0), 1e-12))
    wanted = PCA(_features.N_AXES, svd_solver="full").fit_transform(half)

    source = model._prepare()
    index = np.sort(np.random.default_rng(0).choice(adata.n_obs, 80, replace=False))
    found = _features.comparison_space(model.module, source, np.arange(adata.n_obs), seed=0)
    n = 30  # later components are nearly alike in variance
    np.testing.assert_allclose(np.abs(found[:, :n]), np.abs(wanted[:, :n]), rtol=0.02, atol=0.02)
    assert _features.comparison_space(model.module, source, index, seed=0).shape == (80, _features.N_AXES)


def test_many_cells_are_sampled(monkeypatch):
    monkeypatch.setattr(_features, "MAX_COMPARED_CELLS", 50)
    index = _features.comparison_sample(200, seed=1)
    assert len(np.unique(index)) == 50
    assert (np.diff(index) > 0).all()
    np.testing.assert_array_equal(index, _features.comparison_sample(200, seed=1))
    np.testing.assert_array_equal(_features.comparison_sample(30, seed=1), np.arange(30))


@pytest.mark.parametrize("n_cells", [20, 120])
def test_training_with_fewer_cells_than_axes(adata, fit, n_cells):
    small = adata[:n_cells].copy()
    assert fit(small).predict().shape == (n_cells,)
