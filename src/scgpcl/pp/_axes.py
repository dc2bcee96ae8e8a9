"""Axes of the features: principal axes, and axes along which groups of cells lie far apart."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.decomposition import PCA

from scgpcl.cluster import enough_labels, kmeans
from scgpcl.pp._matches import match_covariance

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scgpcl.data import Cells
    from scgpcl.nn import Moments

#: Maximum number of cells used to compute the principal axes. Larger data sets are sampled.
MAX_AXES_CELLS = 20_000
#: Number of principal axes for ``start="pca"`` and for testing whether there are groups of cells.
N_PRINCIPAL = 50
#: Number of discriminant axes used to initialise the encoder and to find neighbours.
N_AXES = 30
#: Number of principal axes combined into discriminant axes, at most one per ``AXIS_CELLS`` cells, and number of
#: principal axes used to group cells.
N_BASE_AXES, N_GROUP_AXES = 100, 30
AXIS_CELLS, MIN_BASE_AXES = 5, 10
#: Average number of cells in a fine group, and the minimum number of groups.
GROUP_CELLS, MIN_GROUPS = 40, 6
#: Share of the covariance within groups that is replaced by its mean variance. If the second number divided by the
#: number of cells is larger, it is used instead.
RIDGE, RIDGE_CELLS = 0.1, 48
#: Weight of the differences between matched cells of two batches relative to the spread within groups, and number of
#: rounds in which cells are matched along the axes found so far.
MATCH_WEIGHT, MATCH_ROUNDS = 4.0, 2
#: Random seed for the fine groups. It is independent of the model's seed, so all runs start at the same axes.
GROUPS_SEED = 0


class FeatureAxes:
    """Axes of the features of training cells, which are computed when they are first used.

    Parameters
    ----------
    cells, moments
        Cells and the moments of their features.
    discriminant
        Whether training starts at the discriminant axes. Otherwise it starts at the principal axes.
    seed
        Random seed for sampling large data sets.
    """

    def __init__(self, cells: Cells, moments: Moments, *, discriminant: bool, seed: int) -> None:
        self.cells = cells
        self._moments = moments
        self._discriminant = discriminant
        self._seed = seed

    @cached_property
    def _base(self) -> np.ndarray | None:
        n_axes = max(N_PRINCIPAL, n_base_axes(len(self.cells)) if self._discriminant else 0)
        return principal_axes(self.cells, self._moments, n_axes, seed=self._seed)

    @property
    def principal(self) -> np.ndarray | None:
        """Leading principal axes, shape (at most ``N_PRINCIPAL``, n_genes), or ``None`` if all cells are equal."""
        return None if self._base is None else self._base[:N_PRINCIPAL]

    @cached_property
    def start(self) -> np.ndarray | None:
        """Axes at which training starts, shape (n_axes, n_genes), or ``None`` if all cells are equal."""
        if not self._discriminant or self._base is None:
            return self.principal
        base = self._base[: n_base_axes(len(self.cells))]
        return discriminant_axes(self.cells, self._moments, base, seed=self._seed)


def n_base_axes(n_cells: int) -> int:
    """Return the number of principal axes from which discriminant axes are computed."""
    return min(N_BASE_AXES, max(n_cells // AXIS_CELLS, MIN_BASE_AXES))


def principal_axes(cells: Cells, moments: Moments, n_axes: int, *, seed: int) -> np.ndarray | None:
    """Compute the leading principal axes of the features, shape (n_axes, n_genes), or ``None`` if all cells are equal.

    At most ``MAX_AXES_CELLS`` cells are used. The features are sparse up to one constant per gene, which is removed by
    centring, so PCA only sees the sparse part.
    """
    rng = np.random.default_rng(seed)
    index = sampled(len(cells), seed=seed)
    return fit_axes(cells.features(moments, index), moments.offset, cells, index, n_axes, rng)


def sampled(n_cells: int, *, seed: int) -> np.ndarray:
    """Return the ascending positions of at most ``MAX_AXES_CELLS`` cells from which axes are computed."""
    if n_cells <= MAX_AXES_CELLS:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, MAX_AXES_CELLS, replace=False))


def discriminant_axes(cells: Cells, moments: Moments, base: np.ndarray, *, seed: int) -> np.ndarray:
    r"""Find the axes that best separate small groups of cells relative to the spread within groups.

    This is linear discriminant analysis that needs no labels. Cells are grouped by k-means into many small groups, most
    of which contain a single type. Variation within groups, such as depth or the cell cycle, should not separate cells.
    Let :math:`W` be the covariance of the principal components within groups, shrunk towards its mean variance. The
    components are multiplied by :math:`W^{-1/2}`, and their principal axes are computed (relevant component analysis,
    Bar-Hillel et al. 2005, with groups instead of chunklets).

    If there are at least 40 labelled cells per type on average, types replace the groups of labelled cells.
    If all cells are labelled, the leading axes are those of ordinary linear discriminant analysis. The axes along which
    types do not differ are kept, because new types may differ along them.

    If there are batches, cells of different batches that are mutual nearest neighbours should not be separated either.
    Their covariance is added to :math:`W` with a weight, which suppresses directions along which batches differ within
    types. Neighbours that are labelled as different types do not count.

    Parameters
    ----------
    cells, moments
        Cells and the moments of their features.
    base
        Principal axes of the features, shape (n_base, n_genes), see :func:`n_base_axes`.
    seed
        Random seed for sampling large data sets.

    Returns
    -------
    Axes as float32, shape (at most ``N_AXES``, n_genes), with a mean square norm of 1. The scores of the cells along the
    axes are uncorrelated, and the leading axes come first.
    """
    index = sampled(len(cells), seed=seed)
    scores = scores_along(cells, moments, base, index).astype(np.float64)
    scores -= scores.mean(0)
    ridge = max(RIDGE, min(RIDGE_CELLS / len(scores), 1.0))
    groups = fine_groups(scores[:, :N_GROUP_AXES])
    types = None if cells.label_index is None else cells.label_index[index]
    if types is not None and enough_labels(types):
        groups = np.where(types >= 0, groups.max() + 1 + types, groups)
    found = whitened_axes(scores, groups, ridge)[:N_AXES]
    if cells.batch_index is not None:
        for _ in range(MATCH_ROUNDS):
            between = match_covariance(scores, scores @ found.T, cells.batch_index[index], types)
            found = whitened_axes(scores, groups, ridge, MATCH_WEIGHT * between)[:N_AXES]
    axes = found @ base
    return (axes / np.sqrt((axes**2).sum(1).mean())).astype(np.float32)


def whitened_axes(
    scores: np.ndarray, groups: np.ndarray, ridge: float, between: np.ndarray | None = None
) -> np.ndarray:
    """Compute the principal axes of centred scores (n_cells, n) after whitening by the covariance within groups.

    The covariance is regularised. If given, ``between`` (n, n) is added to it.
    """
    n_groups = int(groups.max()) + 1
    sums = np.zeros((n_groups, scores.shape[1]))
    np.add.at(sums, groups, scores)
    spread = scores - (sums / np.maximum(np.bincount(groups), 1)[:, None])[groups]
    within = spread.T @ spread / len(scores)
    if between is not None:
        within += between
    added = max(ridge * np.trace(within) / len(within), 1e-9 * (scores**2).mean())
    value, vector = np.linalg.eigh((1.0 - ridge) * within + added * np.eye(len(within)))
    whitening = vector / np.sqrt(value)
    white = scores @ whitening
    return (whitening @ np.linalg.eigh(white.T @ white)[1][:, ::-1]).T


def fine_groups(scores: np.ndarray) -> np.ndarray:
    """Divide cells into many small groups by k-means on the directions of their scores, int64, shape (n_cells,)."""
    n_groups = max(1, min(max(MIN_GROUPS, len(scores) // GROUP_CELLS), len(scores) // 4))
    x = torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float32))
    return kmeans(x, n_groups, n_init=1, seed=GROUPS_SEED, directions=True).labels.numpy()


def fit_axes(
    sparse_part: sp.csr_matrix,
    offset: np.ndarray,
    cells: Cells,
    index: np.ndarray,
    n_axes: int,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Compute the principal axes of features given as a sparse part and an offset.

    The axes are float32 with shape (at most n_axes, n_genes).
    """
    n_axes = min(n_axes, *(n - 1 for n in sparse_part.shape))
    if n_axes < 1 or not _varies(sparse_part):
        return None
    if cells.batch_index is None:
        # in double precision, since the last digits of the solver depend on where its arrays lie in memory
        solver = PCA(n_axes, svd_solver="arpack", random_state=int(rng.integers(2**31)))
        axes = solver.fit(sparse_part.astype(np.float64)).components_
    else:
        centred = _centred(sparse_part, offset, cells.batch_index[index])
        axes = svds(centred, n_axes, v0=rng.uniform(-1.0, 1.0, min(centred.shape)))[2][::-1]
    return np.array(axes, dtype=np.float32)


