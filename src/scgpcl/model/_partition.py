"""Partitions of the cells into tree nodes, merged nodes and parts of sub-divided clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpcl.cluster import name_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scgpcl.cluster import Tree
    from scgpcl.model._subclusters import Subclusters


def shared_out(
    tree: Tree,
    leaves: np.ndarray,
    partition: pd.DataFrame,
    parts: Sequence[Subclusters],
    shares: Sequence[np.ndarray],
) -> tuple[pd.DataFrame, np.ndarray]:
    """Compute the cluster probabilities for a partition, and assign each cell to a cluster.

    Parameters
    ----------
    tree
        Tree of clusters.
    leaves
        Probabilities of the tree leaves, shape (n_cells, n_leaves).
    partition
        Table with the columns ``cluster`` and ``node``, which lists the tree nodes or parts that make up each cluster.
    parts, shares
        Sub-divided clusters and, for each of them, the probabilities of its parts within it, shape (n_cells, n_parts).

    Returns
    -------
    Table of probabilities, float32, shape (n_cells, n_clusters), and column index of each cell's cluster, int64, shape
    (n_cells,).
    """
    position = {name: node for node, name in enumerate(tree.names)}
    path = tree.paths(leaves)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def of_node(name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of a node or part, and whether each cell is in it, both of shape (n_cells,)."""
        if name not in found:
            below = tree.below[position[name]]
            found[name] = leaves @ below[tree.leaves].astype(leaves.dtype), below[path]
        return found[name]

    for each, share in zip(parts, shares, strict=True):
        values, masks = zip(*map(of_node, each.whole), strict=True)
        whole, inside = np.sum(values, 0), np.any(masks, 0)
        for number, name in enumerate(each.names):
            found[name] = whole * share[:, number], inside & (share.argmax(1) == number)
    names = list(dict.fromkeys(partition["cluster"]))
    probability, codes = np.zeros((len(leaves), len(names))), np.zeros(len(leaves), dtype=np.int64)
    for name, node in zip(partition["cluster"], partition["node"], strict=True):
        value, inside = of_node(node)
        probability[:, names.index(name)] += value
        codes[inside] = names.index(name)
    return pd.DataFrame(probability.astype(np.float32), columns=names), codes


def in_use(parts: Sequence[Subclusters], nodes: Iterable[str]) -> list[Subclusters]:
    """Return the ``parts`` needed for a partition into ``nodes``, in order.

    Sub-clusters of a part also require the sub-clusters to which this part belongs.
    """
    wanted, found = set(nodes), []
    for each in reversed(parts):
        if wanted & set(each.names):
            found.append(each)
            wanted |= set(each.whole)
    return found[::-1]


def in_order(level: pd.DataFrame) -> pd.DataFrame:
    """Sort a partition by cluster name."""
    order = sorted(range(len(level)), key=lambda row: name_order(level["cluster"].iloc[row]))
    return level.iloc[order].reset_index(drop=True)


def all_of(level: pd.DataFrame) -> str:
    """Format the cluster names of a partition for a message."""
    return ", ".join(repr(name) for name in dict.fromkeys(level["cluster"]))
