"""Compute library sizes, choose genes, and compute the moments of their features before the first training step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from scgpcl.data import Cells
from scgpcl.pp._axes import fine_groups, principal_axes, sampled, scores_along
from scgpcl.pp._batches import fit_batches
from scgpcl.pp._genes import (
    feature_moments,
    gene_statistics,
    library_sizes,
    pearson_residual_variance,
    rows_of,
    top,
    variability,
    variance_ratio,
)

if TYPE_CHECKING:
    from scgpcl.nn import Moments

logger = logging.getLogger(__name__)

GeneFlavor = Literal["discriminant", "pearson_residuals", "seurat", "variance"]
#: Library size to which counts are scaled for gene selection, as in the scanpy tutorials.
SELECTION_TOTAL = 1e4
#: Number of genes and number of principal components used to group cells before ``"discriminant"`` chooses genes.
N_FIRST_GENES, N_FIRST_AXES = 2000, 50


class Features(NamedTuple):
    """Properties of genes and cells that are fixed in training.

    The fields are the mask of the chosen genes (n_vars,), the library size of a cell with size factor 1, the share of
    each gene in the library (n_vars,), the mean of the chosen genes' counts divided by size factors, the counts of the
    chosen genes, and the moments of their features. If there are batches, they also include the gene proportions in
    messages and the mean counts relative to all cells, each of shape (n_batch, n_genes).
    """

    mask: np.ndarray
    unit_size: float
    shares: np.ndarray
    gene_mean: np.ndarray
    cells: Cells
    moments: Moments
    batch_share: np.ndarray | None
    batch_ratio: np.ndarray | None


def fit_features(
    x: Any,
    *,
    size: np.ndarray | None,
    n_genes: int,
    flavor: GeneFlavor,
    gene_scaling: float,
    feature_total: float | None = None,
    keep: np.ndarray | None = None,
    batch_index: np.ndarray | None = None,
    label_index: np.ndarray | None = None,
    n_batch: int = 1,
    seed: int = 0,
) -> Features:
    """Choose genes and compute the moments of their features.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_vars).
    size
        Size factors, shape (n_cells,). If ``None``, the library sizes are used.
    n_genes
        Number of genes to choose.
    flavor, gene_scaling, feature_total
        See :class:`scgpcl.SCGPCL`.
    keep
        Mask of genes that are always chosen, at most ``n_genes``, shape (n_vars,).
    batch_index
        Batch of each cell, shape (n_cells,). If given, genes are chosen by their variation within batches.
    label_index
        Type of each labelled cell, or -1 for the other cells, shape (n_cells,). It is stored in the returned cells.
    n_batch
        Number of batches.
    seed
        Random seed for sampling large data sets and for grouping cells within batches.
    """
    library = library_sizes(x)
    size = library if size is None else np.asarray(size, dtype=np.float64)
    unit_size = float(np.median(size))
    size_factor = size / unit_size
    typical = float(np.median(library / size_factor))
    scale = 1.0 if feature_total is None else min(1.0, feature_total / typical)
    statistics = gene_statistics(x, size_factor, scale=scale, batch_index=batch_index)

    def measured(cells: Cells, mask: np.ndarray) -> tuple[Moments, np.ndarray | None, np.ndarray | None]:
        """Return the feature moments of some genes and, if there are batches, the differences between them."""
        if cells.batch_index is not None:
            return fit_batches(cells, n_batch, gene_scaling=gene_scaling, scale=scale, seed=seed)
        std = statistics.log_std[mask]
        return feature_moments(statistics.log_mean[mask], np.where(std > 0, std, 1.0), gene_scaling, scale), None, None

    mask = np.ones(x.shape[1], dtype=bool)
    if n_genes < len(mask):
        if flavor in ("seurat", "variance"):
            score = variability(statistics, flavor, SELECTION_TOTAL / typical)
        else:
            score = pearson_residual_variance(x, library, statistics.totals, batch_index)
        if flavor == "discriminant":
            index = sampled(len(library), seed=seed)
            first = top(score, max(n_genes, N_FIRST_GENES))
            counts = sp.vstack([block[:, first] for block in rows_of(x, index)], format="csr")
            known = None if batch_index is None else batch_index[index]
            some = Cells(counts, size_factor[index], batch_index=known)
            moments = measured(some, first)[0]
            axes = principal_axes(some, moments, N_FIRST_AXES, seed=seed)
            if axes is not None:
                groups = fine_groups(scores_along(some, moments, axes))
                score = variance_ratio(x, size_factor, index, groups, scale=scale, batch_index=batch_index)
        mask = top(score if keep is None else np.where(keep, np.inf, score), n_genes)
        logger.info("Using %d of %d genes, chosen by %r.", mask.sum(), len(mask), flavor)
    cells = Cells(x, size_factor, np.flatnonzero(mask), batch_index=batch_index, label_index=label_index)
    moments, batch_share, batch_ratio = measured(cells, mask)
    shares = statistics.norm_mean / statistics.norm_mean.sum()
    return Features(mask, unit_size, shares, statistics.norm_mean[mask], cells, moments, batch_share, batch_ratio)
