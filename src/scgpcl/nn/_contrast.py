"""Instance-wise and prototypical contrast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def instance_loss(z: Tensor, *, tau: float) -> Tensor:
    """InfoNCE between the two views of each cell (Lee et al. 2023, instance-wise contrastive loss).

    For each of the 2B rows the positive is the other view of the same cell; the denominator has every other row and
    never the row itself.

    Parameters
    ----------
    z
        Two views of B cells, shape (n_cells, 2, n).
    tau
        Temperature.

    Returns
    -------
    Mean over the 2B rows, a scalar.
    """
    n_cells = z.shape[0]
    rows = functional.normalize(z, dim=-1).transpose(0, 1).reshape(2 * n_cells, -1)
    logits = rows @ rows.t() / tau
    logits.diagonal().fill_(-torch.inf)
    positive = torch.arange(2 * n_cells, device=z.device).roll(n_cells)
    return functional.cross_entropy(logits, positive)


def prototype_loss(z: Tensor, prototypes: list[Tensor], labels: list[Tensor], *, tau: float) -> Tensor:
    """Cross-entropy of each cell's cosine similarity to its own prototype, mean over granularities.

    Parameters
    ----------
    z
        Views of the cells, shape (n_cells, n_views, n).
    prototypes
        Prototypes of each granularity, shapes (n_prototypes, n).
    labels
        Own prototype of each cell at each granularity, int64, shapes (n_cells,).
    tau
        Temperature.

    Returns
    -------
    Mean over granularities, views and cells, a scalar.
    """
    n_cells, n_views, n = z.shape
    rows = functional.normalize(z, dim=-1).view(n_cells * n_views, n)
    losses = [
        functional.cross_entropy(rows @ functional.normalize(p, dim=-1).t() / tau, y.repeat_interleave(n_views))
        for p, y in zip(prototypes, labels, strict=True)
    ]
    return torch.stack(losses).mean()
