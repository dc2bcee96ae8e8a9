import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal


@pytest.fixture
def calibration(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.calibration")


@pytest.fixture
def kept(calibration):
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 5.0]], dtype=np.float32)

    def draw(n):
        groups = rng.integers(3, size=n)
        return (centers[groups] + rng.normal(size=(n, 2))).astype(np.float32), np.array(["a", "b", "c"])[groups]

    (z_train, truth_train), (z_test, truth_test) = draw(600), draw(4000)
    return calibration.Kept(z_train, z_test, centers, truth_train, truth_test)


def test_expected_error_equals_a_slow_loop(calibration):
    rng = np.random.default_rng(0)
    cells = pd.DataFrame({"confidence": np.append(rng.random(500), [0.0, 1.0]), "right": rng.random(502) < 0.6})
    wanted = 0.0
    for low in range(10):
        inside = (cells["confidence"] * 10 >= low) & ((cells["confidence"] * 10 < low + 1) | (low == 9))
        part = cells[inside]
        wanted += len(part) / len(cells) * abs(part["confidence"].mean() - part["right"].mean())
    assert calibration.expected_error(cells) == pytest.approx(wanted)
    assert calibration.reliability(cells)["cells"].sum() == len(cells)


def test_normal_posterior_equals_scipy_and_is_calibrated_where_it_is_true(calibration, kept):
    q = calibration.normal(kept, kept.z_test)
    np.testing.assert_allclose(q.sum(1), 1.0)
    labels = calibration.nearest_center(kept, kept.z_train)
    density = []
    for k in range(3):
        cells = kept.z_train[labels == k].astype(np.float64)
        cov = np.eye(2) * cells.var(0).mean()
        density.append(len(cells) * multivariate_normal(cells.mean(0), cov).pdf(kept.z_test))
    density = np.array(density).T
    np.testing.assert_allclose(q, density / density.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)
    assert calibration.expected_error(calibration.score(kept, q)) < 0.03


def test_cells_are_right_where_their_cluster_has_their_type(calibration, kept):
    q = calibration.student(10.0)(kept, kept.z_test)
    cells = calibration.score(kept, q)
    names = np.array(["a", "b", "c"])[np.linalg.norm(kept.z_test[:, None] - kept.centers, axis=2).argmin(1)]
    np.testing.assert_array_equal(cells["right"], names == kept.truth_test)
    np.testing.assert_allclose(cells["confidence"], q.max(1))
    table = calibration.summary({"model": cells.assign(dataset="set")})
    assert f"| set | {cells['right'].mean():.3f} | {cells['confidence'].mean():.3f} |" in table


def test_the_models_own_probability_is_what_it_predicts(calibration, adata, fit):
    model = fit(adata)
    z = model.get_latent_representation()
    centers, temperature = model.module.centers.detach().numpy(), model.module.temperature.item()
    assert temperature != 1.0
    kept = calibration.Kept(z, z, centers, adata.obs["group"].to_numpy(), adata.obs["group"].to_numpy(), temperature)
    np.testing.assert_allclose(calibration.model(kept, z), model.predict(soft=True), rtol=1e-4, atol=1e-7)
