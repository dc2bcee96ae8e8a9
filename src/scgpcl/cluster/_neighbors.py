"""Neighbourhoods of cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scgpcl.nn import Neighborhood

#: Cells among which neighbours are counted; more are sampled.
MAX_NEIGHBOR_CELLS = 10_000
#: What a radius gives way, so that rounding does not decide on the farthest neighbour.
SLACK = 1e-5
#: Cosines that are in memory at a time.
BLOCK_COSINES = 20_000_000


def neighborhood(x: Tensor, n_neighbors: int, *, seed: int = 0) -> Neighborhood:
    """Directions of the cells and the radii within which their nearest cells lie.

    Beyond ``MAX_NEIGHBOR_CELLS`` cells, neighbours are counted in a sample: a radius then holds the same share of all
    cells as of the sample, and at least one cell of it.

    Parameters
    ----------
    x
        Vectors of the cells, compared by their cosines, shape (n_cells, n).
    n_neighbors
        Neighbours of a cell; at most as many as there are other cells.
    seed
        Seed of the sample.
    """
    unit = normalize(x, dim=1)
    n_cells = len(unit)
    others, rank = unit, min(n_neighbors, n_cells - 1)
    if n_cells > MAX_NEIGHBOR_CELLS:
        generator = torch.Generator(x.device).manual_seed(seed)
        others = unit[torch.randperm(n_cells, generator=generator, device=x.device)[:MAX_NEIGHBOR_CELLS]]
        rank = max(1, round(n_neighbors * len(others) / n_cells))
    # a cell is nearest to itself; beyond the sample's size few are in the sample
    rank += n_cells <= MAX_NEIGHBOR_CELLS
    turned = others.t().contiguous()
    step = max(1, BLOCK_COSINES // len(others))
    radius = [(part @ turned).topk(rank, 1).values[:, -1] for part in unit.split(step)]
    return Neighborhood(unit, torch.cat(radius) - SLACK)
