"""Compute the statistics of the training cells that are needed to assess new cells, at the end of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from scgpcl.cluster import type_axes
from scgpcl.data import Cells
from scgpcl.nn import fit_temperature

if TYPE_CHECKING:
    from scgpcl.data import BipartiteSplitter
    from scgpcl.module import SCGPCLModule

#: Ridge added to the covariance within clusters, as a share of its mean variance.
RIDGE = 0.01
#: Share of the training cells that lie within the distance to a cluster beyond which cells count as new.
NEAR_SHARE = 0.99
#: Shares of the genes that are hidden to measure the loss of information, number of repeats, and maximum number of
#: cells.
HIDDEN_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
N_HIDINGS = 2
MAX_HIDING_CELLS = 2000


@torch.no_grad()
def reference_statistics(module: SCGPCLModule, splitter: BipartiteSplitter, index: np.ndarray) -> dict[str, np.ndarray]:
    """Compute statistics of the training cells at the ascending positions ``index``.

    Returns
    -------
    ``means`` (n_clusters, n_latent), ``precision`` (n_latent, n_latent) and ``reach`` are the mean of the cells in each
    cluster, the inverse of their pooled covariance, and the Mahalanobis distance within which most cells lie.
    ``hidden`` and ``temperatures`` are shares of missing genes and the divisor of log probabilities for each share. If
    there are batches, ``features`` and ``links`` (n_clusters, n_genes) are the mean standardised features of the cells
    in each cluster, and the mean gene proportions in their messages minus the proportions of their batches. If there are
    enough labels, ``type_axes`` (n_latent, n_latent) are the axes in which latent vectors are reported.
    """
    device = module.gene_mean.device
    parts = []
    for batch in splitter.batches(index, device=device):
        parts.append(module.represent(module.encode(batch), batch.size_factor).cpu())
    z = torch.cat(parts)
    label = module.probabilities(z).argmax(1).numpy()
    k = len(module.centers) if module.centers is not None else 0
    found = _spread(z.double().numpy(), label, k)
    found |= _without_genes(module, splitter.source, index, label)
    if splitter.source.label_index is not None:
        axes = type_axes(z.numpy(), splitter.source.label_index[index])
        found |= {} if axes is None else {"type_axes": axes}
    if splitter.source.batch_index is not None:
        found |= _cluster_features(module, splitter.source, index, label, k)
    return found


def _spread(z: np.ndarray, label: np.ndarray, n_clusters: int) -> dict[str, np.ndarray]:
    size = np.bincount(label, minlength=n_clusters)
    member = sp.csr_matrix((np.ones(len(z)), (label, np.arange(len(z)))), shape=(n_clusters, len(z)))
    means = (member @ z) / np.maximum(size, 1)[:, None]
    means[size == 0] = np.inf  # nothing is near an empty cluster
    within = z - means[label]
    covariance = within.T @ within / max(len(z) - 1, 1)
    ridge = max(RIDGE * np.trace(covariance) / len(covariance), 1e-12)
    precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    distance = cluster_distance(z, means, precision)
    return {"means": means, "precision": precision, "reach": np.quantile(distance, NEAR_SHARE)}


def cluster_distance(z: np.ndarray, means: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Compute the Mahalanobis distance of cells (n_cells, n) to the nearest of the means (n_clusters, n).

    The distances have shape (n_cells,).
    """
    factor = np.linalg.cholesky(precision)
    turned = z.astype(np.float64) @ factor
    nearest = np.full(len(z), np.inf)
    for mean in means[np.isfinite(means).all(1)] @ factor:
        np.minimum(nearest, np.square(turned - mean).sum(1), out=nearest)
    return np.sqrt(nearest)


def _without_genes(module: SCGPCLModule, cells: Cells, index: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Fit temperatures so that cells with missing genes are assigned to the clusters of the complete cells."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(index), min(len(index), MAX_HIDING_CELLS), replace=False))
    rows, wanted = index[chosen], torch.from_numpy(label[chosen])
    counts, size = cells.rows(rows), cells.size_factor[rows]
    known = None if cells.batch_index is None else cells.batch_index[rows]
    temperatures = [1.0]
    for share in HIDDEN_SHARES:
        q = []
        for _ in range(N_HIDINGS):
            kept = np.flatnonzero(rng.permutation(module.n_genes) >= share * module.n_genes)
            part = Cells(counts[:, kept], size, batch_index=known, places=kept, n_genes=module.n_genes)
            batch = part.batch().to(module.gene_mean.device)
            q.append(module.probabilities(module.represent(module.encode(batch), batch.size_factor)))
        found = fit_temperature(torch.cat(q), wanted.repeat(N_HIDINGS))
        temperatures.append(max(found, temperatures[-1]))  # fewer genes never carry more information
    return {"hidden": np.array([0.0, *HIDDEN_SHARES]), "temperatures": np.array(temperatures)}


def _cluster_features(
    module: SCGPCLModule, cells: Cells, index: np.ndarray, label: np.ndarray, n_clusters: int
) -> dict[str, np.ndarray]:
    moments, batch_index = module.moments, cells.batch_index[index]  # type: ignore[index]
    shares = module.link_share.cpu().numpy()  # type: ignore[union-attr]
    features = np.zeros((n_clusters, module.n_genes))
    links = np.zeros((n_clusters, module.n_genes))
    size = np.maximum(np.bincount(label, minlength=n_clusters), 1)[:, None]
    for start in range(0, len(index), MAX_HIDING_CELLS):
        part = slice(start, start + MAX_HIDING_CELLS)
        rows, own, batch = index[part], label[part], batch_index[part]
        member = sp.csr_matrix((np.ones(len(rows)), (own, np.arange(len(rows)))), shape=(n_clusters, len(rows)))
        by_batch = member @ sp.csr_matrix(
            (np.ones(len(rows)), (np.arange(len(rows)), batch)), shape=(len(rows), len(shares))
        )
        links += (member @ linked_shares(cells.rows(rows))).toarray() - by_batch @ shares
        features += (member @ cells.features(moments, rows)).toarray() + by_batch @ moments.offset
    return {"features": (features / size).astype(np.float32), "links": (links / size).astype(np.float32)}


def linked_shares(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Compute the share of each gene among the expressed genes of each cell, shape (n_cells, n_genes)."""
    counts.eliminate_zeros()
    degree = np.diff(counts.indptr)
    share = np.repeat(1.0 / np.maximum(degree, 1), degree)
    return sp.csr_matrix((share, counts.indices, counts.indptr), shape=counts.shape)
