"""Random views of a mini-batch: subgraph sampling and feature masking."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class View(NamedTuple):
    """What a mini-batch keeps in each of its random views.

    Parameters
    ----------
    neighbor
        Genes kept as neighbours, 0/1, shape (n_genes, n_views).
    feature
        Columns kept of the cell features F, 0/1, shape (n_genes, n_views).
    embedding
        Columns kept of the gene embedding E, 0/1, shape (n_embed, n_views).
    """

    neighbor: Tensor
    feature: Tensor
    embedding: Tensor


def draw_view(
    n_genes: int,
    n_embed: int,
    *,
    n_views: int = 2,
    neighbor_keep: float,
    feature_drop: float,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> View:
    """Draw random views (Lee et al. 2023, section 2.1): subgraph sampling and feature masking.

    Parameters
    ----------
    n_genes, n_embed
        Sizes.
    n_views
        Number of independent views.
    neighbor_keep
        Share of the genes kept as neighbours; the same number of genes in every view.
    feature_drop
        Probability that a feature column, of the cells or of the genes, is zeroed.
    generator
        Source of randomness, on the CPU, so that a seed gives the same views on every device.
    device
        Where the masks are wanted.
    """
    n_keep = max(1, round(neighbor_keep * n_genes))
    order = torch.rand(n_genes, n_views, generator=generator).argsort(0)
    neighbor = (order < n_keep).float()
    feature = (torch.rand(n_genes, n_views, generator=generator) >= feature_drop).float()
    embedding = (torch.rand(n_embed, n_views, generator=generator) >= feature_drop).float()
    masks: tuple[Tensor, ...] = (neighbor, feature, embedding)
    if torch.device(device).type == "cuda":
        masks = tuple(mask.pin_memory() for mask in masks)  # from other memory the copy makes the host wait
    return View(*(mask.to(device, non_blocking=True) for mask in masks))
