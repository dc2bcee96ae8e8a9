"""Bipartite cell-gene graph, with sums and means over neighbours computed by sparse-dense products."""

from __future__ import annotations

import warnings
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

HALVES = (torch.bfloat16, torch.float16)


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
