"""What is fixed once from the training data: genes, feature moments and the encoder's start."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.decomposition import PCA

from scgpcl._random import cpu_generator, derived_seed
from scgpcl.cluster import kmeans
from scgpcl.model._inference import GeneFrame
from scgpcl.pp import batch_moments, gene_statistics, library_sizes, select_genes

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

    from scgpcl.data import CountSource
    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import GeneFlavor

logger = logging.getLogger(__name__)

#: Cells that the principal axes are computed from; more are sampled.
MAX_AXES_CELLS = 20_000
#: Library size to which counts are scaled where genes are chosen, as in scanpy's tutorials.
SELECTION_TOTAL = 1e4
#: Principal axes that the encoder starts at.
N_AXES = 50
#: Groups within which batches are compared, how often both are found anew, and principal axes that cells are grouped on.
N_GROUPS = 15
GROUP_ROUNDS = 3
N_GROUP_AXES = 30
GROUPS_INIT = 5


class Features(NamedTuple):
    """Gene reference, size factors, and moments of the selected genes, and the factor before the logarithm."""

    frame: GeneFrame
    size_factor: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    gene_mean: np.ndarray
    scale: float


def n_selected(n_top_genes: float | None, n_vars: int) -> int:
    """Number of genes that a model of ``n_vars`` genes uses.

    Parameters
    ----------
    n_top_genes
        A number of genes, a share of them (a float up to 1), or ``None`` for all.
    n_vars
        Number of registered genes.
    """
    if n_top_genes is None:
        return n_vars
    if isinstance(n_top_genes, float) and n_top_genes <= 1:
        return max(2, round(n_top_genes * n_vars))
    return min(int(n_top_genes), n_vars)


def fit_features(
    x: Any,
    var_names: pd.Index,
    *,
    size: np.ndarray | None,
    n_genes: int,
    flavor: GeneFlavor,
    feature_total: float | None,
    batch_index: np.ndarray | None = None,
) -> Features:
    """Choose genes and measure the features in two passes over the counts.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_vars).
    var_names
        Names of the genes.
    size
        Given size factors, shape (n_cells,); ``None`` counts library sizes.
    n_genes
        Number of genes to choose.
    flavor
        See :func:`scgpcl.pp.select_genes`.
    feature_total
        Largest typical library size before the logarithm, see :class:`scgpcl.SCGPCL`.
    batch_index
        Batch of each cell, shape (n_cells,), if there are any: genes are then chosen by what varies within batches.
    """
    library = library_sizes(x)
    size = library if size is None else np.asarray(size, dtype=np.float64)
    unit_size = float(np.median(size))
    size_factor = size / unit_size
    typical = float(np.median(library / size_factor))
    scale = 1.0 if feature_total is None else min(1.0, feature_total / typical)
    statistics = gene_statistics(x, size_factor, scale=scale, batch_index=batch_index)
    mask = np.ones(len(var_names), dtype=bool)
    if n_genes < len(var_names):
        mask = select_genes(statistics, n_genes, flavor=flavor, scale=SELECTION_TOTAL / typical)
        logger.info("Using %d of %d genes, chosen by %r.", n_genes, len(var_names), flavor)
    std = statistics.log_std[mask]
    shares = statistics.norm_mean / statistics.norm_mean.sum()
    frame = GeneFrame(var_names.copy(), var_names[mask], unit_size, shares)
    std = np.where(std > 0, std, 1.0)
    return Features(frame, size_factor, statistics.log_mean[mask], std, statistics.norm_mean[mask], scale)


def set_features(module: SCGPCLModule, features: Features) -> None:
    """Give the module the moments of its features, the same in all batches."""
    module.feature_scale.fill_(features.scale)
    module.gene_mean.copy_(torch.from_numpy(features.mean))
    module.gene_std.copy_(torch.from_numpy(features.std))


def start_at_pca(module: SCGPCLModule, source: CountSource, *, seed: int) -> None:
    """Start the encoder at the leading principal axes of the features.

    The features are sparse up to one constant per gene, which centring removes, so PCA sees the sparse part only.

    Parameters
    ----------
    module
        Module whose feature moments are set.
    source
        Counts of the training cells.
    seed
        Seed of the sample, the solver and the rotation.
    """
    axes = _principal_axes(module, source, min(N_AXES, module.n_latent), seed=derived_seed(seed, 10))
    if axes is not None:
        module.encoder.start_at_axes(axes, cpu_generator(seed, 11))


def _principal_axes(module: SCGPCLModule, source: CountSource, n_axes: int, *, seed: int) -> torch.Tensor | None:
    """Leading principal axes of the features of at most ``MAX_AXES_CELLS`` cells, shape (n_axes, n_genes)."""
    rng = np.random.default_rng(seed)
    index = np.arange(len(source))
    if len(index) > MAX_AXES_CELLS:
        index = np.sort(rng.choice(index, MAX_AXES_CELLS, replace=False))
    axes = fit_axes(sparse_features(module, source, index), feature_offset(module), source, index, n_axes, rng)
    return None if axes is None else torch.from_numpy(axes)


def fit_axes(
    sparse_part: sp.csr_matrix,
    offset: np.ndarray,
    source: CountSource,
    index: np.ndarray,
    n_axes: int,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Principal axes of features given as sparse part and offset, float32, shape (at most n_axes, n_genes)."""
    n_axes = min(n_axes, *(n - 1 for n in sparse_part.shape))
    if n_axes < 1 or not _varies(sparse_part):
        return None
    if source.batch_index is None:
        axes = PCA(n_axes, svd_solver="arpack", random_state=int(rng.integers(2**31))).fit(sparse_part).components_
    else:
        centred = _centred(sparse_part, offset, source.batch_index[index])
        axes = svds(centred, n_axes, v0=rng.uniform(-1.0, 1.0, min(centred.shape)))[2][::-1]
    return np.array(axes, dtype=np.float32)


