"""Standardised log counts as a sparse matrix plus one offset per gene."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scgpcl.nn._aggregate import Bipartite, spmm


class StandardizedCounts(NamedTuple):
    """Features ``F = S + 1 o^T`` of the cells of one mini-batch; F itself is never made.

    With ``L = log1p(scale x / s)`` standardised per gene and clipped at the top, the entry of a zero count is
    ``o = -mean / sd`` whatever the cell, so ``S = F - o`` has the sparsity of the counts.

    Parameters
    ----------
    graph
        Pattern of the counts.
    values
        Entries of S, shape (n_edges,).
    offset
        o, shape (n_genes,).
    mask
        0/1 weight of each feature column in each view, shape (n_genes, n_views); ``None`` is one view of all.
    """

    graph: Bipartite
    values: Tensor
    offset: Tensor
    mask: Tensor | None = None

    def project(self, weight: Tensor) -> Tensor:
        """F times a weight matrix, with masked columns of F set to zero.

        Parameters
        ----------
        weight
            As stored by ``torch.nn.Linear``, shape (n, n_genes).

        Returns
        -------
        Shape (n_cells, n_views, n).
        """
        columns = weight.t().unsqueeze(1)  # (n_genes, 1, n)
        if self.mask is not None:
            columns = columns * self.mask.unsqueeze(-1)  # a masked feature is a zero row of the weights
        n_genes, n_views, n = columns.shape
        flat = columns.reshape(n_genes, n_views * n)
        return (spmm(self.graph, self.values, flat) + self.offset @ flat).view(-1, n_views, n)


def standardized_counts(
    graph: Bipartite,
    counts: Tensor,
    size_factor: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    scale: float | Tensor = 1.0,
    clip: float = 10.0,
    mask: Tensor | None = None,
) -> StandardizedCounts:
    """Features of a mini-batch from its counts.

    Parameters
    ----------
    graph
        Pattern of the counts.
    counts
        Count of each edge, shape (n_edges,).
    size_factor
        Library size over the median library size, shape (n_cells,).
    mean, std
        Moments of ``log1p(scale x / s)`` over the training cells, shape (n_genes,).
    scale
        Factor of the counts over size factors before the logarithm.
    clip
        Largest standardised value.
    mask
        See :class:`StandardizedCounts`.
    """
    genes = graph.indices.long()
    scaled = torch.log1p(counts * (scale / size_factor)[graph.rows]) / std[genes]
    offset = -mean / std
    return StandardizedCounts(graph, torch.minimum(scaled, clip - offset[genes]), offset, mask)
