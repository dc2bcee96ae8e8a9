"""Cells with counts in any storage, size factors and batches, and the mini-batches for the network."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scgpcl.data._counts import BLOCK_ROWS, canonical
from scgpcl.data._datamodule import DataModuleCounts
from scgpcl.nn import Bipartite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scgpcl.nn import Moments


class BipartiteBatch(NamedTuple):
    """Counts of some cells, represented as edges of the graph in both directions.

    Parameters
    ----------
    graph
        Edges between the cells of the batch and all selected genes.
    counts
        Count of each edge, float32, shape (n_edges,).
    size_factor
        Library size divided by the median library size of the training data, float32, shape (n_cells,).
    cell_index
        Row of each cell in the data, int64, shape (n_cells,).
    batch_index
        Experimental batch of each cell, int64, shape (n_cells,), or ``None`` if there is no batch correction.
    measured
        1 for each measured gene and 0 for each gene that was not measured, float32, shape (n_genes,), or ``None`` if
        all genes were measured. A count of zero means that a measured gene is silent, but it says nothing about a gene
        that was not measured.
    """

    graph: Bipartite
    counts: Tensor
    size_factor: Tensor
    cell_index: Tensor
    batch_index: Tensor | None = None
    measured: Tensor | None = None

    def to(self, device: torch.device | str) -> BipartiteBatch:
        """Move the batch to a device."""
        graph = Bipartite(*(part.to(device, non_blocking=True) for part in self.graph))
        values = self._asdict().items()
        moved = {name: part.to(device, non_blocking=True) for name, part in values if isinstance(part, Tensor)}
        return self._replace(graph=graph, **moved)


def bipartite_batch(
    counts: sp.csr_matrix, size_factor: np.ndarray, cell_index: np.ndarray, batch_index: np.ndarray | None = None
) -> BipartiteBatch:
    """Build a batch from a CSR block of shape (n_cells, n_genes). All other arguments have shape (n_cells,)."""
    counts.sum_duplicates()
    counts.eliminate_zeros()
    order = np.arange(counts.nnz, dtype=np.int64)
    # scipy transposes the pattern in linear time, with the positions as its values
    transposed = sp.csr_matrix((order, counts.indices, counts.indptr), shape=counts.shape, copy=False).tocsc()
    graph = Bipartite(
        indptr=torch.from_numpy(counts.indptr.astype(np.int32, copy=False)),
        indices=torch.from_numpy(counts.indices.astype(np.int32, copy=False)),
        t_indptr=torch.from_numpy(transposed.indptr.astype(np.int32, copy=False)),
        t_indices=torch.from_numpy(transposed.indices.astype(np.int32, copy=False)),
        t_order=torch.from_numpy(transposed.data),
    )
    return BipartiteBatch(
        graph=graph,
        counts=torch.from_numpy(counts.data.astype(np.float32, copy=False)),
        size_factor=torch.from_numpy(np.asarray(size_factor, dtype=np.float32)),
        cell_index=torch.from_numpy(np.asarray(cell_index, dtype=np.int64)),
        batch_index=None if batch_index is None else torch.from_numpy(np.asarray(batch_index, dtype=np.int64)),
    )


def thinned(batch: BipartiteBatch, share: Tensor, generator: torch.Generator) -> BipartiteBatch:
    """Keep each molecule of a batch with the probability ``share`` of its cell (n_cells,).

    Random numbers are drawn on the CPU.
    """
    return _with_counts(batch, _drawn(batch, share, generator), share)


def halves(batch: BipartiteBatch, generator: torch.Generator) -> tuple[BipartiteBatch, BipartiteBatch]:
    """Split a batch into two batches of half the depth by randomly assigning each molecule to one of them.

    Random numbers are drawn on the CPU. The two parts of a Poisson count are independent (Neufeld et al. 2022).
    """
    half = torch.full((len(batch.size_factor),), 0.5)
    first = _drawn(batch, half, generator)
    return _with_counts(batch, first, half), _with_counts(batch, batch.counts.cpu() - first, half)


def _drawn(batch: BipartiteBatch, share: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a binomial part of the count of each edge on the CPU, shape (n_edges,)."""
    return torch.binomial(batch.counts.cpu(), share[batch.graph.rows.cpu()], generator=generator)


def _with_counts(batch: BipartiteBatch, counts: Tensor, share: Tensor) -> BipartiteBatch:
    """Return the batch on the CPU with new edge counts and with size factors multiplied by shares (n_cells,)."""
    batch = batch.to("cpu")
    n_cells, n_genes = len(batch.size_factor), len(batch.graph.t_indptr) - 1
    pattern = batch.graph.indices.numpy(), batch.graph.indptr.numpy()
    block = sp.csr_matrix((counts.numpy(), *pattern), shape=(n_cells, n_genes), copy=True)  # edges dropped in place
    fewer = bipartite_batch(block, (batch.size_factor * share).numpy(), batch.cell_index.numpy())
    return fewer._replace(batch_index=batch.batch_index, measured=batch.measured)


