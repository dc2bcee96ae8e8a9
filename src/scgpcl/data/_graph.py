"""Mini-batches of counts as blocks of the cell-gene graph."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scgpcl.nn import Bipartite


class BipartiteBatch(NamedTuple):
    """Counts of some cells, as edges of the graph in both directions.

    Parameters
    ----------
    graph
        Edges between the cells of the batch and all selected genes.
    counts
        Count of each edge, float32, shape (n_edges,).
    size_factor
        Library size over the median library size of the training data, float32, shape (n_cells,).
    cell_index
        Row of each cell in the data, int64, shape (n_cells,).
    batch_index
        Experimental batch of each cell, int64, shape (n_cells,); ``None`` where the model corrects for none.
    measured
        1 for a gene that was measured and 0 for one that was not, float32, shape (n_genes,); ``None`` if all were.
        A count of zero says that a measured gene is silent, but nothing about one that was not measured.
    """

    graph: Bipartite
    counts: Tensor
    size_factor: Tensor
    cell_index: Tensor
    batch_index: Tensor | None = None
    measured: Tensor | None = None


def bipartite_batch(
    counts: sp.csr_matrix, size_factor: np.ndarray, cell_index: np.ndarray, batch_index: np.ndarray | None = None
) -> BipartiteBatch:
    """Build a batch from a CSR block.

    Parameters
    ----------
    counts
        Counts of the cells of the batch, shape (n_cells, n_genes).
    size_factor
        Shape (n_cells,).
    cell_index
        Row of each cell in the data, shape (n_cells,).
    batch_index
        Experimental batch of each cell, shape (n_cells,), if the model corrects for batches.
    """
    counts.sum_duplicates()
    counts.eliminate_zeros()
    order = np.arange(counts.nnz, dtype=np.int64)
    # scipy turns the pattern round in linear time; the positions ride along as its values
    turned = sp.csr_matrix((order, counts.indices, counts.indptr), shape=counts.shape, copy=False).tocsc()
    graph = Bipartite(
        indptr=torch.from_numpy(counts.indptr.astype(np.int32, copy=False)),
        indices=torch.from_numpy(counts.indices.astype(np.int32, copy=False)),
        t_indptr=torch.from_numpy(turned.indptr.astype(np.int32, copy=False)),
        t_indices=torch.from_numpy(turned.indices.astype(np.int32, copy=False)),
        t_order=torch.from_numpy(turned.data),
    )
    return BipartiteBatch(
        graph=graph,
        counts=torch.from_numpy(counts.data.astype(np.float32, copy=False)),
        size_factor=torch.from_numpy(np.asarray(size_factor, dtype=np.float32)),
        cell_index=torch.from_numpy(np.asarray(cell_index, dtype=np.int64)),
        batch_index=None if batch_index is None else torch.from_numpy(np.asarray(batch_index, dtype=np.int64)),
    )
