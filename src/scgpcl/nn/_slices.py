"""The decoder's output layer, applied to a slice of cells at a time.

What is done with a slice of its output happens while it is in the processor's cache, and no array of size cells x genes
is ever kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgpcl.nn._aggregate import Bipartite

#: Entries of one slice of output (rows x output columns) that stay in the processor's cache.
SLICE_ENTRIES = 1 << 20


class OutputSlice(NamedTuple):
    """A run of cells whose output fits the cache."""

    cells: slice
    edges: slice
    hidden: Tensor  # (cells x views, n_hidden)
    out: Tensor  # of the output layer, (cells x views, n_out); the next slice is written over it
    at: Tensor  # position of each edge in each view in the flattened ``out``, (edges x views,)


def slice_size(hidden: Tensor, n_out: int) -> int:
    """Cells of a slice; on an accelerator one slice holds all."""
    n_cells, n_views, _ = hidden.shape
    if hidden.device.type != "cpu":
        return n_cells
    return min(n_cells, max(1, SLICE_ENTRIES // (n_views * n_out)))


def output_slices(hidden: Tensor, weight: Tensor, bias: Tensor, graph: Bipartite) -> Iterator[OutputSlice]:
    """Apply the output layer to one slice of cells after the other."""
    n_cells, n_views, n_hidden = hidden.shape
    n_out = weight.shape[0]
    step = slice_size(hidden, n_out)
    edge_starts = graph.indptr[::step].tolist() if step < n_cells else [0]
    edge_starts.append(graph.indices.shape[0])
    views = torch.arange(n_views, device=hidden.device)
    at = (graph.rows.unsqueeze(1) * n_views + views) * n_out + graph.indices.unsqueeze(1)
    buffer = hidden.new_empty(step * n_views, n_out)
    for i, start in enumerate(range(0, n_cells, step)):
        cells = slice(start, min(start + step, n_cells))
        edges = slice(edge_starts[i], edge_starts[i + 1])
        rows = hidden[cells].reshape(-1, n_hidden)
        out = torch.addmm(bias, rows, weight.t(), out=buffer[: rows.shape[0]])
        yield OutputSlice(cells, edges, rows, out, (at[edges] - start * n_views * n_out).flatten())


class OutputGradients(NamedTuple):
    """Gradients to the arguments of the output layer, summed up slice by slice."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def add(self, part: OutputSlice, weight: Tensor) -> None:
        """Add those of a slice whose output has been overwritten by the gradient to it."""
        torch.mm(part.out, weight, out=self.hidden[part.cells].view(-1, weight.shape[1]))
        self.weight.addmm_(part.out.t(), part.hidden)
        self.bias.add_(part.out.sum(0))
