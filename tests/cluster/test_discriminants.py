import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from scgpcl.cluster import _discriminants, type_axes


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_type_axes_are_the_discriminants_of_scikit_learn(share, monkeypatch):
    """They differ from scikit-learn's if the covariance is shrunk, since the means are not shrunk with it."""
    rng = np.random.default_rng(5)
    types = np.repeat(np.arange(4), 100)
    z = rng.normal(size=(4, 6))[types] * 3 + rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 5.0
    known = rng.permutation(400) < share * 400
    codes, scale = np.where(known, types, -1), np.diag([1.0] * 3 + [_discriminants.OTHER_WEIGHT] * 3)
    within = (
        LinearDiscriminantAnalysis(solver="eigen", shrinkage=_discriminants.RIDGE)
        .fit(z[known], types[known])
        .covariance_
    )
    axes = type_axes(z, codes)
    np.testing.assert_allclose(axes @ within @ axes.T, scale, atol=1e-9)
    means = np.stack([z[known & (types == each)].mean(0) for each in range(4)]) @ axes.T
    np.testing.assert_allclose(means[:, 3:] - means[0, 3:], 0.0, atol=1e-9)
    monkeypatch.setattr(_discriminants, "RIDGE", 0.0)
    axes = type_axes(z, codes)
    lda = LinearDiscriminantAnalysis(solver="eigen").fit(z[known], types[known])
    np.testing.assert_allclose(np.abs(axes[:3]), np.abs(lda.scalings_.T[:3]), rtol=1e-6)
    np.testing.assert_allclose(axes @ lda.covariance_ @ axes.T, scale, atol=1e-9)


def test_type_axes_need_two_types_and_forty_cells_of_each():
    z, types = np.random.default_rng(6).normal(size=(160, 5)), np.arange(160) % 4
    assert type_axes(z, types) is not None
    identical = type_axes(np.eye(5)[types], types)
    assert np.isfinite(identical).all()
    few = types.copy()
    few[0] = -1
    for other in (few, np.full(160, 2), np.full(160, -1)):
        assert type_axes(z, other) is None
