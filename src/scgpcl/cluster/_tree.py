"""A single tree for all numbers of clusters, from many small groups up to one."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice, product
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import squareform
from torch import Tensor

from scgpcl.cluster._branches import Branches
from scgpcl.cluster._consensus import CELLS_PER_GROUP, leaf_order, smallest_group

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from scgpcl.cluster._consensus import Evidence

#: Pattern of the names of nodes and their parts in a tree with numbered clusters: "3", "3.1", "3.a", "2+5", "0-2+5",
#: "(2+5).a".
NUMBERED = re.compile(r"\(*\d+\)*([.+-]\(*(\d+|[a-z]+)\)*)*")
#: Number of leaves of the tree, and the number of leaves per cluster that is used if it gives more leaves.
N_LEAVES = 32
LEAVES_PER_CLUSTER = 2


class Grown(NamedTuple):
    """A tree, the branches that assign cells below its clusters, and the node of each branch output (n_outputs,)."""

    tree: Tree
    branches: Branches
    nodes: np.ndarray

    def state(self) -> dict[str, Any]:
        """Return the state of the object as arrays and numbers."""
        tree, branches = self.tree, self.branches
        return {
            "parent": tree.parent,
            "height": tree.height,
            "clusters": tree.clusters,
            "values": dict(tree.values),
            "centers": branches.centers.numpy(),
            "cluster": branches.cluster.numpy(),
            "temperature": float(branches.temperature),
            "nodes": self.nodes,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], called: Iterable[str] | None = None) -> Grown:
        """Restore the object from its :meth:`state` and the names of the clusters."""
        names = None if called is None else tuple(str(name) for name in called)
        tree = Tree(state["parent"], state["height"], state["clusters"], dict(state["values"]), names)
        centers, cluster = (torch.from_numpy(np.asarray(state[name])) for name in ("centers", "cluster"))
        return cls(tree, Branches(centers, cluster, float(state["temperature"])), state["nodes"])


class Branch(NamedTuple):
    """A group of cells, and its two parts if it is split.

    The cells are given by their positions. The height is the share of the partitions that separate the parts.
    """

    cells: np.ndarray
    height: float = 0.0
    parts: tuple[Branch, Branch] | None = None


@dataclass(frozen=True, eq=False)
class Tree:
    """Tree of groups of cells, with nodes numbered so that the root is first and parents come before their children.

    Parameters
    ----------
    parent
        Parent of each node, or -1 for the root, int64, shape (n_nodes,).
    height
        Share of the partitions that separate the children of a node, or 0 for a leaf, shape (n_nodes,).
    clusters
        Nodes that correspond to the clusters from training, int64, shape (n_clusters,).
    values
        Additional node values by name, such as ``"size"``, each of shape (n_nodes,).
    called
        Names of the clusters. If ``None``, the clusters are numbered.
    """

    parent: np.ndarray
    height: np.ndarray
    clusters: np.ndarray
    values: dict[str, np.ndarray]
    called: tuple[str, ...] | None = None

    @cached_property
    def children(self) -> list[list[int]]:
        """Children of each node."""
        found: list[list[int]] = [[] for _ in self.parent]
        for node, parent in enumerate(self.parent.tolist()):
            if parent >= 0:
                found[parent].append(node)
        return found

    @cached_property
    def leaves(self) -> np.ndarray:
        """Nodes without children, in ascending order."""
        return np.array([node for node, below in enumerate(self.children) if not below])

    @cached_property
    def splits(self) -> list[int]:
        """Nodes with children, in the order in which they are split, which is the order of their first children."""
        return sorted(
            (node for node, below in enumerate(self.children) if below), key=lambda node: self.children[node][0]
        )

    @cached_property
    def below(self) -> np.ndarray:
        """Whether the second node is equal to or below the first node, bool, shape (n_nodes, n_nodes)."""
        found = np.eye(len(self.parent), dtype=bool)
        for node in range(len(self.parent) - 1, 0, -1):
            found[self.parent[node]] |= found[node]
        return found

    @cached_property
    def cluster_of(self) -> np.ndarray:
        """Cluster to which each node belongs, or -1 for nodes above the clusters, int64, shape (n_nodes,)."""
        found = np.full(len(self.parent), -1)
        for number, node in enumerate(self.clusters.tolist()):
            found[self.below[node]] = number
        return found

    def paths(self, probability: np.ndarray) -> np.ndarray:
        """Return the leaf of each cell, int64, shape (n_cells,), given leaf probabilities (n_cells, n_leaves).

        A cell goes to its most probable cluster and, below it, to the more probable child at each split. Its group at
        one level therefore follows from its group at any finer level.
        """
        whole = probability @ self.below[:, self.leaves].T.astype(probability.dtype)
        node = self.clusters[whole[:, self.clusters].argmax(1)]
        for split in self.splits:
            if self.cluster_of[split] >= 0:
                here = node == split
                below = np.array(self.children[split])
                node[here] = below[whole[here][:, below].argmax(1)]
        return node

    @cached_property
    def names(self) -> list[str]:
        """Names of the nodes: "3" for a cluster from training, "3.1" below it, or "0-2+5" above several clusters."""
        names = [""] * len(self.parent)
        called = self.called or tuple(str(number) for number in range(len(self.clusters)))
        for name, node in zip(called, self.clusters.tolist(), strict=True):
            names[node] = name
        for node, below in enumerate(self.children):
            if not names[node]:
                names[node] = merged_name(
                    [called[number] for number in np.flatnonzero(self.below[node, self.clusters])]
                )
            inside = node in self.clusters or not self.below[node, self.clusters].any()
            for number, child in enumerate(below if inside else (), 1):
                names[child] = f"{names[node]}.{number}"
        return names

    @property
    def numbers(self) -> list[int]:
        """Numbers of clusters into which the tree can be cut, in ascending order."""
        return [1, *(1 + np.cumsum([len(self.children[node]) - 1 for node in self.splits])).tolist()]

    def level(self, n_clusters: int) -> list[int]:
        """Return the nodes that partition the cells into ``n_clusters`` clusters."""
        return self.split(self.splits[: self.numbers.index(n_clusters)])

    def split(self, nodes: Iterable[int]) -> list[int]:
        """Split the given nodes into their children, from the root down, and return the nodes that remain."""
        wanted, found, stack = set(nodes), [], [0]
        while stack:
            node = stack.pop()
            if node in wanted:
                stack.extend(self.children[node])
            else:
                found.append(node)
        return sorted(found, key=lambda node: name_order(self.names[node]))

    def held(self, holds: np.ndarray) -> list[int]:
        """Return the nodes with a split that holds, either their own or one below them.

        ``holds`` has shape (n_nodes,).
        """
        return [node for node in self.splits if (self.below[node] & holds).any()]

    def newick(self) -> str:
        """Return the tree in Newick format, with differences in height as branch lengths.

        Names are quoted, and apostrophes in them are doubled.
        """

        def text(node: int) -> str:
            inner = ",".join(text(child) for child in self.children[node])
            above = self.parent[node]
            length = f":{self.height[above] - self.height[node]:.4g}" if above >= 0 else ""
            name = self.names[node].replace("'", "''")
            return (f"({inner})" if inner else "") + f"'{name}'" + length

        return text(0) + ";"

    def with_values(self, **values: np.ndarray) -> Tree:
        """Return the tree with additional node values."""
        return replace(self, values={**self.values, **values})


def merged_name(names: Sequence[str]) -> str:
    """Return the name of several clusters together: "2+5", "0-2+5" for 0, 1, 2 and 5, or "B cells + T cells"."""
    if not all(map(NUMBERED.fullmatch, names)):
        return " + ".join(sorted(names, key=name_order))
    runs = [part.split("-") for name in names for part in ([name] if "(" in name else name.split("+"))]
    whole = [run for run in runs if all(end.isdecimal() for end in run)]
    numbers = sorted(number for run in whole for number in range(int(run[0]), int(run[-1]) + 1))
    parts, start = [run[0] for run in runs if run not in whole], 0
    for stop in range(1, len(numbers) + 1):
        if stop == len(numbers) or numbers[stop] != numbers[stop - 1] + 1:
            run = [str(number) for number in numbers[start:stop]]
            parts += run if len(run) < 3 else [f"{run[0]}-{run[-1]}"]
            start = stop
    return "+".join(sorted(parts, key=name_order))


def part_names(name: str, n: int, taken: Collection[str]) -> tuple[str, ...]:
    """Return ``n`` names for parts of a cluster: "3.a", "3.b", ..., "3.z", "3.aa", or "(2+5).a" for parts of "2+5".

    Names that are already ``taken`` are skipped.
    """
    outside, n_inner = name, 1
    while n_inner:
        outside, n_inner = re.subn(r"\([^()]*\)", "", outside)
    several = "+" in outside or ("-" in outside and NUMBERED.fullmatch(name))
    stem = f"({name})" if several else name
    letters = ("".join(word) for size in count(1) for word in product(ascii_lowercase, repeat=size))
    return tuple(islice((each for each in (f"{stem}.{word}" for word in letters) if each not in taken), n))


def name_order(name: str) -> tuple[Any, ...]:
    """Return a key that sorts node names as a reader would: "2", "2.1", "2.10", "3"."""
    return tuple(int(part) if part.isdecimal() else -1 for part in re.split(r"[^0-9]+", name)), name


def most_leaves(n_cells: int, n_clusters: int) -> int:
    """Return the maximum number of leaves of a tree."""
    return max(1, n_clusters, min(max(N_LEAVES, LEAVES_PER_CLUSTER * n_clusters), n_cells // CELLS_PER_GROUP))


def grow(evidence: Evidence, clusters: np.ndarray, n_clusters: int, n_leaves: int) -> tuple[Tree, list[np.ndarray]]:
    """Build the tree above the clusters and, below each cluster, the groups that most partitions keep together.

    The similarity of two cells is the share of the partitions that put them together. The clusters are joined by
    average linkage. Within each cluster, the linkage is followed until there are ``n_leaves`` leaves in total, starting
    with the clearest split. Groups with only a handful of cells are not split off.

    Parameters
    ----------
    evidence
        Partitions of the cells into few and many groups.
    clusters
        Cluster of each linked cell, shape (n_linked,).
    n_clusters
        Number of clusters.
    n_leaves
        Number of leaves of the tree, at least one for each cluster.

    Returns
    -------
    The tree and, for each of its nodes, the positions of its cells among all linked cells. The value ``"overlap"`` of a
    split is the share of the partitions that put cells from both sides together, divided by the share that put two
    cells from the same side together.
    """
    apart = squareform(evidence.distance) if len(clusters) > 1 else np.zeros((1, 1))
    least = smallest_group(len(clusters))
    members = [np.flatnonzero(clusters == cluster) for cluster in range(n_clusters)]
    merges = _merges(apart, members)
    for left, right, _ in merges:
        members.append(np.union1d(members[left], members[right]))
    parent, height, cells, order = [-1], [0.0], [members[-1]], np.zeros(n_clusters, dtype=np.int64)
    # all merges of clusters are undone before any cluster is split
    heap: list[tuple[bool, float, int, int | Branch]] = []

    def reach(node: int, what: int | Branch, most: float) -> None:
        """Record whether a node is a cluster or merge, given by its number, or a branch below a cluster."""
        if isinstance(what, int) and what < n_clusters:
            order[what], own = node, members[what]
            what = condensed(apart[np.ix_(own, own)], least, own)
        if isinstance(what, int):
            heapq.heappush(heap, (False, -merges[what - n_clusters][2], node, what))
        elif what.parts is not None:
            heapq.heappush(heap, (True, -min(what.height, most), node, what))

    reach(0, len(members) - 1, 1.0)
    n_found = 1
    while heap and (n_found < n_leaves or not heap[0][0]):
        _, negative, node, what = heapq.heappop(heap)
        height[node] = -negative
        if isinstance(what, int):
            pair = sorted(merges[what - n_clusters][:2], key=lambda part: -len(members[part]))
            found: list[tuple[int | Branch, np.ndarray]] = [(part, members[part]) for part in pair]
        else:
            found = [(part, part.cells) for part in what.parts or ()]
        for part, own in found:
            parent.append(node)
            height.append(0.0)
            cells.append(own)
            reach(len(parent) - 1, part, -negative)
        n_found += 1
    tree = Tree(np.array(parent), np.array(height), order, {})
    overlap = np.full(len(parent), np.nan)
    for node in tree.splits:
        overlap[node] = _overlap(apart, *(cells[child] for child in tree.children[node]))
    return tree.with_values(overlap=overlap), cells


def _merges(apart: np.ndarray, members: Sequence[np.ndarray]) -> list[tuple[int, int, float]]:
    """Join groups of cells by average linkage, and return the two groups and their distance for each merge.

    The distances between cells have shape (n_cells, n_cells). As in scipy, the group of the first merge has the number
    ``len(members)``, and so on. Empty groups are far from all other groups.
    """
    size = {number: len(cells) for number, cells in enumerate(members)}
    far = {
        (i, j): float(apart[np.ix_(members[i], members[j])].mean()) if size[i] and size[j] else 1.0
        for i in size
        for j in range(i)
    }
    merges: list[tuple[int, int, float]] = []
    while len(size) > 1:
        right, left = min(far, key=lambda pair: (far[pair], pair))
        new = len(members) + len(merges)
        merges.append((left, right, far.pop((right, left))))
        n_left, n_right = size.pop(left), size.pop(right)
        for other in size:
            both = [
                (far.pop((max(other, part), min(other, part))), n) for part, n in ((left, n_left), (right, n_right))
            ]
            total = n_left + n_right
            far[new, other] = sum(d * n for d, n in both) / total if total else 1.0
        size[new] = n_left + n_right
    return merges


def _overlap(apart: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Compute how often cells of two groups are together, relative to how often cells of the same group are.

    ``apart`` has shape (n_cells, n_cells).
    """
    if min(len(left), len(right)) < 2:
        return 1.0
    within = [1.0 - apart[np.ix_(own, own)].sum() / (len(own) * (len(own) - 1)) for own in (left, right)]
    return float((1.0 - apart[np.ix_(left, right)].mean()) / max(np.sqrt(within[0] * within[1]), 1e-9))


