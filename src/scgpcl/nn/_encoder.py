"""Graph encoder that computes cells from genes and genes from cells, with exact inference from stored gene states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import MessagePassing

from scgpcl.nn._graph import BatchLinks, Bipartite, StandardizedCounts, neighbor_mean, project, spmm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scgpcl.nn._contrast import View

#: Factor by which the weights of the graph messages are reduced if the cells' own weights are initialised with axes.
MESSAGE_START = 0.1


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


class _Affine(NamedTuple):
    """Affine form of cell vectors, ``mean_g(message) + F weight + shift``, without a message if it is ``None``."""

    message: Tensor | None
    weight: Tensor
    shift: Tensor

    def __call__(self, features: StandardizedCounts) -> Tensor:
        own = features.project(self.weight.t())[:, 0] + self.shift
        if self.message is None:
            return own
        # in inference, the mask contains the measured genes, which are all to which a cell can be linked
        return receive(features.graph, self.message.unsqueeze(1), keep=features.mask, links=features.links)[:, 0] + own


class BipartiteEncoder(nn.Module):
    r"""Bipartite GraphSAGE encoder with two layers (Lee et al. 2023, section 2.2).

    Let F be the standardised counts, E the gene embedding, and BN batch normalisation. The encoder computes

    .. math::
        c^1 = BN(\mathrm{mean}_g(E U_1) + F V_1), \quad
        g^1 = BN(\mathrm{mean}_i(F V_2) + E U_2), \quad
        z = BN(\mathrm{mean}_g(g^1 U_3) + c^1 V_3).

    If there are batches, the typical value in the batch of the cell is subtracted from :math:`\mathrm{mean}_g` (see
    :class:`~scgpcl.nn.BatchLinks`). F is standardised per batch, so the messages to genes carry no batch effect.

    There is no activation between the layers. In inference, where the statistics of BN are constant, the vector of a
    cell is therefore an affine function of its counts. :meth:`fit_states` computes this function once from all training
    cells.

    Parameters
    ----------
    n_genes
        Number of gene nodes.
    n_hidden
        Width of the first layer.
    n_latent
        Width of the latent cell vector and of the gene embedding.
    use_graph
        Whether genes send messages. ``False`` is an ablation.
    """

    state_message: Tensor
    state_weight: Tensor
    state_shift: Tensor

    def __init__(self, n_genes: int, *, n_hidden: int, n_latent: int, use_graph: bool) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.n_latent = n_latent
        self.use_graph = use_graph
        self.gene_embedding = nn.Parameter(torch.randn(n_genes, n_latent))
        self.cell1 = BipartiteSAGEConv((n_latent, n_genes), n_hidden)
        self.cell2 = BipartiteSAGEConv((n_hidden, n_hidden), n_latent)
        self.gene1 = BipartiteSAGEConv((n_genes, n_latent), n_hidden, to_genes=True)
        self.cell1_norm, self.cell2_norm = NodeBatchNorm(n_hidden), NodeBatchNorm(n_latent)
        self.gene1_norm = NodeBatchNorm(n_hidden)
        self.register_buffer("state_message", torch.zeros(n_genes, n_latent))
        self.register_buffer("state_weight", torch.zeros(n_genes, n_latent))
        self.register_buffer("state_shift", torch.zeros(n_latent))

    def forward(self, features: StandardizedCounts, view: View | None = None) -> Tensor:
        """Encode a mini-batch in which the cells provide context for each other.

        Parameters
        ----------
        features
            Unmasked features of the cells.
        view
            Random views. If ``None``, a single view that keeps everything is used.

        Returns
        -------
        Latent vectors z, shape (n_cells, n_views, n_latent).
        """
        gene = self.gene_embedding.unsqueeze(1)
        keep = None
        if view is not None:
            gene = gene * view.embedding.t()
            features = features._replace(mask=view.feature)
            keep = view.neighbor
        if not self.use_graph:
            cell1 = self.cell1_norm(project(features, self.cell1.lin_r.weight) + self.cell1.lin_l.bias)
            return self.cell2_norm(project(cell1, self.cell2.lin_r.weight) + self.cell2.lin_l.bias)
        graph, links = features.graph, features.links
        cell1 = self.cell1_norm(self.cell1((gene, features), graph, keep, links))
        gene1 = self.gene1_norm(self.gene1((features, gene), graph))
        return self.cell2_norm(self.cell2((gene1, cell1), graph, keep, links))

    def unused_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are only used for messages, if genes send no messages."""
        if self.use_graph:
            return []
        senders = self.gene_embedding, self.cell1.lin_l.weight, self.cell2.lin_l.weight
        return [*senders, *self.gene1.parameters(), *self.gene1_norm.parameters()]

    def encode(self, features: StandardizedCounts) -> Tensor:
        """Encode each cell on its own from the stored gene states, shape (n_cells, n_latent)."""
        return _Affine(self.state_message if self.use_graph else None, self.state_weight, self.state_shift)(features)

    @torch.no_grad()
    def fit_states(self, batches: Callable[[], Iterable[StandardizedCounts]]) -> int:
        """Compute exact statistics and gene states from all cells, with one pass per layer.

        Parameters
        ----------
        batches
            Function that returns the features of all training cells in mini-batches. It is called once per layer.

        Returns
        -------
        Number of training cells.
        """
        gene: Tensor = self.gene_embedding
        to_genes = None
        if self.use_graph:
            to_genes = _Affine(None, self.gene1.lin_l.weight.t(), self.gene1.lin_l.weight.new_zeros(()))
        message = gene @ self.cell1.lin_l.weight.t() if self.use_graph else None
        first = _Affine(message, self.cell1.lin_r.weight.t(), self.cell1.lin_l.bias)
        moments = _stream(batches(), first, to_genes)
        first = _normalized(first, self.cell1_norm, moments)
        weight = self.cell2.lin_r.weight.t()
        message = None
        if first.message is not None:
            gene = moments.to_genes + self.gene1.lin_l.bias + gene @ self.gene1.lin_r.weight.t()
            self.gene1_norm.set_statistics(gene.mean(0), gene.var(0, unbiased=False))
            scale, shift = self.gene1_norm.affine()
            message = (gene * scale + shift) @ self.cell2.lin_l.weight.t() + first.message @ weight
        second = _Affine(message, first.weight @ weight, first.shift @ weight + self.cell2.lin_l.bias)
        moments = _stream(batches(), second)
        second = _normalized(second, self.cell2_norm, moments)
        if second.message is not None:
            self.state_message.copy_(second.message)
        self.state_weight.copy_(second.weight)
        self.state_shift.copy_(second.shift)
        return moments.n_cells

    @torch.no_grad()
    def start_at_axes(self, axes: Tensor, generator: torch.Generator) -> None:
        """Initialise the path from a cell's own features as a rotation of the given axes.

        The rotation has entries of equal size (signed Hadamard columns), so that every latent dimension has the same
        variance and batch normalisation preserves all distances of the projection. The weights of the messages start
        small.

        Parameters
        ----------
        axes
            Orthogonal axes with uncorrelated scores, leading axes first, shape (n_axes, n_genes). Only the first
            ``n_latent`` axes are used.
        generator
            Random number generator on the CPU for the signs and the order.
        """
        axes = axes[: self.n_latent].to(self.gene_embedding)
        basis = axes
        for conv in (self.cell1, self.cell2):
            rotation = _flat_rotation(conv.out_channels, len(axes), generator).to(axes)
            conv.lin_r.weight.copy_(rotation @ basis)
            conv.lin_l.weight.mul_(MESSAGE_START)
            basis = rotation.t()  # undo this rotation in the next layer


