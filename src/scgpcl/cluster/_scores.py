"""Measure the agreement of two partitions."""

from __future__ import annotations

import torch
from torch import Tensor


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
