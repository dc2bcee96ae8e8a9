"""Decode latent vectors to the parameters of the count distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scgpcl.nn._encoder import NodeBatchNorm
from scgpcl.nn._zinb import LOG_MEAN_BOUNDS, fused_zinb_loss, inverse_dispersion

if TYPE_CHECKING:
    from scgpcl.nn._graph import Bipartite

Dispersion = Literal["gene", "gene-cell"]


#: Number of rows processed at a time when moments are computed in float64.
MOMENT_ROWS = 1 << 14
#: Minimum mean, and the dropout logit, with which the decoder is initialised if it starts at the means of the data.
MEAN_FLOOR = 1e-4
START_DROPOUT_LOGIT = -3.0


class ZINBParameters(NamedTuple):
    """ZINB parameters in the parametrisation of scvi-tools, each of shape (n_cells, n_genes)."""

    mu: Tensor
    theta: Tensor
    zi_logits: Tensor


class HiddenLayer(nn.Module):
    """Linear layer, batch normalisation and ReLU.

    Its statistics in inference follow exactly from the moments of the input.

    Parameters
    ----------
    n_in, n_out
        Widths of the input and the output.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.norm = NodeBatchNorm(n_out)

    def forward(self, z: Tensor) -> Tensor:
        """Map vectors of shape (n_cells, n_views, n_in)."""
        return functional.relu(self.norm(self.linear(z)))

    @torch.no_grad()
    def fit_statistics(self, z: Tensor) -> None:
        """Set the exact moments of the layer from the inputs of all cells, shape (n_cells, n_in)."""
        total = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
        for rows in z.split(MOMENT_ROWS):
            total += rows.double().sum(0)
        mean = total / len(z)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=z.device)
        for rows in z.split(MOMENT_ROWS):
            centred = rows - mean
            covariance.addmm_(centred.t(), centred, alpha=1.0 / len(z))
        weight = self.linear.weight.double()
        variance = ((weight @ covariance) * weight).sum(1)
        self.norm.set_statistics(weight @ mean + self.linear.bias, variance)


class ProjectionHead(nn.Module):
    """Projection head. The contrastive losses are applied to its output instead of the latent vectors themselves.

    Parameters
    ----------
    n_latent
        Width of the input, the hidden layer and the output.
    """

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.hidden = HiddenLayer(n_latent, n_latent)
        self.out = nn.Linear(n_latent, n_latent)

    def forward(self, z: Tensor) -> Tensor:
        """Project vectors of shape (n_cells, n_views, n_latent)."""
        return self.out(self.hidden(z))


class Decoder(nn.Module):
    """Decoder with one hidden layer (batch norm, ReLU) and one output layer that contains all heads of the ZINB.

    Parameters
    ----------
    n_genes, n_latent, n_hidden
        Number of genes, and widths of the latent vectors and the hidden layer.
    dispersion
        Whether to use one inverse dispersion per gene, or one per cell and gene (as in the paper).
    n_batch
        Number of experimental batches, or 0 for none. Their one-hot vectors are concatenated to the inputs of both
        layers, as in scvi-tools.
    """

    def __init__(self, n_genes: int, *, n_latent: int, n_hidden: int, dispersion: Dispersion, n_batch: int) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.n_batch = n_batch
        self.hidden = HiddenLayer(n_latent + n_batch, n_hidden)
        self.heads = nn.Linear(n_hidden + n_batch, (2 if dispersion == "gene" else 3) * n_genes)
        self.raw_theta = nn.Parameter(torch.zeros(n_genes)) if dispersion == "gene" else None

    @torch.no_grad()
    def start_at_means(self, means: Tensor, ratios: Tensor | None = None) -> None:
        """Initialise the fitted means with the mean of each gene in each batch, and dropout with a small value.

        Parameters
        ----------
        means
            Mean of each gene's counts divided by size factors, shape (n_genes,).
        ratios
            Mean in each batch relative to the mean over all cells, shape (n_batch, n_genes).
        """
        bias = self.heads.bias
        bias[: self.n_genes] = means.clamp(min=MEAN_FLOOR).log()
        bias[self.n_genes : 2 * self.n_genes] = START_DROPOUT_LOGIT
        if ratios is not None:
            of_batch = self.heads.weight[:, -self.n_batch :]
            of_batch.zero_()
            of_batch[: self.n_genes] = ratios.log().t()

    def with_batch(self, x: Tensor, batch_index: Tensor | None) -> Tensor:
        """Concatenate one-hot batches to vectors of shape (n_cells, n_views, n), if the decoder uses batches."""
        if self.n_batch == 0:
            return x
        one_hot = functional.one_hot(cast("Tensor", batch_index), self.n_batch).to(x)
        return torch.cat([x, one_hot.unsqueeze(1).expand(-1, x.shape[1], -1)], -1)

    @torch.no_grad()
    def fit_statistics(self, z: Tensor, batch_index: Tensor | None) -> None:
        """Set the moments used in inference from the latent vectors (n_cells, n_latent) and batches of all cells."""
        self.hidden.fit_statistics(self.with_batch(z.unsqueeze(1), batch_index)[:, 0])

    def loss(
        self,
        z: Tensor,
        graph: Bipartite,
        counts: Tensor,
        size_factor: Tensor,
        batch_index: Tensor | None = None,
        genes: Tensor | None = None,
    ) -> Tensor:
        """Compute the mean negative log-likelihood over cells, views and genes.

        Parameters
        ----------
        z
            Latent vectors, shape (n_cells, n_views, n_latent).
        graph
            Sparsity pattern of the counts.
        counts
            Count of each edge, shape (n_edges,).
        size_factor
            Size factor of each cell, shape (n_cells,).
        batch_index
            Batch of each cell, shape (n_cells,), if the decoder uses batches.
        genes
            Ascending positions of the genes to decode, int64, shape (n_some,). If ``None``, all genes are decoded. For
            randomly chosen genes, the loss and its gradients have the same expectation as for all genes.
        """
        hidden = self.with_batch(self.hidden(self.with_batch(z, batch_index)), batch_index)
        weight: Tensor = self.heads.weight
        bias: Tensor = self.heads.bias
        theta: Tensor | None = self.raw_theta
        if genes is not None:
            rows = (genes + torch.arange(0, len(bias), self.n_genes, device=genes.device).unsqueeze(1)).flatten()
            weight, bias, theta = weight[rows], bias[rows], None if theta is None else theta[genes]
            graph, kept = graph.of_genes(genes)
            counts = counts[kept]
        return fused_zinb_loss(hidden, weight, bias, theta, counts, graph, size_factor.log())

    def forward(self, z: Tensor, size_factor: Tensor, batch_index: Tensor | None = None) -> ZINBParameters:
        """Compute the parameters of the count distribution.

        Parameters
        ----------
        z
            Latent vectors, shape (n_cells, n_latent).
        size_factor
            Size factor of each cell, shape (n_cells,).
        batch_index
            Batch for which each cell is decoded, shape (n_cells,), if the decoder uses batches.
        """
        hidden = self.hidden(self.with_batch(z.unsqueeze(1), batch_index))
        out = self.heads(self.with_batch(hidden, batch_index)[:, 0])
        log_mean, zi_logits = out[:, : self.n_genes], out[:, self.n_genes : 2 * self.n_genes]
        raw = out[:, 2 * self.n_genes :] if self.raw_theta is None else self.raw_theta.expand_as(log_mean)
        mu = log_mean.clamp(*LOG_MEAN_BOUNDS).exp() * size_factor.unsqueeze(1)
        return ZINBParameters(mu, inverse_dispersion(raw), zi_logits)
