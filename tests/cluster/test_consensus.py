"""Consensus of many partitions, the graph communities among them, and what they leave alone."""

import itertools
import random

import igraph
import numpy as np
import pytest
import scipy.cluster.hierarchy as tree
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score

from scgpcl.cluster import Evidence, _communities, _consensus


def consensus(draws, n_clusters, *, seed):
    return Evidence.of(draws, n_clusters, seed=seed).support(n_clusters)


def far_groups(sizes, seed=0, n=10, spread=0.3):
    """Groups in different directions, far apart, and the group of each cell."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    z = 10 * np.eye(n)[truth] + spread * rng.normal(size=(len(truth), n))
    return torch.from_numpy(z).float(), truth


def given(monkeypatch, found):
    """Replace the partitions of each draw by given ones."""
    monkeypatch.setattr(_consensus, "partitions", lambda z, numbers, seed: found)


@pytest.mark.parametrize("sizes", [(60, 60), (100, 20), (300, 8), (2000, 25), (40, 5)])
def test_two_far_groups_are_found_whatever_their_sizes(sizes):
    z, truth = far_groups(sizes)
    support = consensus([z, z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))], 2, seed=0)
    assert adjusted_rand_score(truth, support.argmax(1)) == 1.0


def test_support_is_a_share_and_the_same_for_the_same_seed():
    z = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
    support = consensus([z, z[:, [1, 0, 2, 3, 4, 5]]], 5, seed=3)
    assert support.shape == (150, 5)
    assert support.dtype == torch.float32
    assert (support >= 0).all()
    torch.testing.assert_close(support.sum(1), torch.ones(150))
    assert torch.equal(support, consensus([z, z[:, [1, 0, 2, 3, 4, 5]]], 5, seed=3))
    assert not torch.equal(support, consensus([z, z[:, [1, 0, 2, 3, 4, 5]]], 5, seed=4))


def test_permuted_cells_have_the_permuted_result_where_all_partitions_are_alike(monkeypatch):
    labels = torch.from_numpy(np.repeat([2, 0, 1], [50, 30, 12]))
    order = torch.randperm(92, generator=torch.Generator().manual_seed(1))
    z = torch.zeros(92, 2)
    given(monkeypatch, [labels])
    whole = consensus([z, z, z], 3, seed=0)
    given(monkeypatch, [labels[order]])
    assert torch.equal(consensus([z, z, z], 3, seed=0), whole[order])
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    assert whole.sum(0).tolist() == [50.0, 30.0, 12.0]


def noisy_partitions(n_cells=60, n_partitions=7, seed=0):
    """Partitions of a few cells, of different numbers of groups, each with some cells in the wrong one."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=n_cells)
    found = []
    for k in range(n_partitions):
        labels = truth % (3 + k % 2)
        wrong = rng.random(n_cells) < 0.15
        labels[wrong] = rng.integers(labels.max() + 1, size=wrong.sum())
        found.append(torch.from_numpy(labels))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_clusters", [2, 3, 5])
def test_equals_a_slow_reference_with_scipys_linkage(monkeypatch, n_clusters, seed):
    found = noisy_partitions(seed=seed)
    n_cells = len(found[0])
    apart = np.zeros((n_cells, n_cells))
    for i, j in itertools.product(range(n_cells), repeat=2):
        apart[i, j] = np.mean([int(labels[i] != labels[j]) for labels in found])
    np.testing.assert_allclose(squareform(_consensus.distances(torch.stack(found))), apart, atol=1e-6)

    monkeypatch.setattr(_consensus, "MIN_CELLS", 1)  # every group of the tree is large enough
    monkeypatch.setattr(_consensus, "MIN_SHARE", 0.0)
    given(monkeypatch, found)
    support = consensus([torch.zeros(n_cells, 2)], n_clusters, seed=0).numpy()
    distance = _consensus.distances(torch.stack(found))  # rounded as there, so that ties break alike
    wanted = tree.cut_tree(tree.linkage(distance, "average"), n_clusters)[:, 0]
    order = sorted(range(n_clusters), key=lambda k: -(wanted == k).sum())
    slow = np.array([[np.mean(1.0 - apart[i, wanted == k]) for k in order] for i in range(n_cells)])
    slow /= slow.sum(1, keepdims=True)
    tied = len({(wanted == k).sum() for k in order}) < n_clusters
    if tied:  # clusters of one size may come in any order
        support, slow = np.sort(support, axis=1), np.sort(slow, axis=1)
    np.testing.assert_allclose(support, slow, atol=1e-6)


def points(*groups):
    """Condensed distances of points on a line."""
    x = np.concatenate(groups)
    return squareform(np.abs(x[:, None] - x), checks=False)


def test_small_groups_join_the_nearest_large_one():
    distance = points(np.zeros(10) + 0.001 * np.arange(10), [2.0], 10 + 0.001 * np.arange(8), [30.0, 30.001])
    labels = _consensus._cut(distance, 2).numpy()
    np.testing.assert_array_equal(labels, [0] * 10 + [0] + [1] * 8 + [1] * 2)
    assert set(_consensus._cut(distance, 1).tolist()) == {0}


def test_small_groups_stay_where_there_are_too_few_cells_for_larger_ones():
    distance = points(np.arange(6.0) * 5)
    assert sorted(np.bincount(_consensus._cut(distance, 6))) == [1] * 6


def test_other_cells_follow_the_linked_ones(monkeypatch):
    z, truth = far_groups((120, 90, 60))
    monkeypatch.setattr(_consensus, "MAX_LINKED", 40)
    support = consensus([z], 3, seed=0)
    assert support.shape == (270, 3)
    assert adjusted_rand_score(truth, support.argmax(1)) == 1.0


