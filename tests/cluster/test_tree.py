"""The tree over all numbers of clusters: names, levels, and what the partitions say."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score

from scgpcl.cluster import Evidence, Tree, grow, merged_name, name_order, part_names, support_of
from scgpcl.cluster._branches import Branches
from scgpcl.cluster._tree import _merges, _overlap


@pytest.fixture
def tree():
    """Three clusters, of which 0 and 2 are merged first, and the first of them falls into three."""
    parent = np.array([-1, 0, 0, 1, 1, 3, 3, 5, 5])
    height = np.array([1.8, 1.3, 0.0, 0.9, 0.0, 0.7, 0.0, 0.0, 0.0])
    return Tree(parent, height, np.array([3, 2, 4]), {"size": np.array([90, 60, 30, 40, 20, 25, 15, 13, 12])})


def test_names_follow_the_clusters_of_the_training(tree):
    assert tree.names == ["0-2", "0+2", "1", "0", "2", "0.1", "0.2", "0.1.1", "0.1.2"]
    assert tree.numbers == [1, 2, 3, 4, 5]
    levels = [[tree.names[node] for node in tree.level(n)] for n in tree.numbers]
    assert levels == [
        ["0-2"],
        ["0+2", "1"],
        ["0", "1", "2"],
        ["0.1", "0.2", "1", "2"],
        ["0.1.1", "0.1.2", "0.2", "1", "2"],
    ]


def test_newick_holds_names_and_lengths(tree):
    wanted = "(((('0.1.1':0.7,'0.1.2':0.7)'0.1':0.2,'0.2':0.9)'0':0.4,'2':1.3)'0+2':0.5,'1':1.8)'0-2';"
    assert tree.newick() == wanted


def test_apostrophes_are_doubled_in_newick(tree):
    named = replace(tree, called=("Peyer's B", "T", "'NK'"))
    wanted = [
        "((((",
        "'Peyer''s B.1.1':0.7,'Peyer''s B.1.2':0.7)'Peyer''s B.1':0.2,'Peyer''s B.2':0.9)'Peyer''s B':0.4,",
        "'''NK''':1.3)'''NK'' + Peyer''s B':0.5,'T':1.8)'''NK'' + Peyer''s B + T';",
    ]
    assert named.newick() == "".join(wanted)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["5", "2"], "2+5"),
        (["1", "0", "2", "7"], "0-2+7"),
        (["0-2", "3"], "0-3"),
        (["3.1", "2"], "2+3.1"),
        (["3.a", "2"], "2+3.a"),
        (["(2+5).a", "7"], "(2+5).a+7"),
        (["beta", "alpha"], "alpha + beta"),
    ],
)
def test_merged_names(parts, name):
    assert merged_name(parts) == name


@pytest.mark.parametrize(
    ("name", "first"),
    [("3", "3.a"), ("3.1", "3.1.a"), ("2+5", "(2+5).a"), ("(2+5).a", "(2+5).a.a"), ("T-helper", "T-helper.a"),
     ("B + T", "(B + T).a"), ("((0+1).a+2).b", "((0+1).a+2).b.a")],
)  # fmt: skip
def test_names_of_parts(name, first):
    found = part_names(name, 30, {f"{first[:-1]}b"})
    assert found[0] == first
    assert [each[len(first) - 1 :] for each in found[1:]] == [*"cdefghijklmnopqrstuvwxyz", "aa", "ab", "ac", "ad", "ae"]


def test_names_are_sorted_as_a_reader_would():
    assert sorted(["10", "2.10", "2", "2.2", "0-2+5"], key=name_order) == ["0-2+5", "2", "2.2", "2.10", "10"]


def test_paths_are_nested_and_follow_the_more_probable_child(tree):
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=200)
    path = tree.paths(p)
    leaves = tree.leaves.tolist()  # 1, 2, 0.2, 0.1.1, 0.1.2
    for cell, values in enumerate(p):  # a slow descent
        whole = {
            node: sum(values[leaves.index(leaf)] for leaf in leaves if tree.below[node, leaf]) for node in range(9)
        }
        node = max(tree.clusters, key=whole.get)
        while tree.children[node]:
            node = max(tree.children[node], key=whole.get)
        assert path[cell] == node
    for n in tree.numbers[1:]:
        coarse, fine = (tree.below[tree.level(m)][:, path].argmax(0) for m in (n - 1, n))
        assert all(len(set(coarse[fine == group])) <= 1 for group in set(fine))


def groups_in_groups(seed=0):
    """Four groups in two pairs, and the group of each cell."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), (60, 50, 40, 30))
    centers = np.zeros((4, 12))
    centers[[0, 1], 0] = centers[[2, 3], 1] = 10.0
    centers[np.arange(4), np.arange(2, 6)] = 4.0
    return torch.from_numpy(centers[truth] + 0.5 * rng.normal(size=(180, 12))).float(), truth