def support_of(labels: Tensor, groups: Sequence[np.ndarray]) -> Tensor:
    """Compute the share of the partitions that put each cell with the cells of each group, (n_cells, n_groups).

    The partitions have shape (n_partitions, n_cells).
    """
    found = torch.zeros(labels.shape[1], len(groups))
    for each in labels:
        for number, cells in enumerate(groups):
            count = torch.bincount(each[torch.from_numpy(cells)], minlength=int(each.max()) + 1)
            found[:, number] += count[each] / max(len(cells), 1)
    return found / len(labels)


def condensed(distance: np.ndarray, least: int, cells: np.ndarray) -> Branch:
    """Build a tree of cells (n_cells,) by average linkage, with ``least`` or more cells on each side of a split.

    The distances have shape (n_cells, n_cells). Smaller groups of cells stay in the group that they were joined to.
    """
    n_cells = len(cells)
    if n_cells < 2 * least:
        return Branch(cells)
    merges = average(squareform(distance, checks=False))
    order, start, sizes = leaf_order(merges)

    def branch(node: int) -> Branch:
        own = cells[order[start[node] : start[node] + sizes[node]]]
        while node >= n_cells:
            left, right = sorted((int(child) for child in merges[node - n_cells, :2]), key=lambda child: -sizes[child])
            if sizes[right] >= least:
                return Branch(own, float(merges[node - n_cells, 2]), (branch(left), branch(right)))
            node = left
        return Branch(own)

    return branch(2 * n_cells - 2)
