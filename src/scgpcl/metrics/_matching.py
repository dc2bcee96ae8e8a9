from collections.abc import Hashable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from ._contingency import contingency


def match_clusters(
    labels: ArrayLike, clusters: ArrayLike, *, method: Literal["hungarian", "majority"] = "hungarian"
) -> dict[Hashable, Hashable]:
    """Name each cluster after a label.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,).
    method
        `"hungarian"`: one label per cluster and one cluster per label, so that the most cells agree (Kuhn 1955).
        With more clusters than labels, the clusters left over are absent from the result.
        `"majority"`: each cluster takes its most frequent label, the first seen among equals; labels may repeat.

    Returns
    -------
    Label of each matched cluster, `{cluster: label}`.

    Raises
    ------
    ValueError
        For an unknown method, different lengths, missing values, empty or not one-dimensional arrays.
    """
    if method not in ("hungarian", "majority"):
        msg = f"Expected `method` to be 'hungarian' or 'majority', found {method!r}."
        raise ValueError(msg)
    found = contingency(labels, clusters)
    if method == "hungarian":
        rows, cols = _hungarian(found.table)
    else:
        rows, cols = found.table.argmax(axis=0), np.arange(found.table.shape[1])
    return dict(zip(found.clusters[cols].tolist(), found.labels[rows].tolist(), strict=True))


def accuracy(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Share of cells in the right cluster under the best one-to-one matching of clusters and labels (ACC).

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). Their number may differ from the number of labels:
        cells of an unmatched cluster count as wrong.

    Returns
    -------
    Between 0 (excluded) and 1.

    Raises
    ------
    ValueError
        For different lengths, missing values, empty or not one-dimensional arrays.
    """
    table = contingency(labels, clusters).table
    return float(table[_hungarian(table)].sum() / table.sum())


def macro_f1(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Mean over the labels of the F1 score, after the matching of `accuracy`; small types weigh as much as large ones.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). A label without a cluster of its own scores 0.

    Returns
    -------
    Between 0 and 1. Where several matchings agree with equally many cells, the value is that of one of them.

    Raises
    ------
    ValueError
        For different lengths, missing values, empty or not one-dimensional arrays.
    """
    table = contingency(labels, clusters).table
    rows, cols = _hungarian(table)
    f1 = np.zeros(table.shape[0])
    # F1 = 2 TP / (2 TP + FP + FN), and the margins are TP + FN and TP + FP.
    f1[rows] = 2 * table[rows, cols] / (table.sum(axis=1)[rows] + table.sum(axis=0)[cols])
    return float(f1.mean())


def _hungarian(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one matching with the largest sum, each of shape (min(table.shape),)."""
    return linear_sum_assignment(table, maximize=True)
