"""Bipartite cell-gene graph: sums and means over neighbours, and the standardised log counts on its edges."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

HALVES = (torch.bfloat16, torch.float16)
#: Maximum value of a standardised feature.
CLIP = 10.0


class Bipartite(NamedTuple):
    """Edges between the cells of a mini-batch and all genes, stored in both directions.

    The pattern and its transpose are stored side by side, because transposing a CSR matrix in the backward pass costs
    more than the product itself.

    Parameters
    ----------
    indptr
        Row pointers of the cells x genes pattern, int32, shape (n_cells + 1,).
    indices
        Gene of each edge, int32, shape (n_edges,).
    t_indptr
        Row pointers of the genes x cells pattern, int32, shape (n_genes + 1,).
    t_indices
        Cell of each transposed edge, int32, shape (n_edges,).
    t_order
        Position of each transposed edge in ``indices``, int64, shape (n_edges,).
    """

    indptr: Tensor
    indices: Tensor
    t_indptr: Tensor
    t_indices: Tensor
    t_order: Tensor

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.indptr.shape[0] - 1

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.t_indptr.shape[0] - 1

    @property
    def rows(self) -> Tensor:
        """Cell of each edge, int64, shape (n_edges,)."""
        degrees = self.indptr.diff()
        cells = torch.arange(self.n_cells, device=self.indptr.device)
        return cells.repeat_interleave(degrees, output_size=self.indices.shape[0])

    def of_genes(self, genes: Tensor) -> tuple[Bipartite, Tensor]:
        """Return the edges of some genes, renumbered in the order of the genes.

        Parameters
        ----------
        genes
            Ascending positions of the genes, int64, shape (n_some,).

        Returns
        -------
        The graph, and a mask of the edges that it keeps, bool, shape (n_edges,).
        """
        place = self.indices.new_full((self.n_genes,), -1)
        place[genes] = torch.arange(len(genes), dtype=place.dtype, device=place.device)
        places = place[self.indices]
        kept = places >= 0
        position = kept.cumsum(0)
        t_kept = kept[self.t_order]
        before = functional.pad(position.to(self.indptr.dtype), (1, 0))
        degrees = self.t_indptr.diff()[genes]
        part = Bipartite(
            before[self.indptr],
            places[kept],
            functional.pad(degrees.cumsum(0, dtype=degrees.dtype), (1, 0)),
            self.t_indices[t_kept],
            position[self.t_order[t_kept]] - 1,
        )
        return part, kept


def _product(csr: tuple[Tensor, Tensor, Tensor], dense: Tensor) -> Tensor:
    indptr, indices, values = csr
    shape = (indptr.shape[0] - 1, dense.shape[0])
    matrix = torch.sparse_csr_tensor(indptr, indices, values, shape, check_invariants=False)
    return matrix @ dense


def _absorb_beta_warning() -> None:
    """Suppress the warning that CSR is in beta, which PyTorch prints once per process and users cannot act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1))


_absorb_beta_warning()


def in_single_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a function on tensors outside autocast, with half-precision tensors cast to single precision.

    PyTorch has no half-precision sparse products on CPUs, and a sum over all genes would be too inaccurate in half precision.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*(_single(arg) for arg in args), **{name: _single(arg) for name, arg in kwargs.items()})

    return run


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALVES else value


