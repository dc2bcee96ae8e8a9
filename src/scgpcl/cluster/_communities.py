"""Find a given number of Leiden communities in a shared-neighbour graph."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import igraph

#: Number of neighbours of each cell in the graph, as in scanpy.
N_NEIGHBORS = 15
#: Number of partitions tried to obtain each number of communities, and the range of resolutions that is searched.
N_STEPS = 4
LOW, HIGH = 1e-3, 20.0
#: Number of iterations of each Leiden run, as recommended by scanpy.
N_ITERATIONS = 2
#: Number of cosine similarities held in memory at a time.
BLOCK_COSINES = 4_000_000
#: Number of edges of the graph whose shared neighbours are counted at a time.
BLOCK_EDGES = 8_192


def nearest_cells(x: Tensor, n_neighbors: int) -> Tensor:
    """Return the positions of the nearest other cells by cosine similarity, shape (n_cells, n_neighbors)."""
    unit = normalize(x, dim=1)
    transpose = unit.t().contiguous()
    found = []
    for rows in torch.arange(len(unit), device=x.device).split(max(1, BLOCK_COSINES // len(unit))):
        cosine = unit[rows] @ transpose
        cosine[torch.arange(len(rows), device=x.device), rows] = -torch.inf
        found.append(cosine.topk(n_neighbors, 1).indices)
    return torch.cat(found)


def shared_neighbor_graph(x: Tensor, n_neighbors: int = N_NEIGHBORS) -> igraph.Graph:
    """Build a graph of nearest cells with edges weighted by the Jaccard index of their neighbour sets (PhenoGraph)."""
    import igraph  # here, since a session that only loads models never needs it

    near = nearest_cells(x, min(n_neighbors, len(x) - 1)).cpu().numpy()
    n_cells, k = near.shape
    links = sp.csr_matrix((np.ones(near.size), near.ravel(), np.arange(0, near.size + 1, k)), shape=(n_cells, n_cells))
    linked = sp.triu(links.maximum(links.T), 1).tocoo()
    near = np.column_stack([near, np.arange(n_cells)])  # with the cell itself, so that linked cells share some
    shared = np.empty(linked.nnz)
    for start in range(0, linked.nnz, BLOCK_EDGES):
        block = slice(start, start + BLOCK_EDGES)
        first, second = near[linked.row[block]], near[linked.col[block]]
        shared[block] = (first[:, :, None] == second[:, None, :]).sum((1, 2))
    weight = shared / (2.0 * (k + 1) - shared)
    edges = np.column_stack([linked.row, linked.col])
    return igraph.Graph(n=n_cells, edges=edges, edge_attrs={"weight": weight.tolist()})


def communities(graph: igraph.Graph, numbers: Sequence[int], *, seed: int) -> np.ndarray:
    """Return Leiden partitions with the given numbers of communities, int64, shape (n_numbers, n_cells).

    For each number, the logarithm of the resolution is bisected between the closest resolutions tried so far. If a
    number cannot be reached, the closest partition is returned.
    """
    found: dict[float, np.ndarray] = {}
    sizes: dict[float, int] = {}

    def run(log_resolution: float) -> None:
        with _igraph_seeded(seed):
            partition = graph.community_leiden(
                objective_function="modularity",
                weights="weight",
                resolution=np.exp(log_resolution),
                n_iterations=N_ITERATIONS,
            )
        found[log_resolution], sizes[log_resolution] = np.array(partition.membership), len(partition)

    run(0.0)  # the usual resolution
    for number in numbers:
        for _ in range(N_STEPS):
            if number in sizes.values():
                break
            low = max((tried for tried, size in sizes.items() if size < number), default=np.log(LOW))
            high = min((tried for tried, size in sizes.items() if size > number), default=np.log(HIGH))
            run((low + high) / 2)
    return np.stack([found[min(sizes, key=lambda tried: abs(sizes[tried] - number))] for number in numbers])


@contextmanager
def _igraph_seeded(seed: int) -> Iterator[None]:
    """Make igraph use a separate random number generator instead of Python's global one."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