class _Moments(NamedTuple):
    """Moments of a cell layer, and the mean message to each gene."""

    n_cells: int
    mean: Tensor
    var: Tensor
    to_genes: Tensor


def _normalized(cell: _Affine, norm: NodeBatchNorm, moments: _Moments) -> _Affine:
    """Set the exact input moments of a batch normalisation layer, and apply the layer."""
    norm.set_statistics(moments.mean, moments.var)
    scale, shift = norm.affine()
    message = None if cell.message is None else cell.message * scale
    return _Affine(message, cell.weight * scale, cell.shift * scale + shift)


def _stream(batches: Iterable[StandardizedCounts], before: _Affine, to_genes: _Affine | None = None) -> _Moments:
    """Compute the moments of a cell layer and the mean message to each gene over all cells."""
    n_cells = 0
    total = torch.zeros_like(before.shift, dtype=torch.float64)
    square = total.clone()
    message, degree = before.shift.new_zeros(()), before.shift.new_zeros(())
    for features in batches:
        value = before(features).double()
        n_cells += value.shape[0]
        total += value.sum(0)
        square += value.square().sum(0)
        if to_genes is not None:
            graph = features.graph
            message = message + spmm(graph, None, to_genes(features), transpose=True)
            degree = degree + graph.t_indptr.diff().to(before.shift.dtype).unsqueeze(1)
    mean = total / n_cells
    var = (square / n_cells - mean.square()).clamp(min=0.0)
    if to_genes is not None:
        message = message / degree.clamp(min=1.0)
    dtype = before.shift.dtype
    return _Moments(n_cells, mean.to(dtype), var.to(dtype), message)


def _flat_rotation(n: int, n_axes: int, generator: torch.Generator) -> Tensor:
    """Draw a random matrix (n, n_axes) with orthonormal columns, whose rows have nearly equal norms in every block.

    It is taken from a Sylvester-Hadamard matrix if ``n`` is a power of two, and from the orthonormal cosine basis
    otherwise.
    """
    n_axes = min(n, n_axes)
    if n & (n - 1) == 0:
        basis = torch.ones(1, 1, dtype=torch.float64)
        while basis.shape[0] < n:
            basis = torch.cat([torch.cat([basis, basis], 1), torch.cat([basis, -basis], 1)])
    else:
        index = torch.arange(n, dtype=torch.float64)
        basis = torch.cos(torch.pi / n * (index.unsqueeze(1) + 0.5) * index)
    basis = basis / basis.norm(dim=0)
    columns = torch.randperm(n, generator=generator)[:n_axes]
    signs = torch.randint(0, 2, (n_axes,), generator=generator) * 2.0 - 1.0
    return (basis[:, columns] * signs).float()
