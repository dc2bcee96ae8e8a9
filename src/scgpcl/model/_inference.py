"""Batches of any cells, matched to the model by gene name."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scvi import settings

from scgpcl.data import BipartiteBatch, CountSource, bipartite_batch
from scgpcl.model import _checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

#: Largest share of the model's genes that new cells may lack.
MAX_MISSING = 0.2


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
    shares
        Part of each of ``var_names`` in the training library, shape (n_vars,); they sum to 1.
    """

    var_names: pd.Index
    selected: pd.Index
    unit_size: float
    shares: np.ndarray


class GeneMatch(NamedTuple):
    """Positions in an AnnData's genes.

    Parameters
    ----------
    library
        Genes that count for the library size, ``None`` if these are all genes.
    library_share
        Part of the training library that these genes had; counts over them are divided by it.
    selected
        Those genes of the model that were measured, in the model's order.
    places
        Their positions among the model's genes, ``None`` if all were measured.
    """

    library: np.ndarray | None
    library_share: float
    selected: np.ndarray
    places: np.ndarray | None


def match_genes(names: pd.Index, frame: GeneFrame, *, padded: np.ndarray | None = None) -> GeneMatch:
    """Find the model's genes by name.

    Parameters
    ----------
    names
        Genes of the cells.
    frame
        Genes to match.
    padded
        Mask of genes that are columns of zeros only because they were not measured, shape (len(names),).

    Raises
    ------
    ValueError
        If a name occurs twice, or if too many genes that the model uses are missing.
    """
    _checks.check_names(names, "var_names")
    if padded is None and names.equals(frame.var_names):
        return GeneMatch(None, 1.0, names.get_indexer(frame.selected), None)
    library, selected = (_measured(names, wanted, padded) for wanted in (frame.var_names, frame.selected))
    missing = frame.selected[selected < 0]
    if len(missing) > MAX_MISSING * len(selected):
        msg = (
            f"Expected at least {1 - MAX_MISSING:.0%} of the {len(selected)} genes that the model uses in "
            f"`adata.var_names`, found {len(missing)} missing: {_checks.listed(missing)}. Genes are matched by name; "
            "check that both data sets name genes alike."
        )
        raise ValueError(msg)
    known = library >= 0
    share = 1.0 if known.all() else float(frame.shares[known].sum())
    places = np.flatnonzero(selected >= 0) if len(missing) else None
    return GeneMatch(library[known], share, selected[selected >= 0], places)


def warn_of_missing(match: GeneMatch, frame: GeneFrame) -> None:
    """Say how many of the model's genes were not measured."""
    if match.places is None:
        return
    missing = frame.selected.delete(match.places)
    msg = (
        f"{len(missing)} of the {len(frame.selected)} genes that the model uses are missing in `adata.var_names` "
        f"({_checks.listed(missing)}) and take their training mean."
    )
    warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def _measured(names: pd.Index, wanted: pd.Index, padded: np.ndarray | None) -> np.ndarray:
    """Position of each wanted gene, -1 where it was not measured."""
    found = names.get_indexer(wanted)
    return found if padded is None else np.where((found >= 0) & padded[found], -1, found)


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
            total = np.maximum(total, 1.0) / match.library_share
        known = None if batch_index is None else batch_index[rows]
        yield _model_batch(block[:, match.selected], total / frame.unit_size, rows, known, match, len(frame.selected))


def _model_batch(
    block: sp.csr_matrix,
    size_factor: np.ndarray,
    rows: np.ndarray,
    batch_index: np.ndarray | None,
    match: GeneMatch,
    n_genes: int,
) -> BipartiteBatch:
    """Batch over all genes of the model from counts of the measured ones, shape (n_cells, n_measured)."""
    if match.places is None:
        return bipartite_batch(block, size_factor, rows, batch_index)
    # places ascend, so each row stays sorted
    spread = sp.csr_matrix((block.data, match.places[block.indices], block.indptr), shape=(block.shape[0], n_genes))
    measured = torch.zeros(n_genes)
    measured[match.places] = 1.0
    return bipartite_batch(spread, size_factor, rows, batch_index)._replace(measured=measured)


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
    if index.ndim != 1:
        msg = f"Expected `indices` in one dimension, found {indices!r}. Pass a list of positions, such as `[0]`, or a mask."
        raise IndexError(msg)
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
