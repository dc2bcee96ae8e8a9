"""An estimate of the number of clusters."""

from __future__ import annotations

import igraph
import numpy as np
from sklearn.neighbors import kneighbors_graph

#: Cells that the estimate looks at; more are sampled.
MAX_CELLS = 20_000
N_NEIGHBORS = 15


def leiden_n_clusters(latent: np.ndarray, *, resolution: float = 1.0, seed: int = 0) -> int:
    """Number of communities that Leiden finds in the neighbour graph of a latent space.

    Parameters
    ----------
    latent
        Shape (n_cells, n_latent).
    resolution
        Resolution of the modularity.
    seed
        Seed of the sample and of Leiden.

    Returns
    -------
    Number of communities with more than one cell, at least 2.
    """
    rng = np.random.default_rng(seed)
    if len(latent) > MAX_CELLS:
        latent = latent[np.sort(rng.choice(len(latent), MAX_CELLS, replace=False))]
    graph = kneighbors_graph(latent, min(N_NEIGHBORS, len(latent) - 1), mode="connectivity")
    sources, targets = graph.maximum(graph.T).nonzero()
    once = sources < targets
    network = igraph.Graph(n=len(latent), edges=np.column_stack([sources[once], targets[once]]).tolist())
    labels = _leiden(network, resolution, int(rng.integers(2**31)))
    return max(2, int((np.bincount(labels) > 1).sum()))


def _leiden(network: igraph.Graph, resolution: float, seed: int) -> np.ndarray:
    """Run Leiden with its own source of randomness, and leave the global one as it was."""
    import random

    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = network.community_leiden(objective_function="modularity", resolution=resolution, n_iterations=2)
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(found.membership)
