"""Scores of scib-metrics, where it is installed."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from scgpcl import benchmark
from scgpcl.benchmark import _scores

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _installed():
    pytest.importorskip("scib_metrics")


def test_scores_of_each_run_are_added_once(data, tmp_path):
    words = {"out": tmp_path / "out", "seeds": 1, "threads": 1, "progress": False, "scib": True, "batch_key": "batch"}
    benchmark.run(data / "three.h5ad", ["svd", "one", "fails"], **words)
    path = tmp_path / "out" / "scib.csv"
    table = pd.read_csv(path, keep_default_na=False)
    assert list(table) == ["dataset", "method", "seed", *_scores.BIO, *_scores.BATCH, "error"]
    assert table["method"].tolist() == ["svd"]
    assert table["error"].tolist() == [""]
    scores = table[[*_scores.BIO, *_scores.BATCH]].to_numpy(dtype=float)
    assert ((scores >= 0) & (scores <= 1)).all()
    before = path.stat().st_mtime_ns
    benchmark.run(data / "three.h5ad", ["svd"], **words)
    assert path.stat().st_mtime_ns == before
    benchmark.run(data, ["svd"], **words)
    assert pd.read_csv(path)["dataset"].tolist() == ["three", "two"]


def test_scores_tell_good_from_bad_and_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    types, batch = rng.integers(3, size=300), rng.integers(2, size=300)
    counts = rng.poisson(3.0, (300, 60)).astype(np.float32)
    centers = np.array([[0, 0], [8, 0], [0, 8]])
    good = (centers[types] + rng.normal(size=(300, 2))).astype(np.float32)
    split = np.column_stack([good, 20 * batch]).astype(np.float32)
    a, b = (_scores.scib_scores(latent, types.astype(str), batch.astype(str), counts) for latent in (good, split))
    assert a["silhouette_label"] == pytest.approx((silhouette_score(good, types) + 1) / 2, abs=1e-3)
    assert a["kmeans_ari"] > 0.95
    assert b["kmeans_ari"] < 0.8
    assert a["ilisi"] > 0.8
    assert b["ilisi"] < 0.1
    assert a["kbet"] > b["kbet"]
    alone = _scores.scib_scores(good, types.astype(str), None, counts)
    assert set(alone) == set(_scores.BIO)
    assert all(alone[name] == pytest.approx(a[name], abs=1e-6) for name in _scores.BIO if "kmeans" not in name)
