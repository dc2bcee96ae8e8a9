"""Squared error of the standardised features, fused with the decoder's output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scgpcl.nn._precision import in_single_precision
from scgpcl.nn._slices import OutputGradients, output_slices

if TYPE_CHECKING:
    from scgpcl.nn._aggregate import Bipartite


class _FusedMSE(torch.autograd.Function):
    """Output layer and squared error against ``F = S + 1 o^T``, a slice of cells at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        values: Tensor,
        offset: Tensor,
        graph: Bipartite,
        with_grad: bool,
    ) -> Tensor:
        n_cells, n_views, _ = hidden.shape
        grads = OutputGradients(torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias))
        loss = hidden.new_zeros((), dtype=torch.float64)
        for part in output_slices(hidden, weight, bias - offset, graph):
            error = part.out  # which is its own gradient
            error.view(-1).index_add_(0, part.at, values[part.edges].repeat_interleave(n_views), alpha=-1.0)
            loss += error.square().sum().double()
            if with_grad:
                grads.add(part, weight)
        n_entries = n_cells * n_views * graph.n_genes
        ctx.save_for_backward(*grads)
        ctx.scale = 2.0 / n_entries
        return (loss / n_entries).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * (grad * ctx.scale) for saved in ctx.saved_tensors), None, None, None, None)


@in_single_precision
def fused_mse_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, values: Tensor, offset: Tensor, graph: Bipartite
) -> Tensor:
    """Mean squared error between a linear output layer and the standardised features.

    Parameters
    ----------
    hidden
        Last hidden layer of the decoder, shape (n_cells, n_views, n_hidden).
    weight, bias
        Output layer, shapes (n_genes, n_hidden) and (n_genes,).
    values, offset, graph
        The features, see :class:`~scgpcl.nn.StandardizedCounts`.

    Returns
    -------
    Mean over cells, views and genes, a scalar.
    """
    return _FusedMSE.apply(hidden, weight, bias, values, offset, graph, torch.is_grad_enabled())
