"""Principal axes of the features, and the space in which partitions are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.decomposition import PCA

from scgpcl._random import derived_seed

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scgpcl.data import Cells
    from scgpcl.nn import Moments

#: Cells that the principal axes are computed from; more are sampled.
MAX_AXES_CELLS = 20_000
#: Principal axes that the encoder starts at, and components of the space of comparison.
N_AXES = 50
#: Cells that partitions are compared on and the axes of that space are computed from; more are sampled.
MAX_COMPARED_CELLS = 10_000


def principal_axes(cells: Cells, moments: Moments, n_axes: int, *, seed: int) -> np.ndarray | None:
    """Leading principal axes of the features of at most ``MAX_AXES_CELLS`` cells, (n_axes, n_genes); None if all alike.

    The features are sparse up to one constant per gene, which centring removes, so PCA sees the sparse part only.
    """
    rng = np.random.default_rng(seed)
    index = np.arange(len(cells))
    if len(index) > MAX_AXES_CELLS:
        index = np.sort(rng.choice(index, MAX_AXES_CELLS, replace=False))
    return fit_axes(cells.features(moments, index), moments.offset, cells, index, n_axes, rng)


def fit_axes(
    sparse_part: sp.csr_matrix,
    offset: np.ndarray,
    cells: Cells,
    index: np.ndarray,
    n_axes: int,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Principal axes of features given as sparse part and offset, float32, shape (at most n_axes, n_genes)."""
    n_axes = min(n_axes, *(n - 1 for n in sparse_part.shape))
    if n_axes < 1 or not _varies(sparse_part):
        return None
    if cells.batch_index is None:
        axes = PCA(n_axes, svd_solver="arpack", random_state=int(rng.integers(2**31))).fit(sparse_part).components_
    else:
        centred = _centred(sparse_part, offset, cells.batch_index[index])
        axes = svds(centred, n_axes, v0=rng.uniform(-1.0, 1.0, min(centred.shape)))[2][::-1]
    return np.array(axes, dtype=np.float32)


def _varies(x: sp.csr_matrix) -> bool:
    """Whether any column of a matrix has more than one value, up to rounding."""
    x = x.astype(np.float64)
    mean, square = (np.asarray(values.mean(0)).ravel() for values in (x, x.multiply(x)))
    return bool((square - mean**2 > 1e-10 * square).any())


def _centred(sparse_part: sp.csr_matrix, offset: np.ndarray, batch_index: np.ndarray) -> LinearOperator:
    """Features of shape (n_cells, n_genes) less their means, as a product that never makes them dense."""
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


def scores_along(cells: Cells, moments: Moments, axes: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Weighted features of all cells along axes, up to one constant per axis, float32, shape (n_cells, n_axes)."""
    projection = (weight * axes).T.astype(np.float64)
    offset = moments.offset @ projection
    parts = []
    for start in range(0, len(cells), MAX_AXES_CELLS):
        index = np.arange(start, min(start + MAX_AXES_CELLS, len(cells)))
        own = cells.features(moments, index) @ projection
        parts.append(own if cells.batch_index is None else own + offset[cells.batch_index[index]])
    return np.concatenate(parts).astype(np.float32)


def comparison_sample(n_cells: int, *, seed: int) -> np.ndarray:
    """Cells that partitions are compared on, ascending positions, shape (at most ``MAX_COMPARED_CELLS``,)."""
    if n_cells <= MAX_COMPARED_CELLS:
        return np.arange(n_cells)
    rng = np.random.default_rng(derived_seed(seed, 12))
    return np.sort(rng.choice(n_cells, MAX_COMPARED_CELLS, replace=False))


@dataclass(eq=False)
class ComparisonSpace:
    """Principal components of log counts that are divided by the square root of each gene's standard deviation.

    Half-way between components of centred and of standardised features: the former are dominated by high-variance genes,
    the latter give noise of quiet genes the same weight. The network has no part in it. With batches the features are
    corrected for them, and the standard deviation is the mean of the batches' own. The axes are those of the cells of
    :func:`comparison_sample`. Nothing is computed before it is asked for.
    """

    cells: Cells
    moments: Moments
    seed: int

    @cached_property
    def index(self) -> np.ndarray:
        """Cells that partitions are compared on."""
        return comparison_sample(len(self.cells), seed=self.seed)

    def all(self) -> torch.Tensor:
        """Components of all cells, float32, shape (n_cells, at most ``N_AXES``)."""
        std, cells = self.moments.std, self.cells
        weight = np.sqrt(std if std.ndim == 1 else std.mean(0))
        features = cells.features(self.moments, self.index)
        features.data *= weight[features.indices]
        rng = np.random.default_rng(derived_seed(self.seed, 14))
        axes = fit_axes(features, self.moments.offset * weight, cells, self.index, N_AXES, rng)
        scores = np.zeros((len(cells), 1), dtype=np.float32)  # where all cells are alike
        if axes is not None:
            scores = scores_along(cells, self.moments, axes, weight)
            scores = scores - scores[self.index].mean(0)
        components = torch.from_numpy(scores)
        self.sample = components[torch.from_numpy(self.index)]
        return components

    @cached_property
    def sample(self) -> torch.Tensor:
        """Components of the cells of :func:`comparison_sample`."""
        return self.all()[torch.from_numpy(self.index)]
