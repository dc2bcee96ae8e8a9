"""Read counts in any storage, bring them into one form, and check them before any work is done."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from scgpcl._rules import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

#: Largest count allowed. The model computes in single precision, which cannot represent every larger whole number.
MAX_COUNT = 2**24
#: Number of rows to read at a time in a pass over the whole matrix.
BLOCK_ROWS = 4096


def counts_of(adata: AnnData, layer: str | None) -> Any:
    """Return the count matrix of an AnnData in any supported storage.

    Matrices in memory are passed through :func:`canonical`.
    """
    check_key(layer, "layer")
    place = place_of(layer)
    if layer is not None and layer not in adata.layers:
        msg = (
            f"Expected raw counts in `adata.layers[{layer!r}]`, found layers [{listed(sorted(map(str, _layers(adata))))}]. "
            "Pass `layer=None` to use `adata.X`, or store counts with "
            f"`adata.layers[{layer!r}] = adata.X.copy()` before normalising."
        )
        raise KeyError(msg)
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        msg = "Expected raw counts in `adata.X`, found None. Pass the layer with the counts as `layer=`."
        raise ValueError(msg)
    if type(x).__module__.split(".")[0] in ("cupy", "cupyx"):
        move = "rapids_singlecell.get.anndata_to_CPU(adata, convert_all=True)"
        msg = f"Expected {place} in main memory, found {type(x).__name__} on a GPU. Move it: `{move}`."
        raise TypeError(msg)
    if not (sp.issparse(x) or isinstance(x, np.ndarray | CSRDataset)):
        hint = f"Convert it: `{place} = scipy.sparse.csr_matrix({place})`."
        if isinstance(x, CSCDataset):
            hint = "Write the file again with counts in CSR format, or read it into memory with `adata.to_memory()`."
        elif hasattr(x, "compute"):
            hint = f"Load it: `{place} = {place}.compute()`."
        msg = f"Expected {place} to be a CSR matrix or a numpy array, found {type(x).__name__}. {hint}"
        raise TypeError(msg)
    return canonical(x)


def check_counts(x: Any, layer: str | None, *, min_cells: int = 2, place: str | None = None) -> None:
    """Check that all counts are finite, non-negative whole numbers and that no cell is empty."""
    place = place or place_of(layer)
    if x.shape[0] < min_cells or x.shape[1] < 2:
        msg = (
            f"Expected at least {min_cells} cells and 2 genes in {place}, "
            f"found {x.shape[0]} cells and {x.shape[1]} genes."
        )
        raise ValueError(msg)
    if x.dtype.kind not in "buif" or x.dtype == np.float16:
        msg = (
            f"Expected counts in {place}, found values of type {x.dtype}. "
            f"If they are counts, convert them: `{place} = {place}.astype('float32')`."
        )
        raise TypeError(msg)
    empty = []
    start = 0
    for block in row_blocks(x):
        values = block.data
        if not np.isfinite(values).all():
            msg = f"Expected finite counts in {place}, found NaN or infinite values. Use the original counts."
            raise ValueError(msg)
        if values.size and values.min() < 0:
            msg = (
                f"Expected counts of zero or more in {place}, found {values.min():g}. "
                "Scaled or centred data is not supported: pass the layer with raw counts as `layer=`."
            )
            raise ValueError(msg)
        if values.size and values.max() > MAX_COUNT:
            msg = (
                f"Expected counts of at most {MAX_COUNT} in {place}, which single precision holds exactly, found "
                f"{values.max():g}. Check that these are counts of molecules or reads."
            )
            raise ValueError(msg)
        fraction = values != np.floor(values)
        if fraction.any():
            msg = (
                f"Expected whole counts in {place}, found {values[fraction][0]:g}, which looks normalised or "
                "log-transformed. Pass the layer with raw counts as `layer=`. If these are estimated counts, round them with "
                "`numpy.rint`."
            )
            raise ValueError(msg)
        empty.append(start + np.flatnonzero(np.asarray(block.sum(1)).ravel() == 0))
        start += block.shape[0]
    n_empty = sum(len(e) for e in empty)
    if n_empty:
        first = np.concatenate(empty)[0]
        msg = (
            f"Expected every cell to have counts in {place}, found {n_empty} empty cells (the first is row {first}). "
            "Remove them: `sc.pp.filter_cells(adata, min_counts=1)`."
        )
        raise ValueError(msg)


def check_key(key: Any, argument: str) -> None:
    """Check that a key is a single name or None."""
    if not isinstance(key, Hashable):
        msg = f"Expected `{argument}` to be a name or None, found {key!r}. Pass a single name."
        raise TypeError(msg)


def _layers(adata: AnnData) -> list[str]:
    """Return the names of the layers."""
    return [key for key in adata.layers if key is not None]


def place_of(layer: str | None) -> str:
    """Return the location of the counts as code that a user can run."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def row_blocks(x: Any, *, n_rows: int = BLOCK_ROWS) -> Iterator[sp.csr_matrix]:
    """Iterate over counts (n_cells, n_genes) in any storage by blocks of rows.

    A data module has its own blocks.
    """
    if hasattr(x, "row_blocks"):
        yield from x.row_blocks()
        return
    x = canonical(x)
    for start in range(0, x.shape[0], n_rows):
        yield canonical(sp.csr_matrix(x[start : min(start + n_rows, x.shape[0])]))


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
