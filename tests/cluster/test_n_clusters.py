import random

import numpy as np
from sklearn.datasets import make_blobs

from scgpcl.cluster import _n_clusters, leiden_n_clusters


def test_finds_separate_blobs_and_leaves_global_state():
    x, _ = make_blobs(400, 10, centers=5, cluster_std=0.5, random_state=0)
    random.seed(0)
    state = random.getstate()
    assert leiden_n_clusters(x, resolution=0.2, seed=0) == 5
    assert random.getstate() == state
    assert leiden_n_clusters(x, resolution=3.0, seed=0) >= 5


def test_same_seed_same_number(monkeypatch):
    monkeypatch.setattr(_n_clusters, "MAX_CELLS", 200)
    x = np.random.default_rng(0).normal(size=(400, 10))
    assert leiden_n_clusters(x, seed=4) == leiden_n_clusters(x, seed=4)
