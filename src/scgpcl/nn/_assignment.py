"""Student-t clustering with a self-made target (DEC, Xie et al. 2016; Lee et al. 2023, clustering stage)."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_assign(z: Tensor, centers: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Student-t similarity of cells to cluster centres.

    Parameters
    ----------
    z
        Latent vectors, shape (n_cells, n_latent).
    centers
        Shape (n_clusters, n_latent).
    alpha
        Degrees of freedom.

    Returns
    -------
    q, shape (n_cells, n_clusters); rows sum to one.
    """
    distance = (z.square().sum(1, keepdim=True) - 2.0 * z @ centers.t() + centers.square().sum(1)).clamp(min=0.0)
    # proportional to (1 + d / alpha) ** -((alpha + 1) / 2), normalised in logs so that far cells do not underflow
    return torch.softmax(-(alpha + 1.0) / 2.0 * torch.log1p(distance / alpha), dim=1)


def target_distribution(q: Tensor) -> Tensor:
    """Sharpened assignment ``p = q^2 / f``, row-normalised, with f the soft cluster sizes.

    Parameters
    ----------
    q
        Soft assignment of all cells, shape (n_cells, n_clusters).
    """
    weight = q.square() / q.sum(0)
    return weight / weight.sum(1, keepdim=True)


def clustering_loss(q: Tensor, p: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(P || Q), mean over cells.

    Parameters
    ----------
    q
        Soft assignment, shape (n_cells, n_clusters).
    p
        Target, shape (n_cells, n_clusters).
    """
    return (torch.special.xlogy(p, p) - p * q.clamp(min=torch.finfo(q.dtype).tiny).log()).sum(1).mean()
