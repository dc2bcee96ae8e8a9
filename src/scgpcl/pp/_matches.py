"""Match cells of different batches that are probably of the same type, and measure how they differ."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Number of nearest cells in another batch among which a cell must find its match, and vice versa.
N_MATCHES = 10
#: Maximum distance of a match, relative to the distance to the farthest of the same number of cells in the same batch.
MAX_DISTANCE = 1.25


def matched_cells(x: np.ndarray, batch_index: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find mutual nearest neighbours between each pair of batches, by the directions of the vectors ``x`` (n_cells, n).

    A type that is missing from another batch also has mutual nearest neighbours there (Haghverdi et al. 2018). These
    belong to another type and are therefore farther away than cells of the same batch. Such pairs are left out by
    comparing the distance of a pair with the geometric mean of the distances at which its two cells find the same
    number of neighbours in their own batches.

    Yields
    ------
    Positions of the first and second cell of each pair, each of shape (n_pairs,), for two batches at a time.
    """
    unit = normalize(x)
    own = [np.flatnonzero(batch_index == batch) for batch in np.unique(batch_index)]
    search = [NearestNeighbors(n_neighbors=min(N_MATCHES, len(cells))).fit(unit[cells]) for cells in own]
    radius = np.zeros(len(unit))
    for cells, near in zip(own, search, strict=True):
        if len(cells) > 1:
            radius[cells] = near.kneighbors(n_neighbors=min(N_MATCHES, len(cells) - 1))[0][:, -1]
    for a, b in combinations(range(len(own)), 2):
        there, back = (search[b].kneighbors_graph(unit[own[a]]), search[a].kneighbors_graph(unit[own[b]]))
        mutual = sp.coo_matrix(there.multiply(back.T))
        first, second = own[a][mutual.row], own[b][mutual.col]
        distance = np.linalg.norm(unit[first] - unit[second], axis=1)
        near = distance <= MAX_DISTANCE * np.sqrt(radius[first] * radius[second])
        yield first[near], second[near]


def match_covariance(
    scores: np.ndarray, x: np.ndarray, batch_index: np.ndarray, types: np.ndarray | None = None
) -> np.ndarray:
    """Compute half the mean square difference between the scores of matched cells, shape (n, n).

    The cells are matched by ``x``, and their scores have shape (n_cells, n). Matches between cells of different types are
    left out if ``types`` are given, with -1 for unlabelled cells. The result is zero if there are no matches.
    """
    square, n_pairs = np.zeros((scores.shape[1],) * 2), 0
    for first, second in matched_cells(x, batch_index):
        if types is not None:
            same = (types[first] == types[second]) | (types[first] < 0) | (types[second] < 0)
            first, second = first[same], second[same]
        difference = scores[first] - scores[second]
        square += difference.T @ difference
        n_pairs += len(first)
    return square / max(2 * n_pairs, 1)