def _varies(x: sp.csr_matrix) -> bool:
    """Return whether any column of a matrix has more than one value, up to rounding."""
    x = x.astype(np.float64)
    mean, square = (np.asarray(values.mean(0)).ravel() for values in (x, x.multiply(x)))
    return bool((square - mean**2 > 1e-10 * square).any())


def _centred(sparse_part: sp.csr_matrix, offset: np.ndarray, batch_index: np.ndarray) -> LinearOperator:
    """Return the centred features (n_cells, n_genes) as an operator that never makes them dense."""
    n_batch = len(offset)
    size = np.bincount(batch_index, minlength=n_batch)
    n_cells = len(batch_index)
    mean = (np.asarray(sparse_part.sum(0)).ravel() + size @ offset) / n_cells
    transpose = sparse_part.T.tocsr()

    def product(v: np.ndarray) -> np.ndarray:
        v = v.ravel()
        return sparse_part @ v + (offset @ v)[batch_index] - mean @ v

    def transposed(u: np.ndarray) -> np.ndarray:
        u = u.ravel()
        return transpose @ u + np.bincount(batch_index, weights=u, minlength=n_batch) @ offset - mean * u.sum()

    return LinearOperator(sparse_part.shape, matvec=product, rmatvec=transposed, dtype=np.float64)


def scores_along(cells: Cells, moments: Moments, axes: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
    """Project the features of some or all cells onto axes, up to one constant per axis.

    The scores are float32 with shape (n_some, n_axes).
    """
    projection = axes.T.astype(np.float64)
    offset = moments.offset @ projection
    index = np.arange(len(cells)) if index is None else index
    parts = []
    for start in range(0, len(index), MAX_AXES_CELLS):
        some = index[start : start + MAX_AXES_CELLS]
        own = cells.features(moments, some) @ projection
        parts.append(own if cells.batch_index is None else own + offset[cells.batch_index[some]])
    return np.concatenate(parts).astype(np.float32)
