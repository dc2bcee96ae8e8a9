"""Convert counts in any storage to one form: unique entries, in the order of the genes, in native byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


def canonical(x: Any) -> Any:
    """Convert counts to a numpy array or to a CSR matrix without repeated entries.

    If ``x`` already has this form, ``x`` itself is returned. Entries stored in parts are summed in a copy. Anything
    other than an array or a sparse matrix is returned unchanged.
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
    """Convert integers to float64, because the sum of the parts of an entry may overflow a small type."""
    return x.astype(np.float64) if x.dtype.kind in "bui" else x
