"""Batch normalisation of node vectors, one set of statistics per view."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class NodeBatchNorm(nn.Module):
    """Batch normalisation with batch statistics in training and exact data statistics in inference.

    There is no running average: :meth:`set_statistics` is given the moments of the whole data set, so that
    inference does not depend on which mini-batches came last.

    Parameters
    ----------
    n
        Number of features.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, n: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over nodes.

        Parameters
        ----------
        x
            Shape (n_nodes, n_views, n).
        """
        n_nodes, n_views, n = x.shape
        if self.training and n_nodes < 2:
            msg = f"Expected at least 2 nodes to normalise over in training, found {n_nodes}. Raise `batch_size`."
            raise ValueError(msg)
        normed = functional.batch_norm(
            x.reshape(n_nodes, n_views * n),
            None if self.training else self.mean.repeat(n_views),
            None if self.training else self.var.repeat(n_views),
            self.weight.repeat(n_views),
            self.bias.repeat(n_views),
            training=self.training,
            eps=self.eps,
        )
        return normed.view(n_nodes, n_views, n)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Store the moments that inference uses, each of shape (n,)."""
        self.mean.copy_(mean)
        self.var.copy_(var)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of inference: ``norm(x) = x * scale + shift``, each of shape (n,)."""
        scale = self.weight / torch.sqrt(self.var + self.eps)
        return scale, self.bias - self.mean * scale


def shrink_length(z: Tensor, power: float | Tensor) -> Tensor:
    r"""Reduce the spread of vector lengths: ``z (|z|^2 / n)^(-power / 2)``.

    Cells of unusual composition have long standardised vectors, by which squared distances are ruled. Power 0 leaves
    them, 1 leaves directions only, and a half takes the square root of each length.

    Parameters
    ----------
    z
        Shape (..., n).
    power
        From 0 to 1.
    """
    return z * (z.square().mean(-1, keepdim=True) + 1e-6).pow(-power / 2)
