"""Standardised log counts as a sparse matrix plus one offset per gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scgpcl.nn._graph import Bipartite, spmm

if TYPE_CHECKING:
    import scipy.sparse as sp

#: Maximum value of a standardised feature.
CLIP = 10.0


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
        0/1 weight of each feature column in each view, shape (n_genes, n_views). If ``None``, a single view keeps all
        columns.
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