@pytest.mark.parametrize("known", ["pairs", "groups"])
def test_groups_in_groups_are_found_from_either_level(known):
    z, truth = groups_in_groups()
    clusters = truth // 2 if known == "pairs" else truth
    evidence = Evidence.of([z, z + 0.1], 10, seed=0)
    tree, cells = grow(evidence, clusters, clusters.max() + 1, 10)
    assert len(tree.leaves) <= 10
    assert (tree.parent[1:] < np.arange(1, len(tree.parent))).all()
    assert (tree.height[tree.parent[1:]] >= tree.height[1:]).all()
    for n, wanted in ((2, truth // 2), (4, truth)):
        group = np.full(180, -1)
        for number, node in enumerate(tree.level(n)):
            group[cells[node]] = number
        assert adjusted_rand_score(wanted, group) == 1.0


@pytest.mark.parametrize("n_clusters", [1, 2, 4, 7])
def test_levels_are_the_consensus_of_their_number(n_clusters):
    z, _ = groups_in_groups()
    draws = [z, z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))]
    clusters = Evidence.of(draws, n_clusters, seed=0).support(n_clusters).argmax(1).numpy()
    tree, cells = grow(Evidence.of(draws, n_clusters, seed=0), clusters, n_clusters, 10)
    for n in range(1, 8):
        group = np.full(180, -1)
        for number, node in enumerate(tree.level(n)):
            group[cells[node]] = number
        kept = group >= 0  # a few cells stay above their leaf
        assert kept.mean() > 0.95
        assert adjusted_rand_score(Evidence.of(draws, n, seed=0).support(n).argmax(1)[kept], group[kept]) > 0.98


def test_clusters_are_joined_by_average_linkage_as_in_scipy():
    distance = pdist(np.random.default_rng(0).normal(size=(12, 3)))
    merges = _merges(squareform(distance), [np.array([cell]) for cell in range(12)])
    np.testing.assert_allclose(merges, average(distance)[:, :3])


@pytest.mark.parametrize("n_empty", [0, 1, 2])
def test_groups_of_cells_are_joined_by_the_mean_distance_of_their_cells(n_empty):
    apart = squareform(pdist(np.random.default_rng(0).normal(size=(30, 3))))
    members = [np.array([], dtype=int)] * n_empty
    members += [np.arange(4), np.arange(4, 15), np.arange(15, 16), np.arange(16, 30)]
    left = dict(enumerate(members))
    for number, (i, j, distance) in enumerate(_merges(apart, members), len(members)):
        far = {
            (a, b): apart[np.ix_(left[a], left[b])].mean() if len(left[a]) and len(left[b]) else 1.0
            for a in left
            for b in left
            if a < b
        }
        assert distance == pytest.approx(min(far.values())) == far[i, j]
        left[number] = np.r_[left.pop(i), left.pop(j)]
    assert len(left) == 1


def test_overlap_equals_a_slow_loop():
    labels = torch.randint(3, (6, 20), generator=torch.Generator().manual_seed(0)).numpy()
    apart = (labels[:, :, None] != labels[:, None]).mean(0)
    left, right = range(8), range(8, 20)
    together = lambda pairs: np.mean([[each[i] == each[j] for each in labels] for i, j in pairs])
    within = [together(permutations(group, 2)) for group in (left, right)]
    wanted = together(product(left, right)) / np.sqrt(within[0] * within[1])
    assert _overlap(apart, np.array(left), np.array(right)) == pytest.approx(wanted)
    assert _overlap(apart, np.array(left), np.array([8])) == 1.0  # no two cells of one side


def test_support_equals_a_slow_loop():
    labels = torch.randint(4, (5, 30), generator=torch.Generator().manual_seed(0))
    groups = [np.arange(8), np.arange(8, 30)]
    wanted = [
        [np.mean([[each[i] == each[j] for j in group] for each in labels]) for group in groups] for i in range(30)
    ]
    np.testing.assert_allclose(support_of(labels, groups), wanted, atol=1e-6)


def test_branches_share_out_the_probability_of_their_cluster():
    generator = torch.Generator().manual_seed(0)
    z, centers = torch.randn(40, 3, generator=generator), torch.randn(5, 3, generator=generator)
    q = torch.rand(40, 2, generator=generator)
    q /= q.sum(1, keepdim=True)
    cluster = torch.tensor([0, 1, 1, 0, 1])
    p = Branches(centers, cluster, 0.5).probability(q, z, alpha=10.0)
    sums = torch.stack([p[:, cluster == k].sum(1) for k in range(2)], 1)
    torch.testing.assert_close(sums.float(), q)
    nearest = torch.cdist(z, centers)
    assert torch.equal(p[:, [1, 2, 4]].argmax(1), nearest[:, [1, 2, 4]].argmin(1))
