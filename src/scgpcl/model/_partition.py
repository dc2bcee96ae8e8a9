"""Partitions of the cells into nodes of the tree, merged nodes, and parts of sub-divided clusters."""

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
    """Probabilities of the clusters of a partition, and each cell's cluster.

    Parameters
    ----------
    tree
        The tree.
    leaves
        Probabilities of its leaves, shape (n_cells, n_leaves).
    partition
        Columns ``cluster`` and ``node``: the nodes of the tree, or parts, that each cluster consists of.
    parts, shares
        Sub-divided clusters, and for each the probabilities of its parts within it, shape (n_cells, n_parts).

    Returns
    -------
    Table of shape (n_cells, n_clusters), float32, and positions of the clusters, int64, shape (n_cells,).
    """
    position = {name: node for node, name in enumerate(tree.names)}
    path = tree.paths(leaves)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def of_node(name: str) -> tuple[np.ndarray, np.ndarray]:
        """Probability of a node or part, and whether a cell is in it, both of shape (n_cells,)."""
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
    """The ``parts`` that a partition into ``nodes`` needs, in order: a part of a part needs the one it comes from."""
    wanted, found = set(nodes), []
    for each in reversed(parts):
        if wanted & set(each.names):
            found.append(each)
            wanted |= set(each.whole)
    return found[::-1]


def in_order(level: pd.DataFrame) -> pd.DataFrame:
    """A partition sorted by the names of its clusters."""
    order = sorted(range(len(level)), key=lambda row: name_order(level["cluster"].iloc[row]))
    return level.iloc[order].reset_index(drop=True)


def all_of(level: pd.DataFrame) -> str:
    """Names of the clusters of a partition, for a message."""
    return ", ".join(repr(name) for name in dict.fromkeys(level["cluster"]))