def of_genes(batch: BipartiteBatch, columns: np.ndarray) -> BipartiteBatch:
    """Return the batch on the CPU with only the genes at the given positions (n_columns,), in that order."""
    batch = batch.to("cpu")
    shape = len(batch.size_factor), len(batch.graph.t_indptr) - 1
    pattern = batch.graph.indices.numpy(), batch.graph.indptr.numpy()
    block = sp.csr_matrix((batch.counts.numpy(), *pattern), shape=shape)[:, columns]
    fewer = bipartite_batch(block, batch.size_factor.numpy(), batch.cell_index.numpy())
    measured = None if batch.measured is None else batch.measured[torch.from_numpy(columns)]
    return fewer._replace(batch_index=batch.batch_index, measured=measured)


def read_rows(x: Any, index: np.ndarray, columns: np.ndarray | None = None) -> sp.csr_matrix:
    """Read some rows of counts in memory or on disk, in the requested order.

    Returns a new float32 matrix with sorted columns.
    """
    if isinstance(x, np.ndarray) or sp.issparse(x):
        block = sp.csr_matrix(x[index]) if columns is None else sp.csr_matrix(x[index][:, columns])
        block = block.astype(np.float32, copy=False)
    else:
        unique, back = np.unique(index, return_inverse=True)  # files are read in ascending order only
        starts = range(0, max(len(unique), 1), BLOCK_ROWS)
        parts = [_read_block(x, unique[start : start + BLOCK_ROWS], columns) for start in starts]
        block = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
        if not np.array_equal(back, np.arange(len(index))):
            block = block[back]
    return canonical(block)  # sums are in one order, regardless of that in the file


def _read_block(x: Any, rows: np.ndarray, columns: np.ndarray | None) -> sp.csr_matrix:
    """Read ascending rows of a file. All of their genes are temporarily in memory."""
    in_a_row = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1
    wanted = slice(rows[0], rows[-1] + 1) if in_a_row else rows  # one read instead of one per row
    block = sp.csr_matrix(x[wanted], dtype=np.float32)
    return block if columns is None else block[:, columns]


class Cells:
    """Counts of the model's genes in some cells, in any storage, with the size factor and the batch of each cell.

    If the counts are in memory or come from a data module, the genes are selected once, at construction. If they are on
    disk, the genes are selected from each block of rows as it is read.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_all_genes), as a numpy array, a scipy sparse matrix, a matrix on disk, or the counts
        of a data module.
    size_factor
        Size factor of each cell, shape (n_cells,).
    columns
        Positions of the model's measured genes, in the model's order, shape (n_measured,). If ``None``, all genes are
        used as they are.
    batch_index
        Experimental batch of each cell, shape (n_cells,), if the model corrects for batches.
    label_index
        Type of each labelled cell and -1 for all other cells, shape (n_cells,), if the model was given labels.
    places
        Ascending positions of the measured genes among the model's genes, shape (n_measured,), or ``None`` if all genes
        were measured.
    n_genes
        Number of genes of the model. Only required if ``places`` is given.
    """

    def __init__(
        self,
        x: Any,
        size_factor: np.ndarray,
        columns: np.ndarray | None = None,
        *,
        batch_index: np.ndarray | None = None,
        label_index: np.ndarray | None = None,
        places: np.ndarray | None = None,
        n_genes: int = 0,
    ) -> None:
        if isinstance(x, DataModuleCounts):
            x, columns = x.columns(np.arange(x.shape[1]) if columns is None else columns), None
        if columns is not None and np.array_equal(columns, np.arange(x.shape[1])):
            columns = None
        if isinstance(x, np.ndarray) or sp.issparse(x):
            x, columns = sp.csr_matrix(x if columns is None else x[:, columns]), None
        self._x = x
        self._columns = columns
        self._places = places
        self._n_genes = n_genes
        self.size_factor = np.asarray(size_factor, dtype=np.float32)
        self.batch_index = None if batch_index is None else np.asarray(batch_index, dtype=np.int64)
        self.label_index = None if label_index is None else np.asarray(label_index, dtype=np.int64)

    def __len__(self) -> int:
        return self._x.shape[0]

    def release(self) -> None:
        """Drop the counts, because loaders and trainers of a finished run still refer to the cells."""
        self._x = sp.csr_matrix((0, self._x.shape[1]), dtype=np.float32)

    def of_batch(self, code: int) -> Cells:
        """Return the same cells, treated as cells from another batch."""
        other = copy(self)
        other.batch_index = np.full(len(self), code, dtype=np.int64)
        return other

    def measured(self) -> np.ndarray:
        """Return whether each gene of the model was measured, bool, shape (n_genes,)."""
        if self._places is None:
            return np.ones(self.rows(np.arange(0)).shape[1], dtype=bool)
        return np.isin(np.arange(self._n_genes), self._places)

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        """Return the counts of some cells in the requested order, as a new float32 matrix (len(index), n_genes)."""
        block = read_rows(self._x, index, self._columns)
        if self._places is None:
            return block
        # places ascend, so each row stays sorted
        values = (block.data, self._places[block.indices], block.indptr)
        return sp.csr_matrix(values, shape=(block.shape[0], self._n_genes))

    def taken(self, index: np.ndarray) -> Cells:
        """Load some cells into memory, in the order of ``index``. All genes of the model must have been measured."""
        batch, label = (None if codes is None else codes[index] for codes in (self.batch_index, self.label_index))
        return Cells(self.rows(index), self.size_factor[index], batch_index=batch, label_index=label)

    def features(self, moments: Moments, index: np.ndarray) -> sp.csr_matrix:
        """Return the standardised features of some cells, shape (len(index), n_genes).

        The features of a zero count are subtracted.
        """
        known = None if self.batch_index is None else self.batch_index[index]
        return moments.sparse_features(self.rows(index), self.size_factor[index], known)

    def batch(self, index: np.ndarray | None = None) -> BipartiteBatch:
        """Return a mini-batch of some or all cells."""
        index = np.arange(len(self)) if index is None else index
        known = None if self.batch_index is None else self.batch_index[index]
        batch = bipartite_batch(self.rows(index), self.size_factor[index], index, known)
        if self._places is None:
            return batch
        measured = torch.zeros(self._n_genes)
        measured[self._places] = 1.0
        return batch._replace(measured=measured)