def _varies(x: sp.csr_matrix) -> bool:
    """Whether any column of a matrix has more than one value, up to rounding."""
    x = x.astype(np.float64)
    mean, square = (np.asarray(values.mean(0)).ravel() for values in (x, x.multiply(x)))
    return bool((square - mean**2 > 1e-10 * square).any())


def feature_offset(module: SCGPCLModule) -> np.ndarray:
    """Feature of a zero count, shape (n_genes,) or (n_batch, n_genes)."""
    return -(module.gene_mean / module.gene_std).cpu().numpy()


def _centred(sparse_part: sp.csr_matrix, offset: np.ndarray, batch_index: np.ndarray) -> LinearOperator:
    """Features of shape (n_cells, n_genes) less their means, as a product that never makes them dense."""
    n_batch = len(offset)
    size = np.bincount(batch_index, minlength=n_batch)
    n_cells = len(batch_index)
    mean = (np.asarray(sparse_part.sum(0)).ravel() + size @ offset) / n_cells
    turned = sparse_part.T.tocsr()

    def product(v: np.ndarray) -> np.ndarray:
        v = v.ravel()
        return sparse_part @ v + (offset @ v)[batch_index] - mean @ v

    def transposed(u: np.ndarray) -> np.ndarray:
        u = u.ravel()
        return turned @ u + np.bincount(batch_index, weights=u, minlength=n_batch) @ offset - mean * u.sum()

    return LinearOperator(sparse_part.shape, matvec=product, rmatvec=transposed, dtype=np.float64)


def fit_batches(module: SCGPCLModule, source: CountSource, *, seed: int) -> torch.Tensor:
    """Let the module standardise every batch by its own moments at equal composition of the batches.

    The composition is not known. At first the batches are compared as if they were composed alike; then the cells are
    grouped by k-means on the principal axes of the features so corrected, the batches are compared within the groups, and
    so on. A batch with types of cells that others lack is thus not pulled onto others.

    Parameters
    ----------
    module
        Module whose feature moments are set.
    source
        Counts of the training cells with their batches.
    seed
        Seed of the axes and of k-means.

    Returns
    -------
    Mean counts of each batch over those of all, shape (n_batch, n_genes).
    """
    groups = None
    for turn in range(GROUP_ROUNDS + 1):
        scale = module.feature_scale.item()
        moments = batch_moments(source, module.n_batch, groups=groups, scale=scale)
        for buffer, values in (
            (module.gene_mean, moments.mean), (module.gene_std, moments.std), (module.link_share, moments.share),
        ):  # fmt: skip
            cast("torch.Tensor", buffer).copy_(torch.from_numpy(values))
        axes = _principal_axes(module, source, N_GROUP_AXES, seed=derived_seed(seed, 12, turn))
        if turn == GROUP_ROUNDS or axes is None or len(source) <= N_GROUPS:
            break
        scores = scores_along(module, source, axes.numpy())
        groups = kmeans(
            torch.from_numpy(scores), N_GROUPS, n_init=GROUPS_INIT, seed=derived_seed(seed, 13)
        ).labels.numpy()
    return torch.from_numpy(moments.ratio).float()


def scores_along(
    module: SCGPCLModule, source: CountSource, axes: np.ndarray, weight: np.ndarray | float = 1.0
) -> np.ndarray:
    """Weighted features of all cells along axes, up to one constant per axis, float32, shape (n_cells, n_axes)."""
    turned = (weight * axes).T.astype(np.float64)
    offset = feature_offset(module) @ turned
    parts = []
    for start in range(0, len(source), MAX_AXES_CELLS):
        index = np.arange(start, min(start + MAX_AXES_CELLS, len(source)))
        own = sparse_features(module, source, index) @ turned
        parts.append(own if source.batch_index is None else own + offset[source.batch_index[index]])
    return np.concatenate(parts).astype(np.float32)


def sparse_features(module: SCGPCLModule, source: CountSource, index: np.ndarray) -> sp.csr_matrix:
    """Features of some cells less those of a zero count, as sparse as the counts, shape (n_wanted, n_genes)."""
    block = source.rows(index)
    mean, std = module.gene_mean.cpu().numpy(), module.gene_std.cpu().numpy()
    cells = np.repeat(source.size_factor[index], np.diff(block.indptr))
    at: tuple[np.ndarray, ...] = (block.indices,)
    if source.batch_index is not None:
        at = (np.repeat(source.batch_index[index], np.diff(block.indptr)), block.indices)
    values = np.log1p(block.data * (module.feature_scale.item() / cells)) / std[at]
    block.data = np.minimum(values, module.clip + (mean / std)[at]).astype(np.float32)
    return block