@pytest.mark.parametrize("n_neighbors", [3, 15, 200])
def test_weights_of_the_graph_are_jaccard_indices(n_neighbors):
    z = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    graph = _communities.shared_neighbor_graph(z, n_neighbors)
    unit = torch.nn.functional.normalize(z, dim=1)
    cosine = (unit @ unit.t()).fill_diagonal_(-2.0).numpy()
    near = [{i, *np.argsort(-cosine[i])[: min(n_neighbors, 39)].tolist()} for i in range(40)]
    wanted = {
        (i, j): len(near[i] & near[j]) / len(near[i] | near[j])
        for i, j in itertools.combinations(range(40), 2)
        if j in near[i] or i in near[j]
    }
    assert graph.vcount() == 40
    found = {tuple(sorted(edge.tuple)): edge["weight"] for edge in graph.es}
    assert found.keys() == wanted.keys()
    assert all(found[edge] == pytest.approx(weight) for edge, weight in wanted.items())


def test_nearest_cells_do_not_depend_on_the_block(monkeypatch):
    z = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    whole = _communities.nearest_cells(z, 7)
    monkeypatch.setattr(_communities, "BLOCK_COSINES", 150)
    assert torch.equal(_communities.nearest_cells(z, 7), whole)


@pytest.mark.parametrize(
    ("n_cells", "n_clusters", "numbers"),
    [
        (3000, 9, [2, 3, 5, 8, 12, 19, 30]),
        (3000, 30, [2, 3, 5, 8, 12, 19, 30]),
        (3000, 60, [2, 3, 5, 8, 12, 19, 30, 48, 77]),
        (3000, 1, [2, 3, 5, 8, 12, 19, 30]),
        (100, 4, [2, 3, 5]),
        (100, 9, [2, 3, 5, 9]),
        (20, 2, [2]),
        (20, 1, [1]),
    ],
)
def test_numbers_of_groups_do_not_depend_on_that_of_the_clusters_unless_they_are_many(n_cells, n_clusters, numbers):
    assert _consensus.numbers_of_groups(n_cells, n_clusters) == numbers


def test_a_draw_is_partitioned_into_each_number_by_each_method():
    z = far_groups((40,) * 6)[0] + 2.0 * torch.randn(240, 10, generator=torch.Generator().manual_seed(0))
    found = _consensus.partitions(z, [2, 3, 5], seed=0)
    assert [len(labels.unique()) for labels in found] == [2, 2, 2, 3, 3, 3, 5, 5, 5, 2, 3, 5]
    evidence = _consensus.Evidence.of([z, z], 5, seed=0)
    assert evidence.labels.shape == (2 * 4 * len(_consensus.numbers_of_groups(240, 5)), 240)
    alone = _consensus.Evidence.of([z, z], 5, seed=0, only=True)
    assert [len(labels.unique()) for labels in alone.labels] == [5] * 8


def test_communities_are_as_many_as_wanted_and_the_same_for_the_same_seed():
    z, _ = far_groups((40,) * 6)
    graph = _communities.shared_neighbor_graph(
        z + 2.0 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    )
    numbers = [2, 3, 4, 6]
    labels = _communities.communities(graph, numbers, seed=1)
    assert labels.dtype == np.int64
    assert [len(np.unique(each)) for each in labels] == numbers
    np.testing.assert_array_equal(labels, _communities.communities(graph, numbers, seed=1))


def test_the_closest_partition_stands_in_for_a_number_that_no_resolution_gives():
    graph = igraph.Graph.Full(20) + igraph.Graph.Full(20) + igraph.Graph.Full(20)  # never fewer than three
    graph.es["weight"] = 1.0
    labels = _communities.communities(graph, [2, 3], seed=0)
    np.testing.assert_array_equal(labels[0], labels[1])
    assert adjusted_rand_score(np.repeat(range(3), 20), labels[0]) == 1.0


def test_random_numbers_of_python_and_igraph_are_the_users():
    graph = _communities.shared_neighbor_graph(far_groups((30, 30))[0])
    random.seed(4)
    before, torch_before = random.getstate(), torch.random.get_rng_state()
    _communities.communities(graph, [3], seed=0)
    assert random.getstate() == before
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    drawn = igraph.Graph.Erdos_Renyi(30, 0.3).get_edgelist()
    random.seed(4)
    assert igraph.Graph.Erdos_Renyi(30, 0.3).get_edgelist() == drawn  # igraph draws from Python's generator again
    assert random.getstate() != before


def test_igraph_gets_its_generator_back_after_an_error():
    class Broken:
        def vcount(self):
            return 3

        def community_leiden(self, **kwargs):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        _communities.communities(Broken(), [2], seed=0)
    random.seed(4)
    before = random.getstate()
    igraph.Graph.Erdos_Renyi(30, 0.3)
    assert random.getstate() != before


def test_a_cell_whose_companions_were_never_linked_supports_all_clusters_alike(monkeypatch):
    labels = torch.tensor([0] * 12 + [1] * 12 + [2] * 2)
    monkeypatch.setattr(_consensus, "MAX_LINKED", 24)
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))  # the last two cells are not linked
    given(monkeypatch, [labels])
    support = consensus([torch.zeros(26, 2)], 2, seed=0)
    torch.testing.assert_close(support[-2:], torch.full((2, 2), 0.5))
    torch.testing.assert_close(support[:24], torch.nn.functional.one_hot(labels[:24], 2).float())


def test_cells_below_each_node_of_a_linkage_are_those_of_scipy():
    merges = tree.average(pdist(np.random.default_rng(0).normal(size=(60, 2))))
    order, start, size = _consensus.leaf_order(merges)
    for node in tree.to_tree(merges, rd=True)[1]:
        own = order[start[node.id] : start[node.id] + size[node.id]]
        assert sorted(own) == sorted(node.pre_order())
