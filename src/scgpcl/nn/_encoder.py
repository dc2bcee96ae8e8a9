"""The graph encoder: cells from genes, genes from cells, and exact inference from stored gene states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from scgpcl.nn._aggregate import Bipartite, spmm
from scgpcl.nn._conv import BipartiteSAGEConv, project, receive
from scgpcl.nn._norm import NodeBatchNorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scgpcl.nn._features import StandardizedCounts
    from scgpcl.nn._views import View

#: Shrinks the weights of the graph messages when the cells' own weights start at given axes.
MESSAGE_START = 0.1


class _Affine(NamedTuple):
    """A cell vector as ``mean_g(message) + F weight + shift``; ``None`` is no message."""

    message: Tensor | None
    weight: Tensor
    shift: Tensor

    def __call__(self, features: StandardizedCounts) -> Tensor:
        own = features.project(self.weight.t())[:, 0] + self.shift
        if self.message is None:
            return own
        return receive(features.graph, self.message.unsqueeze(1), links=features.links)[:, 0] + own


class BipartiteEncoder(nn.Module):
    r"""Bipartite GraphSAGE encoder (Lee et al. 2023, section 2.2).

    For two layers, with F the standardised counts, E the gene embedding, and BN batch normalisation,

    .. math::
        c^1 = BN(\mathrm{mean}_g(E U_1) + F V_1), \quad
        g^1 = BN(\mathrm{mean}_i(F V_2) + E U_2), \quad
        z = BN(\mathrm{mean}_g(g^1 U_3) + c^1 V_3).

    Where the features carry batches, :math:`\mathrm{mean}_g` is less its typical value in the batch of the cell, see
    :class:`~scgpcl.nn.BatchLinks`; F is standardised per batch, so that the messages to genes carry none.

    There is no activation between the layers, so in inference, where the statistics of BN are constants, a cell is
    an affine function of its counts. :meth:`fit_states` computes that function once from all training cells.

    Parameters
    ----------
    n_genes
        Number of gene nodes.
    n_hidden
        Width of all layers but the last.
    n_latent
        Width of the latent cell vector and of the gene embedding.
    n_layers
        Number of layers.
    use_graph
        Without it genes send no messages: an ablation.
    """

    state_message: Tensor
    state_weight: Tensor
    state_shift: Tensor

    def __init__(
        self, n_genes: int, *, n_hidden: int = 256, n_latent: int = 64, n_layers: int = 2, use_graph: bool = True
    ) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.n_latent = n_latent
        self.use_graph = use_graph
        cell_widths = [n_genes, *[n_hidden] * (n_layers - 1), n_latent]
        gene_widths = [n_latent, *[n_hidden] * (n_layers - 1)]
        self.gene_embedding = nn.Parameter(torch.randn(n_genes, n_latent))
        # casts, because torch does not know the types of a list's members
        self.cell_convs = cast(
            "Sequence[BipartiteSAGEConv]",
            nn.ModuleList(
                BipartiteSAGEConv((gene_widths[i], cell_widths[i]), cell_widths[i + 1]) for i in range(n_layers)
            ),
        )
        self.cell_norms = cast(
            "Sequence[NodeBatchNorm]", nn.ModuleList(NodeBatchNorm(width) for width in cell_widths[1:])
        )
        self.gene_convs = cast(
            "Sequence[BipartiteSAGEConv]",
            nn.ModuleList(
                BipartiteSAGEConv((cell_widths[i], gene_widths[i]), gene_widths[i + 1], to_genes=True)
                for i in range(n_layers - 1)
            ),
        )
        self.gene_norms = cast(
            "Sequence[NodeBatchNorm]", nn.ModuleList(NodeBatchNorm(width) for width in gene_widths[1:])
        )
        self.register_buffer("state_message", torch.zeros(n_genes, n_latent))
        self.register_buffer("state_weight", torch.zeros(n_genes, n_latent))
        self.register_buffer("state_shift", torch.zeros(n_latent))

    def forward(self, features: StandardizedCounts, view: View | None = None) -> Tensor:
        """Encode a mini-batch whose cells are each other's context.

        Parameters
        ----------
        features
            Unmasked features of the cells.
        view
            Random views; ``None`` is one view that keeps everything.

        Returns
        -------
        z, shape (n_cells, n_views, n_latent).
        """
        gene = self.gene_embedding.unsqueeze(1)
        cell: Tensor | StandardizedCounts = features
        keep = None
        if view is not None:
            gene = gene * view.embedding.t()
            cell = features._replace(mask=view.feature)
            keep = view.neighbor
        for layer, (conv, norm) in enumerate(zip(self.cell_convs, self.cell_norms, strict=True)):
            if not self.use_graph:
                cell = norm(project(cell, conv.lin_r.weight) + conv.lin_l.bias)
                continue
            next_cell = norm(conv((gene, cell), features.graph, keep, features.links))
            if layer < len(self.gene_convs):
                gene = self.gene_norms[layer](self.gene_convs[layer]((cell, gene), features.graph))
            cell = next_cell
        return cast("Tensor", cell)

    def encode(self, features: StandardizedCounts) -> Tensor:
        """Encode cells on their own from the stored gene states, shape (n_cells, n_latent)."""
        return self._affine_state()(features)

    def _affine_state(self) -> _Affine:
        return _Affine(self.state_message if self.use_graph else None, self.state_weight, self.state_shift)

    @torch.no_grad()
    def fit_states(self, batches: Callable[[], Iterable[StandardizedCounts]]) -> int:
        """Compute exact statistics and gene states from all cells, one pass per layer.

        Parameters
        ----------
        batches
            Called once per layer; gives the features of all training cells, in mini-batches.

        Returns
        -------
        Number of training cells.
        """
        n_cells = 0
        gene: Tensor = self.gene_embedding
        cell: _Affine | None = None  # None stands for F itself, before the first layer
        for layer, (conv, norm) in enumerate(zip(self.cell_convs, self.cell_norms, strict=True)):
            before = _after(cell, conv.lin_r.weight)
            message = None
            if self.use_graph:
                message = gene @ conv.lin_l.weight.t()
                message = message if before.message is None else message + before.message
            before = _Affine(message, before.weight, before.shift + conv.lin_l.bias)
            to_genes = None
            if layer < len(self.gene_convs) and self.use_graph:
                to_genes = _after(cell, self.gene_convs[layer].lin_l.weight)
            moments = _stream(batches(), before, to_genes)
            n_cells = moments.n_cells
            norm.set_statistics(moments.mean, moments.var)
            scale, shift = norm.affine()
            cell = _Affine(
                None if message is None else message * scale, before.weight * scale, before.shift * scale + shift
            )
            if to_genes is not None:
                gene = self._next_gene(layer, gene, moments)
        cell = cast("_Affine", cell)
        if cell.message is not None:
            self.state_message.copy_(cell.message)
        self.state_weight.copy_(cell.weight)
        self.state_shift.copy_(cell.shift)
        return n_cells

    def _next_gene(self, layer: int, gene: Tensor, moments: _Moments) -> Tensor:
        conv, norm = self.gene_convs[layer], self.gene_norms[layer]
        gene = moments.to_genes + conv.lin_l.bias + gene @ conv.lin_r.weight.t()
        norm.set_statistics(gene.mean(0), gene.var(0, unbiased=False))
        scale, shift = norm.affine()
        return gene * scale + shift

    @torch.no_grad()
    def start_at_axes(self, axes: Tensor, generator: torch.Generator) -> None:
        """Let the cells' own path begin as a rotation of given feature axes.

        The rotation has entries of equal size (signed Hadamard columns), so that every latent dimension carries the
        same variance and batch normalisation keeps all distances of the projection. Messages start small.

        Parameters
        ----------
        axes
            Orthogonal axes of uncorrelated scores, leading first, shape (n_axes, n_genes); only the first
            ``n_latent`` are used.
        generator
            Source of the random signs and order, on the CPU.
        """
        axes = axes[: self.n_latent].to(self.gene_embedding)
        basis = axes
        for conv in self.cell_convs:
            rotation = _flat_rotation(conv.out_channels, len(axes), generator).to(axes)
            conv.lin_r.weight.copy_(rotation @ basis)
            conv.lin_l.weight.mul_(MESSAGE_START)
            basis = rotation.t()  # undo this rotation in the next layer


class _Moments(NamedTuple):
    n_cells: int
    mean: Tensor
    var: Tensor
    to_genes: Tensor


def _after(cell: _Affine | None, linear: Tensor) -> _Affine:
    """Follow a cell vector by a matrix of shape (n_out, n)."""
    if cell is None:
        return _Affine(None, linear.t(), linear.new_zeros(linear.shape[0]))
    message = None if cell.message is None else cell.message @ linear.t()
    return _Affine(message, cell.weight @ linear.t(), cell.shift @ linear.t())


def _stream(batches: Iterable[StandardizedCounts], before: _Affine, to_genes: _Affine | None) -> _Moments:
    """Moments of a cell layer and mean message to each gene, over all cells."""
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
            graph: Bipartite = features.graph
            message = message + spmm(graph, None, to_genes(features), transpose=True)
            degree = degree + graph.t_indptr.diff().to(before.shift.dtype).unsqueeze(1)
    mean = total / n_cells
    var = (square / n_cells - mean.square()).clamp(min=0.0)
    if to_genes is not None:
        message = message / degree.clamp(min=1.0)
    dtype = before.shift.dtype
    return _Moments(n_cells, mean.to(dtype), var.to(dtype), message)


def _flat_rotation(n: int, n_axes: int, generator: torch.Generator) -> Tensor:
    """Random matrix of shape (n, n_axes) with orthonormal columns whose rows have nearly equal norms in every block.

    A Sylvester-Hadamard matrix where ``n`` is a power of two, else the orthonormal cosine basis.
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
