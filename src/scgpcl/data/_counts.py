"""Row access to counts of any storage: in memory, dense or sparse, or on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgpcl.data._datamodule import DataModuleCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Rows read at a time where the whole matrix is passed over.
BLOCK_ROWS = 4096


def row_blocks(x: Any, *, n_rows: int = BLOCK_ROWS) -> Iterator[sp.csr_matrix]:
    """Pass over a matrix in blocks of rows.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes): numpy array, scipy sparse matrix, a matrix on disk that slices to one, or
        those of a data module.
    n_rows
        Rows of a block; a data module has its own.
    """
    if isinstance(x, DataModuleCounts):
        yield from x.row_blocks()
        return
    if sp.issparse(x) and x.format != "csr":
        x = x.tocsr()
    for start in range(0, x.shape[0], n_rows):
        yield sp.csr_matrix(x[start : min(start + n_rows, x.shape[0])])


class CountSource:
    """Counts of selected genes, row by row.

    In memory and from a data module the columns are taken once, here; on disk they are taken from each block of rows as
    it is read.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_all_genes).
    size_factor
        Shape (n_cells,).
    columns
        Positions of the selected genes in their order, shape (n_genes,); ``None`` takes all as they are.
    batch_index
        Experimental batch of each cell, shape (n_cells,), if the model corrects for batches.
    """

    def __init__(
        self,
        x: Any,
        size_factor: np.ndarray,
        columns: np.ndarray | None = None,
        *,
        batch_index: np.ndarray | None = None,
    ) -> None:
        if isinstance(x, DataModuleCounts):
            x, columns = x.columns(np.arange(x.shape[1]) if columns is None else columns), None
        self._on_disk = not (isinstance(x, np.ndarray) or sp.issparse(x))
        self._columns = columns
        if columns is not None and np.array_equal(columns, np.arange(x.shape[1])):
            self._columns = columns = None
        if not self._on_disk:
            if columns is not None:
                x = x[:, columns]
                self._columns = None
            x = sp.csr_matrix(x)
        self._x = x
        self.size_factor = np.asarray(size_factor, dtype=np.float32)
        self.batch_index = None if batch_index is None else np.asarray(batch_index, dtype=np.int64)

    def __len__(self) -> int:
        return self._x.shape[0]

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        """Counts of some cells in the order asked for, a new float32 matrix of shape (len(index), n_genes)."""
        if not self._on_disk:
            block = self._x[index].astype(np.float32, copy=False)
        else:
            unique, back = np.unique(index, return_inverse=True)  # files are read in ascending order only
            starts = range(0, max(len(unique), 1), BLOCK_ROWS)
            parts = [self._read(unique[start : start + BLOCK_ROWS]) for start in starts]
            block = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
            if not np.array_equal(back, np.arange(len(index))):
                block = block[back]
        block.sort_indices()  # sums in one order, whatever that of the file
        return block

    def _read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Counts of the selected genes in ascending rows of a file, all of whose genes are in memory meanwhile."""
        in_a_row = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1
        wanted = slice(rows[0], rows[-1] + 1) if in_a_row else rows  # one read instead of one per row
        block = sp.csr_matrix(self._x[wanted], dtype=np.float32)
        return block if self._columns is None else block[:, self._columns]
