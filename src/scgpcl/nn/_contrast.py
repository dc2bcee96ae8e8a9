"""Contrastive learning with random views, neighbours as positives, and instance and prototype losses."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: Minimum temperature of the fused loss. Below it, all exponentials may underflow relative to the exponential of the
#: largest possible cosine, 1.
MIN_FUSED_TAU = 0.05

#: Maximum number of cells among which neighbours are counted; larger data sets are sampled.
MAX_NEIGHBOR_CELLS = 10_000
#: Tolerance of the radius, so that rounding does not decide whether the farthest neighbour is included.
SLACK = 1e-5
#: Number of cosine similarities held in memory at a time.
BLOCK_COSINES = 20_000_000


class View(NamedTuple):
    """Genes and features that are kept in each random view of a mini-batch.

    Parameters
    ----------
    neighbor
        Whether each gene is kept as a neighbour, 0/1, shape (n_genes, n_views).
    feature
        Whether each column of the cell features F is kept, 0/1, shape (n_genes, n_views).
    embedding
        Whether each column of the gene embedding E is kept, 0/1, shape (n_embed, n_views).
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
    """Draw random views by subgraph sampling and feature masking (Lee et al. 2023, section 2.1).

    Parameters
    ----------
    n_genes, n_embed
        Number of genes and width of the gene embedding.
    n_views
        Number of independent views.
    neighbor_keep
        Share of the genes that are kept as neighbours. The number of genes is the same in every view.
    feature_drop
        Probability that a feature column of the cells or of the genes is set to zero.
    generator
        Random number generator on the CPU, so that a seed gives the same views on every device.
    device
        Device of the masks.
    """
    n_keep = max(1, round(neighbor_keep * n_genes))
    order = torch.rand(n_genes, n_views, generator=generator).argsort(0)
    neighbor = (order < n_keep).float()
    feature = (torch.rand(n_genes, n_views, generator=generator) >= feature_drop).float()
    embedding = (torch.rand(n_embed, n_views, generator=generator) >= feature_drop).float()
    masks: tuple[Tensor, ...] = (neighbor, feature, embedding)
    if torch.device(device).type == "cuda":
        masks = tuple(mask.pin_memory() for mask in masks)  # a copy from other memory would make the host wait
    return View(*(mask.to(device, non_blocking=True) for mask in masks))


class Neighborhood(NamedTuple):
    """Nearest cells of each cell, stored as a direction and a radius for each cell instead of an explicit list.

    Parameters
    ----------
    unit
        Unit vectors of all cells, shape (n_cells, n).
    radius
        Cosine similarity between each cell and its farthest neighbour, shape (n_cells,).
    """

    unit: Tensor
    radius: Tensor

    def among(self, index: Tensor) -> Tensor:
        """Find the pairs of cells in which at least one cell is among the nearest cells of the other.

        Parameters
        ----------
        index
            Positions of the cells, int64, shape (n_wanted,).

        Returns
        -------
        Float matrix of shape (n_wanted, n_wanted), with 1 for such pairs, 0 for all others, and a zero diagonal.
        """
        unit, radius = self.unit[index], self.radius[index]
        near = unit @ unit.t() >= torch.minimum(radius.unsqueeze(0), radius.unsqueeze(1))
        near.fill_diagonal_(False)
        return near.to(unit.dtype)