class _SpMM(torch.autograd.Function):
    """Product with a constant sparse matrix, whose stored transpose is used for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        dense: Tensor,
        forward_csr: tuple[Tensor, Tensor, Tensor],
        backward_csr: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        ctx.backward_csr = backward_csr
        return _product(forward_csr, dense)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _product(ctx.backward_csr, grad.contiguous()), None, None


@in_single_precision
def spmm(graph: Bipartite, values: Tensor | None, dense: Tensor, *, transpose: bool = False) -> Tensor:
    """Multiply the sparse cells x genes matrix, or its transpose, by a dense matrix.

    Parameters
    ----------
    graph
        Sparsity pattern of the matrix.
    values
        Value of each edge in the order of ``graph.indices``, shape (n_edges,). No gradient flows to the values. If
        ``None``, all values are 1.
    dense
        Dense matrix, shape (n_genes, n), or (n_cells, n) if ``transpose``.
    transpose
        Whether to use the genes x cells matrix.

    Returns
    -------
    Product, shape (n_cells, n), or (n_genes, n) if ``transpose``.
    """
    if values is None:
        values = dense.new_ones(graph.indices.shape[0])
        t_values = values
    else:
        t_values = values[graph.t_order]
    cells_by_genes = (graph.indptr, graph.indices, values)
    genes_by_cells = (graph.t_indptr, graph.t_indices, t_values)
    pair = (genes_by_cells, cells_by_genes) if transpose else (cells_by_genes, genes_by_cells)
    return _SpMM.apply(dense, *pair)


def neighbor_mean(graph: Bipartite, x: Tensor, *, to_genes: bool = False, keep: Tensor | None = None) -> Tensor:
    """Compute the mean of the neighbours' vectors, separately in each view.

    Parameters
    ----------
    graph
        Edges between cells and genes.
    x
        Vectors of the sending nodes, shape (n_genes, n_views, n), or (n_cells, n_views, n) if ``to_genes``.
    to_genes
        Whether cells send to genes. By default, genes send to cells.
    keep
        0/1 weights of the sending nodes in each view, shape (n_senders, n_views). A node with weight 0 is not a
        neighbour in that view and does not count in the mean. If ``None``, all nodes are kept.

    Returns
    -------
    Mean vectors, shape (n_receivers, n_views, n), which are zero for nodes without neighbours, as in PyG.
    """
    n_senders, n_views, n = x.shape
    if keep is None:
        summed = spmm(graph, None, x.reshape(n_senders, n_views * n), transpose=to_genes)
        indptr = graph.t_indptr if to_genes else graph.indptr
        count = indptr.diff().to(x.dtype).view(-1, 1, 1)
    else:
        x = x * keep.unsqueeze(-1)
        summed = spmm(graph, None, x.reshape(n_senders, n_views * n), transpose=to_genes)
        count = spmm(graph, None, keep.to(x.dtype), transpose=to_genes).unsqueeze(-1)
    return summed.view(-1, n_views, n) / count.clamp(min=1.0)


class BatchLinks(NamedTuple):
    """Typical messages from the genes to the cells of each experimental batch.

    Both the genes a cell is linked to and its counts depend on its batch, so messages from genes would reintroduce the
    batch into standardised cells. The message to a cell is therefore centred on the typical message in its batch.

    Parameters
    ----------
    batch
        Batch of each cell, int64, shape (n_cells,).
    share
        Mean share of each gene among the neighbours of a cell in each batch, shape (n_batch, n_genes).
    """

    batch: Tensor
    share: Tensor

    def typical_mean(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Compute the mean over the neighbours of a typical cell in the batch of each cell.

        Parameters
        ----------
        x, keep
            Vectors of the genes and the genes kept in each view, see :func:`scgpcl.nn.neighbor_mean`.

        Returns
        -------
        Mean vectors, shape (n_cells, n_views, n).
        """
        n_genes, n_views, n = x.shape
        share = self.share.to(x.dtype)
        if keep is not None:
            x = x * keep.unsqueeze(-1)
        mean = (share @ x.reshape(n_genes, n_views * n)).view(-1, n_views, n)
        if keep is not None:
            mean = mean / (share @ keep.to(x.dtype)).clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)
        return mean[self.batch]


