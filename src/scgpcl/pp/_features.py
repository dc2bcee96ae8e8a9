"""What training measures before its first step: library sizes, genes, and the moments of their features."""

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
#: Library size to which counts are scaled when genes are chosen, as in scanpy's tutorials.
SELECTION_TOTAL = 1e4
#: Numbers of genes, and of their components, on which cells are grouped before ``"discriminant"`` chooses genes.
N_FIRST_GENES, N_FIRST_AXES = 2000, 50


class Features(NamedTuple):
    """What training fixes about genes and cells.

    Mask of the chosen genes (n_vars,), library size of a cell whose size factor is 1, share of each gene in the library
    (n_vars,), mean counts over size factors of the chosen genes, counts of the chosen genes, moments of their features,
    and, with batches, shares of the genes in messages and mean counts over those of all cells (n_batch, n_genes).
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
    """Choose genes and measure their features.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_vars).
    size
        Given size factors, shape (n_cells,); ``None`` counts library sizes.
    n_genes
        Number of genes to choose.
    flavor, gene_scaling, feature_total
        See :class:`scgpcl.SCGPCL`.
    keep
        Mask of genes to choose in any case, at most ``n_genes``, shape (n_vars,).
    batch_index
        Batch of each cell, shape (n_cells,), if there are any: genes are then chosen by their variation within batches.
    label_index
        Type of each labelled cell and -1 for the others, shape (n_cells,), for the cells that are returned.
    n_batch
        Number of batches.
    seed
        Seed of the sample of a large data set, and of the groups of cells within batches.
    """
    library = library_sizes(x)
    size = library if size is None else np.asarray(size, dtype=np.float64)
    unit_size = float(np.median(size))
    size_factor = size / unit_size
    typical = float(np.median(library / size_factor))
    scale = 1.0 if feature_total is None else min(1.0, feature_total / typical)
    statistics = gene_statistics(x, size_factor, scale=scale, batch_index=batch_index)

    def measured(cells: Cells, mask: np.ndarray) -> tuple[Moments, np.ndarray | None, np.ndarray | None]:
        """Moments of the features of some genes, and with batches what differs between them."""
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
