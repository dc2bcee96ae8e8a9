"""GraphSAGE layer between the two node types, and batch normalisation of node vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import MessagePassing

from scgpcl.nn._features import BatchLinks, StandardizedCounts, project
from scgpcl.nn._graph import Bipartite, neighbor_mean


class BipartiteSAGEConv(MessagePassing):
    r"""GraphSAGE layer with mean aggregation from one node type to the other.

    .. math:: x'_i = W_1 \, \mathrm{mean}_{j \in N(i)} x_j + W_2 x_i + b

    The parameters and the result are the same as in :class:`torch_geometric.nn.SAGEConv`. For a ``Bipartite`` graph,
    the layer uses sparse-dense products, and projects before it aggregates if that is less work. For an ``edge_index``,
    it uses PyG's message passing.

    Parameters
    ----------
    in_channels
        Widths of the sending and receiving nodes.
    out_channels
        Width of the output.
    to_genes
        Whether messages go from cells to genes. By default, they go from genes to cells.
    """

    def __init__(self, in_channels: tuple[int, int], out_channels: int, *, to_genes: bool = False) -> None:
        super().__init__(aggr="mean")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.to_genes = to_genes
        self.lin_l = nn.Linear(in_channels[0], out_channels)
        self.lin_r = nn.Linear(in_channels[1], out_channels, bias=False)

    def reset_parameters(self) -> None:
        """Redraw the weights at random."""
        super().reset_parameters()
        self.lin_l.reset_parameters()
        self.lin_r.reset_parameters()

    def forward(
        self,
        x: tuple[Tensor | StandardizedCounts, Tensor | StandardizedCounts],
        graph: Any,
        keep: Tensor | None = None,
        links: BatchLinks | None = None,
    ) -> Tensor:
        """Compute the new vectors of the receiving nodes.

        Parameters
        ----------
        x
            Vectors of the sending and receiving nodes, either dense vectors of shape (n_nodes, n_views, n) or the
            sparse features of the cells. For an ``edge_index``, the shape is (n_nodes, n).
        graph
            ``Bipartite`` graph, or an ``edge_index`` of shape (2, n_edges).
        keep
            Which sending nodes to keep in each view, shape (n_senders, n_views).
        links
            Batches of the receiving cells. If given, messages from genes are centred on the typical message of the
            batch.

        Returns
        -------
        New vectors, shape (n_receivers, n_views, out_channels), or (n_receivers, out_channels) for an ``edge_index``.
        """
        sender, receiver = x
        if not isinstance(graph, Bipartite):
            return self.lin_l(self.propagate(graph, x=x)) + self.lin_r(receiver)
        if isinstance(sender, Tensor) and self.in_channels[0] < self.out_channels:
            aggregated = self.lin_l(receive(graph, sender, to_genes=self.to_genes, keep=keep, links=links))
        else:
            messages = project(sender, self.lin_l.weight)
            aggregated = receive(graph, messages, to_genes=self.to_genes, keep=keep, links=links) + self.lin_l.bias
        return aggregated + project(receiver, self.lin_r.weight)

    def propagate(self, edge_index: Any, size: tuple[int, int] | None = None, **kwargs: Any) -> Tensor:
        """Run PyG's message passing. Defined here so that PyG does not write generated code to the temporary folder."""
        return super().propagate(edge_index, size, **kwargs)

    def message(self, x_j: Tensor) -> Tensor:
        """Return the vector of the sender as the message (a hook of PyG)."""
        return x_j

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, to_genes={self.to_genes})"


def receive(
    graph: Bipartite,
    x: Tensor,
    *,
    to_genes: bool = False,
    keep: Tensor | None = None,
    links: BatchLinks | None = None,
) -> Tensor:
    """Compute the mean of the neighbours' vectors minus the typical mean in the batch of the cell.

    The arguments are the same as in `neighbor_mean`.
    """
    mean = neighbor_mean(graph, x, to_genes=to_genes, keep=keep)
    return mean if links is None else mean - links.typical_mean(x, keep)


class NodeBatchNorm(nn.Module):
    """Batch normalisation with batch statistics in training and exact data statistics in inference.

    There is no running average. Instead, :meth:`set_statistics` receives the moments of the whole data set, so that
    inference does not depend on which mini-batches came last.

    Parameters
    ----------
    n
        Number of features.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, n: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over nodes.

        Parameters
        ----------
        x
            Node vectors, shape (n_nodes, n_views, n).
        """
        n_nodes, n_views, n = x.shape
        if self.training and n_nodes < 2:
            msg = f"Expected at least 2 nodes to normalise over in training, found {n_nodes}. Raise `batch_size`."
            raise ValueError(msg)
        normed = functional.batch_norm(
            x.reshape(n_nodes, n_views * n),
            None if self.training else self.mean.repeat(n_views),
            None if self.training else self.var.repeat(n_views),
            self.weight.repeat(n_views),
            self.bias.repeat(n_views),
            training=self.training,
            eps=self.eps,
        )
        return normed.view(n_nodes, n_views, n)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Store the moments used in inference, each of shape (n,)."""
        self.mean.copy_(mean)
        self.var.copy_(var)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift used in inference, ``norm(x) = x * scale + shift``, each of shape (n,)."""
        scale = self.weight / torch.sqrt(self.var + self.eps)
        return scale, self.bias - self.mean * scale
