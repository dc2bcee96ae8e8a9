"""Estimate the number of clusters from splits that most partitions make and that hold on held-out molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import pandas as pd

from scgpcl.cluster._consensus import CELLS_PER_GROUP
from scgpcl.cluster._stability import SplitTest, split_test
from scgpcl.cluster._tree import N_LEAVES, grow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgpcl.cluster._consensus import Evidence

#: Share of the partitions that must make a split.
MAJORITY = 0.5
#: Maximum number of runners-up, and the minimum drop in the share of the partitions after a runner-up.
MAX_RUNNERS_UP, LEAST_FALL = 3, 0.05


class NClusters(NamedTuple):
    """Estimated number of clusters and the underlying curve, see :attr:`scgpcl.SCGPCL.n_clusters_curve_`."""

    n_clusters: int
    curve: pd.DataFrame
    #: Positions of the linked cells on both sides of the first split and of all others that hold.
    splits: list[tuple[np.ndarray, np.ndarray]]


def estimate_n_clusters(
    evidence: Evidence,
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    min_separation: float = 1.11,
    false_splits: float,
    seed: int,
) -> NClusters:
    """Count the tree splits that are made by a majority of the partitions and that hold on held-out molecules.

    A split counts if more than half of the partitions separate its sides (Fred and Jain 2005: cells that most
    partitions keep together are one cluster), if the split above it counts, and if its sides are apart (see
    :func:`split_test`). The first condition alone would also divide a group without structure, into as many parts as
    most partitions have. The last condition prevents this.

    Parameters
    ----------
    evidence
        Partitions of the cells.
    halves
        Vectors of the linked cells from both halves of the molecules, see :func:`split_test`.
    min_separation
        Minimum that the separation of a split must significantly exceed. Splits into small groups, whose separation is
        less certain, therefore need a larger separation.
    false_splits
        Maximum probability that any of the splits divides a continuous group.
    seed
        Random seed for the tests.
    """
    n_linked = len(evidence.linked)
    # as many leaves as there can be: a large group without structure has many splits that come before those of small groups
    n_leaves = max(1, n_linked // CELLS_PER_GROUP)
    tree, cells = grow(evidence, np.zeros(n_linked, dtype=np.int64), 1, n_leaves)
    rng = np.random.default_rng(seed)
    candidates = sum(tree.height[node] > MAJORITY for node in tree.splits)
    holds = np.zeros(len(tree.parent), dtype=bool)
    rows = []
    for k, node in enumerate(tree.splits, start=2):
        found = SplitTest(np.nan, np.nan)
        above = tree.parent[node]
        if tree.height[node] > MAJORITY and (above < 0 or holds[above]):
            sides = (cells[child] for child in tree.children[node])
            found = split_test(halves, *sides, rng=rng, min_separation=min_separation)
            holds[node] = found.p_value * candidates <= false_splits
        rows.append((k, tree.height[node], *found, holds[node]))
    curve = pd.DataFrame(rows, columns=["K", "share", "separation", "p_value", "holds"])
    last = max(N_LEAVES - 1, *(np.flatnonzero(curve["holds"]) + 1), 0)
    splits = [tuple(cells[child] for child in tree.children[node]) for node in tree.splits if node == 0 or holds[node]]
    return NClusters(1 + int(holds.sum()), curve.head(last), cast("list[tuple[np.ndarray, np.ndarray]]", splits))


def runners_up(curve: pd.DataFrame, n_clusters: int) -> list[int]:
    """Return up to three other numbers after which the share of the partitions drops most, the largest drop first.

    If the cells form one group, no other number is stable.
    """
    if n_clusters == 1:
        return []
    number, fall = curve["K"].to_numpy()[:-1], -np.diff(curve["share"])
    higher = np.maximum(np.r_[-np.inf, fall[:-1]], np.r_[fall[1:], -np.inf])
    peaks = (fall > higher) & (fall >= LEAST_FALL) & (abs(number - n_clusters) > 1)
    return [int(number[i]) for i in np.argsort(-fall, kind="stable") if peaks[i]][:MAX_RUNNERS_UP]


def also_stable(numbers: Sequence[int]) -> str:
    """Describe the runners-up, such as "6 and 12 are stable too: model.cut(6)", or return "" if there are none."""
    if not numbers:
        return ""
    named = [str(number) for number in numbers]
    text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{text} {'is' if len(named) == 1 else 'are'} stable too: model.cut({named[0]})"
