"""Agreement between two partitions of the same cells."""

from collections.abc import Hashable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score


def ari(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Compute the adjusted Rand index (Hubert and Arabie 1985): agreement on pairs of cells, corrected for chance.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). The score is symmetric in the two arguments.

    Returns
    -------
    A score of at most 1 (identical partitions). It is about 0 for a random partition and can be slightly negative.

    Raises
    ------
    ValueError
        If the arrays differ in length, are empty or not one-dimensional, or contain missing values.
    """
    (label_codes, _), (cluster_codes, _) = encode_pair(labels, clusters)
    return float(adjusted_rand_score(label_codes, cluster_codes))


def nmi(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Compute the mutual information, normalised by the arithmetic mean of the two entropies.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). The score is symmetric in the two arguments.

    Returns
    -------
    A score between 0 (independent partitions) and 1 (identical partitions). It is not corrected for chance.

    Raises
    ------
    ValueError
        If the arrays differ in length, are empty or not one-dimensional, or contain missing values.
    """
    (label_codes, _), (cluster_codes, _) = encode_pair(labels, clusters)
    return float(normalized_mutual_info_score(label_codes, cluster_codes))


def match_clusters(
    labels: ArrayLike, clusters: ArrayLike, *, method: Literal["hungarian", "majority"] = "hungarian"
) -> dict[Hashable, Hashable]:
    """Assign a label to each cluster.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,).
    method
        ``"hungarian"`` computes a one-to-one matching that maximises the number of agreeing cells (Kuhn 1955). If there
        are more clusters than labels, unmatched clusters are absent from the result. ``"majority"`` assigns each
        cluster its most frequent label, or the first of them if there is a tie. In this case, labels may repeat.

    Returns
    -------
    Label of each matched cluster, as a dictionary ``{cluster: label}``.

    Raises
    ------
    ValueError
        If the method is unknown, or if the arrays differ in length, are empty or not one-dimensional, or contain
        missing values.
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
    """Compute the share of cells whose cluster matches their label, under the best one-to-one matching (ACC).

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). The number of clusters may differ from the number of labels. Cells
        in unmatched clusters count as wrong.

    Returns
    -------
    A score above 0 and at most 1.

    Raises
    ------
    ValueError
        If the arrays differ in length, are empty or not one-dimensional, or contain missing values.
    """
    table = contingency(labels, clusters).table
    return float(table[_hungarian(table)].sum() / table.sum())


def macro_f1(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Compute the mean F1 score over labels.

    Clusters are matched to labels as in :func:`scgpcl.metrics.accuracy`, and every label has the same weight.

    Parameters
    ----------
    labels
        Known labels, shape (n_cells,).
    clusters
        Clusters of the same cells, shape (n_cells,). A label without a matched cluster scores 0.

    Returns
    -------
    A score between 0 and 1. If several matchings are equally good, the score is computed for one of them.

    Raises
    ------
    ValueError
        If the arrays differ in length, are empty or not one-dimensional, or contain missing values.
    """
    table = contingency(labels, clusters).table
    rows, cols = _hungarian(table)
    f1 = np.zeros(table.shape[0])
    # F1 = 2 TP / (2 TP + FP + FN), where the margins are TP + FN and TP + FP
    f1[rows] = 2 * table[rows, cols] / (table.sum(axis=1)[rows] + table.sum(axis=0)[cols])
    return float(f1.mean())


class Contingency(NamedTuple):
    """Number of cells for each pair of label and cluster. Rows and columns are in the order of first appearance."""

    table: np.ndarray  # (n_labels, n_clusters), int64
    labels: np.ndarray  # (n_labels,)
    clusters: np.ndarray  # (n_clusters,)


def encode(values: ArrayLike, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer codes (n_cells,) of an array and the distinct values that they index.

    Error messages call the array ``name``.
    """
    # numpy would turn the list [1, "a", None] into strings; an object array keeps None as a missing value
    array = np.asarray(values, dtype=object if isinstance(values, (list, tuple)) else None)
    if array.ndim != 1:
        msg = f"Expected `{name}` to be one-dimensional, one entry per cell, found shape {array.shape}."
        raise ValueError(msg)
    if array.size == 0:
        msg = f"Expected `{name}` to hold at least one cell, found none."
        raise ValueError(msg)
    codes, uniques = pd.factorize(array, use_na_sentinel=True)
    n_missing = int(np.sum(codes < 0))
    if n_missing:
        msg = (
            f"Expected every cell to have an entry in `{name}`, found {n_missing} missing of {array.size}. "
            "Drop these cells from both arrays first."
        )
        raise ValueError(msg)
    return codes, np.asarray(uniques)


def encode_pair(labels: ArrayLike, clusters: ArrayLike) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Encode labels and clusters of the same cells. Two series with the same cell names are aligned by name."""
    if isinstance(labels, pd.Series) and isinstance(clusters, pd.Series):
        clusters = aligned(clusters, labels.index)
    encoded = encode(labels, name="labels"), encode(clusters, name="clusters")
    n_labels, n_clusters = (len(codes) for codes, _ in encoded)
    if n_labels != n_clusters:
        msg = (
            f"Expected `labels` and `clusters` of the same cells, found {n_labels} labels and {n_clusters} clusters. "
            "Subset both to the same cells, in the same order."
        )
        raise ValueError(msg)
    return encoded


def aligned(values: pd.Series, cells: pd.Index) -> pd.Series:
    """Return a series in the order of ``cells`` if it has the same cells in another order, or else unchanged."""
    index = values.index
    if index.equals(cells) or len(index) != len(cells) or not (index.is_unique and cells.is_unique):
        return values
    return values.loc[cells] if cells.isin(index).all() else values


def contingency(labels: ArrayLike, clusters: ArrayLike) -> Contingency:
    """Return the contingency table of labels (rows) and clusters (columns), both of shape (n_cells,)."""
    (row, label_names), (col, cluster_names) = encode_pair(labels, clusters)
    shape = (len(label_names), len(cluster_names))
    table = sparse.coo_array((np.ones(len(row), dtype=np.int64), (row, col)), shape=shape).toarray()
    return Contingency(table, label_names, cluster_names)


def _hungarian(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the one-to-one matching with the largest sum.

    Both have shape (min(table.shape),).
    """
    return linear_sum_assignment(table, maximize=True)