class GeneMatch(NamedTuple):
    """Positions of the genes of a model among the genes of some cells.

    Contains the genes that count towards the library size (``None`` for all) and their share in the training library.
    It also contains the measured genes in the model's order, their positions among the model's genes (``None`` if all
    were measured), and the number of genes in the model.
    """

    library: np.ndarray | None
    library_share: float
    selected: np.ndarray
    places: np.ndarray | None
    n_genes: int


def read_cells(
    x: Any,
    index: np.ndarray,
    batch_size: int,
    *,
    match: GeneMatch,
    unit_size: float,
    size: np.ndarray | None = None,
    batch_index: np.ndarray | None = None,
    inspect: Callable[[sp.csr_matrix], None] | None = None,
) -> Iterator[Cells]:
    """Yield cells in the order of ``index``, ``batch_size`` at a time, so that only their rows are in memory.

    Parameters
    ----------
    x
        Counts in any storage, shape (n_cells, n_all_genes).
    index
        Cells to read, shape (n_wanted,).
    batch_size
        Number of cells to read at a time.
    match
        Positions of the genes of the model.
    unit_size
        Library size of a cell whose size factor is 1.
    size
        Given size factors of all cells, shape (n_cells,). If ``None``, library sizes are counted.
    batch_index
        Experimental batch of all cells, shape (n_cells,), if the model corrects for batches.
    inspect
        Function that is called with each block of counts before the block is used.
    """
    x = canonical(x)
    for start in range(0, len(index), batch_size):
        rows = index[start : start + batch_size]
        counts = read_rows(x, rows)
        if inspect is not None:
            inspect(counts)
        if size is not None:
            library = size[rows]
        else:
            counted = counts if match.library is None else counts[:, match.library]
            # a cell without any known gene gets the smallest possible library
            library = np.maximum(np.asarray(counted.sum(1, dtype=np.float64)).ravel(), 1.0) / match.library_share
        yield Cells(
            counts,
            library / unit_size,
            match.selected,
            batch_index=None if batch_index is None else batch_index[rows],
            places=match.places,
            n_genes=match.n_genes,
        )


def concatenated(parts: Sequence[Cells]) -> Cells:
    """Concatenate the cells of all parts in memory.

    Every part must have measured all genes. If only some parts have labels, the cells of the others are unlabelled.
    """
    counts = sp.vstack([part.rows(np.arange(len(part))) for part in parts], format="csr")
    known = [part.batch_index for part in parts if part.batch_index is not None]
    size_factor = np.concatenate([part.size_factor for part in parts])
    label_index = None
    if any(part.label_index is not None for part in parts):
        codes = [np.full(len(part), -1) if part.label_index is None else part.label_index for part in parts]
        label_index = np.concatenate(codes)
    batch_index = np.concatenate(known) if known else None
    return Cells(counts, size_factor, batch_index=batch_index, label_index=label_index)
