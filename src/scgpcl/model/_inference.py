"""Batches of any cells, matched to the model by gene name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scgpcl.data import BipartiteBatch, CountSource, bipartite_batch
from scgpcl.model import _checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData


class GeneFrame(NamedTuple):
    """What new cells must be matched to; fixed by the training data.

    Parameters
    ----------
    var_names
        All genes of the training data; library sizes are counted over them.
    selected
        Genes that the model uses, in its order.
    unit_size
        Library size (or given size factor) of a cell whose size factor is 1.
    """

    var_names: pd.Index
    selected: pd.Index
    unit_size: float


class GeneMatch(NamedTuple):
    """Positions in an AnnData's genes.

    Parameters
    ----------
    library
        Genes that count for the library size, ``None`` if these are all genes.
    selected
        Genes that the model uses, in its order.
    """

    library: np.ndarray | None
    selected: np.ndarray


def match_genes(names: pd.Index, frame: GeneFrame) -> GeneMatch:
    """Find the model's genes by name.

    Raises
    ------
    ValueError
        If a name occurs twice, or if genes that the model uses are missing.
    """
    _checks.check_names(names, "var_names")
    selected = names.get_indexer(frame.selected)
    missing = frame.selected[selected < 0]
    if len(missing):
        msg = (
            f"Expected all {len(frame.selected)} genes that the model uses in `adata.var_names`, "
            f"found {len(missing)} missing: {_checks.listed(missing)}. Genes are matched by name; check that both "
            "data sets name genes alike."
        )
        raise ValueError(msg)
    if names.equals(frame.var_names):
        return GeneMatch(None, selected)
    library = names.get_indexer(frame.var_names)
    return GeneMatch(library[library >= 0], selected)


def cell_batches(
    x: Any,
    match: GeneMatch,
    frame: GeneFrame,
    *,
    size: np.ndarray | None,
    index: np.ndarray,
    batch_size: int,
    batch_index: np.ndarray | None = None,
) -> Iterator[BipartiteBatch]:
    """Batches of cells in the order asked for; only the rows of one batch are in memory at a time.

    Parameters
    ----------
    x
        Counts in any storage, shape (n_cells, n_all_genes).
    match, frame
        Positions of the genes and their reference.
    size
        Given size factors of all cells, shape (n_cells,); ``None`` counts library sizes.
    index
        Cells, shape (n_wanted,).
    batch_size
        Cells of a batch.
    batch_index
        Experimental batch of all cells, shape (n_cells,), if the model corrects for batches.
    """
    if sp.issparse(x) and x.format != "csr":
        x = x.tocsr()
    source = CountSource(x, np.ones(x.shape[0]))
    for start in range(0, len(index), batch_size):
        rows = index[start : start + batch_size]
        block = source.rows(rows)
        if size is not None:
            total = size[rows]
        else:
            counted = block if match.library is None else block[:, match.library]
            total = np.asarray(counted.sum(1, dtype=np.float64)).ravel()
        # a cell without any known gene gets the smallest library there is
        factor = np.maximum(total, 1.0 if size is None else 0.0) / frame.unit_size
        known = None if batch_index is None else batch_index[rows]
        yield bipartite_batch(block[:, match.selected], factor, rows, known)


def as_index(indices: Any, n_cells: int) -> np.ndarray:
    """Positions of the cells asked for: all, a boolean mask, or integers.

    Raises
    ------
    IndexError
        If a position does not exist or a mask has another length.
    """
    if indices is None:
        return np.arange(n_cells)
    index = np.asarray(indices)
    if index.dtype == bool:
        if len(index) != n_cells:
            msg = f"Expected a mask of {n_cells} cells in `indices`, found one of {len(index)}."
            raise IndexError(msg)
        return np.flatnonzero(index)
    if index.size == 0:
        return np.empty(0, dtype=np.int64)
    if not np.issubdtype(index.dtype, np.integer):
        msg = f"Expected whole numbers or a boolean mask in `indices`, found values of type {index.dtype}."
        raise IndexError(msg)
    if index.min() < -n_cells or index.max() >= n_cells:
        msg = f"Expected positions below {n_cells} in `indices`, found {index.min()} to {index.max()}."
        raise IndexError(msg)
    return index.astype(np.int64) % n_cells


def all_selected(
    adata: AnnData, layer: str | None, frame: GeneFrame, size: np.ndarray, batch_index: np.ndarray | None = None
) -> CountSource:
    """Counts of the model's genes for training, with the size factors and batches of all cells."""
    x, selected = _checks.counts_of(adata, layer), match_genes(adata.var_names, frame).selected
    return CountSource(x, size, selected, batch_index=batch_index)
