"""Measure the agreement of two partitions and the separation of the clusters within one partition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def adjusted_rand(a: Tensor, b: Tensor) -> float:
    """Compute the adjusted Rand index of two int64 labellings (n_cells,) on the device of the labels."""
    n_b = int(b.max()) + 1
    table = torch.bincount(a * n_b + b, minlength=(int(a.max()) + 1) * n_b).view(-1, n_b).double()
    pairs, pairs_a, pairs_b = (_pairs(t) for t in (table, table.sum(1), table.sum(0)))
    total = len(a) * (len(a) - 1) / 2
    expected = pairs_a * pairs_b / total
    largest = (pairs_a + pairs_b) / 2
    return 1.0 if largest == expected else (pairs - expected) / (largest - expected)


def _pairs(sizes: Tensor) -> float:
    return float((sizes * (sizes - 1.0) / 2.0).sum())


def cosine_silhouette(z: Tensor, labels: Tensor, n_clusters: int) -> float:
    """Compute the mean silhouette with cosine distance (Rousseeuw 1987).

    The result is exact, and the cost is linear in the number of cells. The mean cosine distance of a cell to a cluster
    is one minus its product with the cluster's mean unit vector, so no distances between cells are needed. The latent
    vectors have shape (n_cells, n) and the int64 labels (n_cells,). Empty clusters are left out.
    """
    unit = normalize(z, dim=1)
    size = torch.bincount(labels, minlength=n_clusters).to(z)
    total = unit.new_zeros(n_clusters, unit.shape[1]).index_add_(0, labels, unit)
    similarity = unit @ total.t()  # sum of a cell's cosines to each cluster
    own_size = size[labels]
    own = similarity.gather(1, labels.unsqueeze(1)).squeeze(1)
    within = 1.0 - (own - 1.0) / (own_size - 1.0).clamp(min=1.0)
    between = 1.0 - similarity / size.clamp(min=1.0)
    between[:, size == 0] = torch.inf
    between = between.scatter(1, labels.unsqueeze(1), torch.inf).min(1).values
    value = (between - within) / torch.maximum(between, within)
    return float(torch.where(own_size > 1, value, 0.0).double().mean())
