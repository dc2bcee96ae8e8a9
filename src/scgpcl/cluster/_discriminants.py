"""Axes along which labelled types lie apart."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

#: Minimum average number of labelled cells per type for axes to depend on the types.
CELLS_PER_TYPE = 40
#: Share of the covariance within types that is replaced by its mean variance.
RIDGE = 0.1
#: Weight of the variance along axes that do not separate labelled types, relative to the discriminants of these types.
OTHER_WEIGHT = 0.1


def enough_labels(types: np.ndarray) -> bool:
    """Return whether there are enough labelled cells per type; unlabelled cells have type -1."""
    known = types[types >= 0]
    return len(known) > 0 and len(known) >= CELLS_PER_TYPE * len(np.unique(known))


def type_axes(z: np.ndarray, types: np.ndarray) -> np.ndarray | None:
    r"""Find axes along which latent vectors are reported, so that labelled types lie apart.

    These are the linear discriminants of the types: the covariance within types, which is shrunk towards its mean
    variance, is the identity along the axes. The means of K types differ only along the leading K - 1 axes. Unlabelled
    cells and cells of new types may differ along the others, which are kept with the weight ``OTHER_WEIGHT``.

    Parameters
    ----------
    z
        Latent vectors, shape (n_cells, n).
    types
        Index of the type of each cell, or -1 for unlabelled cells, shape (n_cells,).

    Returns
    -------
    Axes, shape (n, n), the leading axes first, or ``None`` if there are not enough labelled cells or only one type.
    """
    known = types >= 0
    n_types = len(np.unique(types[known]))
    if n_types < 2 or not enough_labels(types):
        return None
    scores, own = z[known].astype(np.float64), np.unique(types[known], return_inverse=True)[1]
    scores -= scores.mean(0)
    means = np.stack([scores[own == each].mean(0) for each in range(n_types)])[own]
    within = (scores - means).T @ (scores - means) / len(scores)
    ridge = max(RIDGE * np.trace(within) / len(within), 1e-12)  # cells of a type may be identical
    within = (1.0 - RIDGE) * within + ridge * np.eye(len(within))
    axes = eigh(means.T @ means, within)[1].T[::-1].copy()
    axes[n_types - 1 :] *= OTHER_WEIGHT**0.5
    return axes
