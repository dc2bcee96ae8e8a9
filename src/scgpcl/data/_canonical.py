"""One form of counts, whatever stores them: each entry once, in the order of the genes, in the machine's byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


def canonical(x: Any) -> Any:
    """A numpy array, or a CSR matrix without repeated entries, of the same numbers; ``x`` itself if it is one already.

    Entries stored in parts are summed on a copy. What is neither an array nor a sparse matrix is given back.
    """
    if not (isinstance(x, np.ndarray) or sp.issparse(x)):
        return x
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if isinstance(x, np.ndarray):
        return x
    if not isinstance(x, sp.csr_matrix):
        x = sp.csr_matrix(_widened(x) if x.format == "coo" else x)
    if not x.has_canonical_format:
        x = _widened(x).copy()
        x.sum_duplicates()
    return x


def _widened(x: Any) -> Any:
    """The parts of an entry may add up to more than a small type holds."""
    return x.astype(np.float64) if x.dtype.kind in "bui" else x
