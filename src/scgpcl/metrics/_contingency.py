from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse


class Contingency(NamedTuple):
    """Counts of cells per pair of label and cluster, with what the rows and columns stand for.

    Rows and columns are in the order of first appearance.
    """

    table: np.ndarray  # (n_labels, n_clusters), int64
    labels: np.ndarray  # (n_labels,)
    clusters: np.ndarray  # (n_clusters,)


def encode(values: ArrayLike, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Integer codes of a one-dimensional array of labels.

    Parameters
    ----------
    values
        Labels of any hashable kind (numbers, strings, categorical), shape (n_cells,).
    name
        What the array is called in errors.

    Returns
    -------
    Codes, shape (n_cells,), and the distinct values they index, both in the order of first appearance.

    Raises
    ------
    ValueError
        If the array is not one-dimensional, is empty or holds missing values.
    """
    # numpy would turn the list [1, "a", None] into strings; an object array keeps None a missing value.
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
    """`encode` for labels and clusters of the same cells.

    Raises
    ------
    ValueError
        If one of the arrays is unusable (see `encode`) or their lengths differ.
    """
    encoded = encode(labels, name="labels"), encode(clusters, name="clusters")
    n_labels, n_clusters = (len(codes) for codes, _ in encoded)
    if n_labels != n_clusters:
        msg = (
            f"Expected `labels` and `clusters` of the same cells, found {n_labels} labels and {n_clusters} clusters. "
            "Subset both to the same cells, in the same order."
        )
        raise ValueError(msg)
    return encoded


def contingency(labels: ArrayLike, clusters: ArrayLike) -> Contingency:
    """Contingency table of labels (rows) and clusters (columns).

    Parameters
    ----------
    labels, clusters
        One entry per cell, shape (n_cells,).

    Raises
    ------
    ValueError
        For different lengths, missing values, empty or not one-dimensional arrays.
    """
    (row, label_names), (col, cluster_names) = encode_pair(labels, clusters)
    shape = (len(label_names), len(cluster_names))
    table = sparse.coo_array((np.ones(len(row), dtype=np.int64), (row, col)), shape=shape).toarray()
    return Contingency(table, label_names, cluster_names)