class StandardizedCounts(NamedTuple):
    """Features ``F = S + 1 o^T`` of the cells in one mini-batch. F itself is never formed.

    ``L = log1p(scale x / s)`` is centred and scaled per gene and clipped at the top. The entry of a zero count is
    ``o = -mean / sd`` in every cell, so ``S = F - o`` is as sparse as the counts. If the moments differ between
    batches, ``F = S + B O^T``, where O holds one offset per batch and B the one-hot batches.

    Parameters
    ----------
    graph
        Sparsity pattern of the counts.
    values
        Entries of S, shape (n_edges,).
    offset
        Offset o, shape (n_genes,), or (n_batch, n_genes) if there are ``links``.
    mask
        0/1 weight of each feature column in each view, shape (n_genes, n_views): the features that a random view keeps,
        or, in inference, the genes that were measured. If ``None``, a single view keeps all columns.
    links
        Batches of the cells, or ``None`` if there are none.
    """

    graph: Bipartite
    values: Tensor
    offset: Tensor
    mask: Tensor | None = None
    links: BatchLinks | None = None

    def project(self, weight: Tensor) -> Tensor:
        """Multiply F by a weight matrix, with masked columns of F set to zero.

        Parameters
        ----------
        weight
            Weight matrix as stored by ``torch.nn.Linear``, shape (n, n_genes).

        Returns
        -------
        Projected features, shape (n_cells, n_views, n).
        """
        columns = weight.t().unsqueeze(1)  # (n_genes, 1, n)
        if self.mask is not None:
            columns = columns * self.mask.unsqueeze(-1)  # a masked feature is a zero row of the weights
        n_genes, n_views, n = columns.shape
        flat = columns.reshape(n_genes, n_views * n)
        offset = self.offset @ flat
        if self.links is not None:
            offset = offset[self.links.batch]
        return (spmm(self.graph, self.values, flat) + offset).view(-1, n_views, n)


def project(x: Tensor | StandardizedCounts, weight: Tensor) -> Tensor:
    """Multiply dense or sparse node features by the weight (n, n_in) of a ``Linear`` layer."""
    if isinstance(x, StandardizedCounts):
        return x.project(weight)
    return functional.linear(x, weight)


def standardized_entries(counts: Any, factor: Any, std: Any, offset: Any, clip: float) -> Any:
    """Compute the features of stored counts minus the feature of a zero count, for torch or numpy.

    The formula is ``min(log1p(x * factor) / sd, clip - o)``.
    """
    xp: Any = torch if isinstance(counts, Tensor) else np
    return xp.minimum(xp.log1p(counts * factor) / std, clip - offset)


def standardized_counts(
    graph: Bipartite,
    counts: Tensor,
    size_factor: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    scale: float | Tensor = 1.0,
    clip: float = CLIP,
    mask: Tensor | None = None,
    links: BatchLinks | None = None,
) -> StandardizedCounts:
    """Compute the features of a mini-batch from its counts.

    Parameters
    ----------
    graph
        Sparsity pattern of the counts.
    counts
        Count of each edge, shape (n_edges,).
    size_factor
        Library size over the median library size, shape (n_cells,).
    mean, std
        Mean of ``log1p(scale x / s)`` over the training cells, and the divisor of the centred values, shape (n_genes,),
        or (n_batch, n_genes) if there are ``links``.
    scale
        Factor applied to the normalised counts (counts divided by size factors) before taking the logarithm.
    clip
        Maximum standardised value.
    mask, links
        See :class:`scgpcl.nn.StandardizedCounts`.
    """
    genes = graph.indices.long()
    at = (genes,) if links is None else (links.batch[graph.rows], genes)
    offset = -mean / std
    values = standardized_entries(counts, (scale / size_factor)[graph.rows], std[at], offset[at], clip)
    return StandardizedCounts(graph, values, offset, mask, links)


@dataclass(frozen=True, eq=False)
class Moments:
    """Feature centres and divisors, float32, (n_genes,) or (n_batch, n_genes), and one factor for the counts."""

    mean: np.ndarray
    std: np.ndarray
    scale: float = 1.0

    @property
    def offset(self) -> np.ndarray:
        """Feature of a zero count, shape (n_genes,) or (n_batch, n_genes)."""
        return -(self.mean / self.std)

    def sparse_features(
        self, counts: sp.csr_matrix, size_factor: np.ndarray, batch_index: np.ndarray | None
    ) -> sp.csr_matrix:
        """Compute the features of some cells minus the features of a zero count, overwriting their counts.

        The features have shape (n_cells, n_genes).
        """
        degree = np.diff(counts.indptr)
        at: tuple[np.ndarray, ...] = (counts.indices,)
        if batch_index is not None:
            at = (np.repeat(batch_index, degree), counts.indices)
        factor = self.scale / np.repeat(size_factor, degree)
        values = standardized_entries(counts.data, factor, self.std[at], self.offset[at], CLIP)
        counts.data = values.astype(np.float32)
        return counts
