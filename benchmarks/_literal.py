"""The method implemented literally from its equations (Lee et al., Bioinformatics 39(6), btad342, 2023) with PyG's layers.

The package is timed against this implementation, which shares no code with the package or with the published code: features
are a dense matrix, the graph is a list of edges, ``SAGEConv`` aggregates before it projects, each view is a separate pass, and
the likelihood is computed for every entry.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import SAGEConv

#: Restarts of the k-means of a mini-batch.
N_INIT = 20


class Batch(NamedTuple):
    """A mini-batch: dense counts and features (n_cells, n_genes), size factors, and (cell, gene) edges (2, n_edges)."""

    counts: Tensor
    features: Tensor
    size_factor: Tensor
    edges: Tensor


class Masks(NamedTuple):
    """What one view keeps: boolean masks of neighbours and feature columns (n_genes,) and of embedding columns (n_latent,)."""

    neighbor: Tensor
    feature: Tensor
    embedding: Tensor


def dense_batch(
    counts: sp.csr_matrix,
    size_factor: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Turn CSR counts (n_cells, n_genes) into a dense batch; ``mean`` and ``std`` are those of the log counts."""
    dense = torch.from_numpy(counts.toarray()).to(dtype)
    size = torch.from_numpy(size_factor).to(dtype).unsqueeze(1)
    log = torch.log1p(dense / size)
    features = ((log - torch.from_numpy(mean).to(dtype)) / torch.from_numpy(std).to(dtype)).clamp(max=10.0)
    return Batch(dense, features, size, dense.nonzero().t().contiguous())


def draw_masks(
    n_genes: int, n_latent: int, generator: torch.Generator, *, keep: float = 0.8, drop: float = 0.2
) -> Masks:
    """Draw one view: a share ``keep`` of the genes as neighbours, feature columns zeroed with probability ``drop``."""
    neighbor = torch.zeros(n_genes, dtype=torch.bool)
    neighbor[torch.randperm(n_genes, generator=generator)[: round(keep * n_genes)]] = True
    feature = torch.rand(n_genes, generator=generator) >= drop
    return Masks(neighbor, feature, torch.rand(n_latent, generator=generator) >= drop)


class LiteralNetwork(nn.Module):
    """Two GraphSAGE layers, a ZINB decoder with three heads, and cluster centres."""

    def __init__(self, n_genes: int, *, n_hidden: int = 256, n_latent: int = 64, n_clusters: int = 10) -> None:
        super().__init__()
        self.gene_embedding = nn.Parameter(torch.randn(n_genes, n_latent))
        self.cell_conv1 = SAGEConv((n_latent, n_genes), n_hidden)
        self.gene_conv1 = SAGEConv((n_genes, n_latent), n_hidden)
        self.cell_conv2 = SAGEConv((n_hidden, n_hidden), n_latent)
        self.cell_norm1 = nn.BatchNorm1d(n_hidden)
        self.gene_norm1 = nn.BatchNorm1d(n_hidden)
        self.cell_norm2 = nn.BatchNorm1d(n_latent)
        self.hidden = nn.Linear(n_latent, n_hidden)
        self.hidden_norm = nn.BatchNorm1d(n_hidden)
        self.mean_head = nn.Linear(n_hidden, n_genes)
        self.dropout_head = nn.Linear(n_hidden, n_genes)
        self.dispersion_head = nn.Linear(n_hidden, n_genes)
        self.centers = nn.Parameter(torch.randn(n_clusters, n_latent))

    def encode(self, batch: Batch, masks: Masks | None = None) -> Tensor:
        """Latent vectors of one view, shape (n_cells, n_latent)."""
        cell, gene = batch.features, self.gene_embedding
        to_genes, to_cells = batch.edges, batch.edges.flip(0)
        if masks is not None:
            cell, gene = cell * masks.feature, gene * masks.embedding
            to_cells = to_cells[:, masks.neighbor[to_cells[0]]]
        cell1 = self.cell_norm1(self.cell_conv1((gene, cell), to_cells))
        gene1 = self.gene_norm1(self.gene_conv1((cell, gene), to_genes))
        return self.cell_norm2(self.cell_conv2((gene1, cell1), to_cells))

    def zinb_loss(self, batch: Batch, z: Tensor) -> Tensor:
        """Mean negative log-likelihood over all entries."""
        hidden = functional.relu(self.hidden_norm(self.hidden(z)))
        mu = self.mean_head(hidden).exp().clamp(1e-5, 1e6) * batch.size_factor
        theta = functional.softplus(self.dispersion_head(hidden)) + 1e-4
        px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=self.dropout_head(hidden))
        return -px.log_prob(batch.counts).mean()

    def soft_assign(self, z: Tensor) -> Tensor:
        """Student-t assignment to the centres, shape (n_cells, n_clusters)."""
        q = 1.0 / (1.0 + (z.unsqueeze(1) - self.centers).square().sum(2))
        return q / q.sum(1, keepdim=True)


def instance_loss(z1: Tensor, z2: Tensor, *, tau: float = 0.25) -> Tensor:
    """InfoNCE over the 2B x 2B similarities, without self-similarity in the denominators."""
    z = functional.normalize(torch.cat([z1, z2]), dim=1)
    similarity = (z @ z.t() / tau).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(similarity, torch.arange(len(z)).roll(len(z1)))


def local_prototypes(z: Tensor, numbers: list[int], *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """k-means of a mini-batch for each number of prototypes: centres and labels."""
    rows = functional.normalize(z.detach(), dim=1).numpy()
    found = [KMeans(k, n_init=N_INIT, random_state=seed).fit(rows) for k in numbers]
    return [(torch.from_numpy(f.cluster_centers_), torch.from_numpy(f.labels_).long()) for f in found]


def prototype_loss(z1: Tensor, z2: Tensor, prototypes: list[tuple[Tensor, Tensor]], *, tau: float = 0.25) -> Tensor:
    """Cross-entropy of the cosine similarity to the assigned prototype, mean over views and granularities."""
    losses = []
    for centers, labels in prototypes:
        unit = functional.normalize(centers, dim=1)
        losses += [functional.cross_entropy(functional.normalize(z, dim=1) @ unit.t() / tau, labels) for z in (z1, z2)]
    return sum(losses) / len(losses)


def target_distribution(q: Tensor) -> Tensor:
    """Sharpened assignment of all cells, q^2 over the soft cluster sizes, row-normalised."""
    p = q**2 / q.sum(0)
    return p / p.sum(1, keepdim=True)


def clustering_loss(q: Tensor, p: Tensor) -> Tensor:
    """Return KL(P || Q), mean over cells."""
    return functional.kl_div(q.log(), p, reduction="batchmean")