def neighborhood(x: Tensor, n_neighbors: int, *, seed: int = 0) -> Neighborhood:
    """Compute the directions of the cells and the radii within which their nearest cells lie.

    If there are more than ``MAX_NEIGHBOR_CELLS`` cells, neighbours are counted in a sample. A radius then contains the
    same share of all cells as of the sample, and at least one cell of the sample.

    Parameters
    ----------
    x
        Vectors of the cells, which are compared by cosine similarity, shape (n_cells, n).
    n_neighbors
        Number of neighbours of each cell, at most the number of other cells.
    seed
        Random seed for the sample.
    """
    unit = functional.normalize(x, dim=1)
    n_cells = len(unit)
    others, rank = unit, min(n_neighbors, n_cells - 1)
    if n_cells > MAX_NEIGHBOR_CELLS:
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that the sample is the same on every device
        others = unit[torch.randperm(n_cells, generator=generator)[:MAX_NEIGHBOR_CELLS].to(x.device)]
        rank = max(1, round(n_neighbors * len(others) / n_cells))
    # a cell is nearest to itself, but if neighbours are counted in a sample, few cells are in it
    rank += n_cells <= MAX_NEIGHBOR_CELLS
    turned = others.t().contiguous()
    step = max(1, BLOCK_COSINES // len(others))
    radius = [(part @ turned).topk(rank, 1).values[:, -1] for part in unit.split(step)]
    return Neighborhood(unit, torch.cat(radius) - SLACK)


class _Positives(NamedTuple):
    """Rows towards which each row is pulled: its other view and both views of its cell's neighbours, equally weighted.

    The matrix T of the weights is never formed. A row of T sums to one and has at most 1 + 2 d equal entries, where d
    is the number of neighbours.
    """

    near: Tensor | None

    def pull(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Compute T R and T' R for the rows R of both views, each of shape (2 n_cells, n)."""
        if self.near is None:
            partner = rows.roll(len(rows) // 2, 0)
            return partner, partner
        weight = (1.0 / (1.0 + 2.0 * self.near.sum(1, keepdim=True))).repeat(2, 1)
        weighted = weight * rows
        return weight * self._sum(rows), self._sum(weighted)

    def _sum(self, rows: Tensor) -> Tensor:
        first, second = rows.chunk(2)
        near = torch.as_tensor(self.near) @ (first + second)
        return torch.cat([second + near, first + near])


class _InfoNCE(torch.autograd.Function):
    r"""Mean InfoNCE loss of the unit rows of two views, with its gradient.

    Let :math:`E_{ij} = \exp((r_i \cdot r_j - 1) / \tau)`, set to zero on the diagonal and where rows are not compared,
    and let D be its row sums. E is symmetric, so the gradient only needs the product of E with R and :math:`D^{-1} R`
    side by side.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, tau: float, alike: Tensor | None, near: Tensor | None) -> Tensor:
        n_rows, n = rows.shape
        target, turned = _Positives(near).pull(rows)
        similarity = torch.addmm(rows.new_full((), -1.0 / tau), rows / tau, rows.t()).exp_()
        similarity.diagonal().zero_()
        if alike is not None:
            similarity.mul_(alike)
        mass = similarity.sum(1, keepdim=True)
        ctx.scale = 1.0 / (tau * n_rows)
        both = similarity @ torch.cat([rows, rows / mass], 1)
        ctx.save_for_backward(both[:, :n] / mass + both[:, n:] - target - turned)
        return (mass.log().mean() + 1.0 / tau) - (rows * target).sum() * ctx.scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad * ctx.scale), None, None, None


def instance_loss(
    z: Tensor, *, tau: float, batch_index: Tensor | None = None, neighbors: Tensor | None = None
) -> Tensor:
    """Compute the InfoNCE loss between the two views of each cell (Lee et al. 2023, instance-wise contrastive loss).

    For each of the 2B rows, the positive is the other view of the same cell, and the denominator includes all rows
    except the row itself. If neighbours are given, a row has several positives, whose log-probabilities are averaged
    (as in the outer form of Khosla et al. 2020; neighbours are used as positives as in Wan, Chen and Deng 2022).

    Parameters
    ----------
    z
        Two views of B cells, shape (n_cells, 2, n).
    tau
        Temperature.
    batch_index
        Experimental batch of each cell, shape (n_cells,). If given, only cells of the same batch are negatives of each
        other, so that differences between batches do not help a row to find its positive.
    neighbors
        Matrix with 1 for two cells that are positives of each other and 0 otherwise, symmetric with a zero diagonal,
        shape (n_cells, n_cells).

    Returns
    -------
    Mean loss over the 2B rows, a scalar.
    """
    n_cells = z.shape[0]
    rows = functional.normalize(z, dim=-1).transpose(0, 1).reshape(2 * n_cells, -1)
    alike = None
    if batch_index is not None:
        twice = batch_index.repeat(2)
        alike = twice.unsqueeze(0) == twice.unsqueeze(1)
    if tau >= MIN_FUSED_TAU:
        return _InfoNCE.apply(rows, tau, alike, neighbors)
    logits = rows @ rows.t() / tau
    logits.diagonal().fill_(-torch.inf)
    if alike is not None:
        logits.masked_fill_(~alike, -torch.inf)
    target, _ = _Positives(neighbors).pull(rows)
    return (logits.logsumexp(1) - (rows * target).sum(1) / tau).mean()


def prototype_loss(z: Tensor, prototypes: list[Tensor], labels: list[Tensor], *, tau: float) -> Tensor:
    """Compute the cross-entropy of the cosine similarities between cells and their own prototypes.

    Parameters
    ----------
    z
        Views of the cells, shape (n_cells, n_views, n).
    prototypes
        Prototypes at each granularity, each of shape (n_prototypes, n).
    labels
        Own prototype of each cell at each granularity, int64, each of shape (n_cells,).
    tau
        Temperature.

    Returns
    -------
    Mean loss over granularities, views and cells, a scalar.
    """
    n_cells, n_views, n = z.shape
    rows = functional.normalize(z, dim=-1).view(n_cells * n_views, n)
    losses = [
        functional.cross_entropy(rows @ functional.normalize(p, dim=-1).t() / tau, y.repeat_interleave(n_views))
        for p, y in zip(prototypes, labels, strict=True)
    ]
    return torch.stack(losses).mean()
