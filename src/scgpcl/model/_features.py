"""What is fixed once from the training data: genes, feature moments and the encoder's start."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA

from scgpcl._random import cpu_generator, derived_seed
from scgpcl.model._inference import GeneFrame
from scgpcl.pp import gene_statistics, library_sizes, select_genes

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
    """
    library = library_sizes(x)
    size = library if size is None else np.asarray(size, dtype=np.float64)
    unit_size = float(np.median(size))
    size_factor = size / unit_size
    typical = float(np.median(library / size_factor))
    scale = 1.0 if feature_total is None else min(1.0, feature_total / typical)
    statistics = gene_statistics(x, size_factor, scale=scale)
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
    """Give the module the moments of its features."""
    module.gene_mean.copy_(torch.from_numpy(features.mean))
    module.gene_std.copy_(torch.from_numpy(features.std))
    module.feature_scale.fill_(features.scale)


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
    rng = np.random.default_rng(derived_seed(seed, 10))
    index = np.arange(len(source))
    if len(index) > MAX_AXES_CELLS:
        index = np.sort(rng.choice(index, MAX_AXES_CELLS, replace=False))
    sparse_part = _sparse_features(module, source, index)
    n_axes = min(N_AXES, module.n_latent, *(n - 1 for n in sparse_part.shape))
    if n_axes < 1:
        return
    pca = PCA(n_axes, svd_solver="arpack", random_state=int(rng.integers(2**31))).fit(sparse_part)
    module.encoder.start_at_axes(
        torch.from_numpy(np.ascontiguousarray(pca.components_, dtype=np.float32)), cpu_generator(seed, 11)
    )


def _sparse_features(module: SCGPCLModule, source: CountSource, index: np.ndarray) -> sp.csr_matrix:
    block = source.rows(index)
    mean, std = module.gene_mean.cpu().numpy(), module.gene_std.cpu().numpy()
    cells = np.repeat(source.size_factor[index], np.diff(block.indptr))
    values = np.log1p(block.data * (module.feature_scale.item() / cells)) / std[block.indices]
    block.data = np.minimum(values, module.clip + (mean / std)[block.indices]).astype(np.float32)
    return block
