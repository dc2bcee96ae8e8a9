import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from scgpcl.nn import _contrast, neighborhood


def test_neighbors_are_those_of_scikit_learn_in_either_direction(monkeypatch):
    monkeypatch.setattr(_contrast, "BLOCK_COSINES", 1000)
    torch.manual_seed(0)
    x = torch.randn(150, 6)
    graph = NearestNeighbors(n_neighbors=5, metric="cosine").fit(x).kneighbors_graph().toarray()  # leaves itself out
    wanted = np.maximum(graph, graph.T)
    index = torch.randperm(150)[:60]
    np.testing.assert_array_equal(neighborhood(x, 5).among(index), wanted[np.ix_(index, index)])


def test_a_sample_gives_the_same_share_of_cells(monkeypatch):
    x = torch.randn(3000, 4)
    exact = neighborhood(x, 90)
    monkeypatch.setattr(_contrast, "MAX_NEIGHBOR_CELLS", 1500)
    found = neighborhood(x, 90, seed=0)
    within = (found.unit @ found.unit.t() >= found.radius.unsqueeze(1)).sum(1) - 1.0
    assert within.mean() == pytest.approx(90, rel=0.1)
    assert (found.radius - exact.radius).abs().mean() < 0.02
    torch.testing.assert_close(neighborhood(x, 90, seed=0).radius, found.radius)
    assert torch.isfinite(neighborhood(x, 1, seed=0).radius).all()  # less than one cell of the sample


def test_more_neighbors_than_cells_are_all_cells():
    x = torch.randn(5, 3)
    assert neighborhood(x, 15).among(torch.arange(5)).sum() == 20


def test_equal_cells_are_neighbors():
    x = torch.randn(1, 3).repeat(6, 1)
    near = neighborhood(x, 2).among(torch.arange(6))
    assert near.sum() >= 12
    assert near.diagonal().sum() == 0
