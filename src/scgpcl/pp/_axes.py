"""Principal axes of the features, and the components of cells along them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.decomposition import PCA

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scgpcl.data import Cells
    from scgpcl.nn import Moments

#: Cells that the principal axes are computed from; more are sampled.
MAX_AXES_CELLS = 20_000
#: Principal axes that the encoder starts at and that neighbours are found on.
N_AXES = 50


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
        # in double precision, since the last digits of the solver depend on where its arrays lie in memory
        solver = PCA(n_axes, svd_solver="arpack", random_state=int(rng.integers(2**31)))
        axes = solver.fit(sparse_part.astype(np.float64)).components_
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


def scores_along(cells: Cells, moments: Moments, axes: np.ndarray) -> np.ndarray:
    """Features of all cells along axes, up to one constant per axis, float32, shape (n_cells, n_axes)."""
    projection = axes.T.astype(np.float64)
    offset = moments.offset @ projection
    parts = []
    for start in range(0, len(cells), MAX_AXES_CELLS):
        index = np.arange(start, min(start + MAX_AXES_CELLS, len(cells)))
        own = cells.features(moments, index) @ projection
        parts.append(own if cells.batch_index is None else own + offset[cells.batch_index[index]])
    return np.concatenate(parts).astype(np.float32)
