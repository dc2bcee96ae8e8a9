"""Which genes a model uses, and the moments of their features, in two passes over counts of any storage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from scgpcl.data import DataModuleCounts, row_blocks
from scgpcl.nn import Moments

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

GeneFlavor = Literal["seurat", "variance"]
#: Share of the mean square below which a variance is rounding.
ROUNDING = 1e-12
#: Bins of mean expression within which dispersions are compared, as in scanpy.
N_BINS = 20
#: Library size to which counts are scaled where genes are chosen, as in scanpy's tutorials.
SELECTION_TOTAL = 1e4


class Features(NamedTuple):
    """What training fixes about genes and cells.

    Mask of the chosen genes (n_vars,), library size of a cell whose size factor is 1, size factors (n_cells,), share of
    each gene in the library (n_vars,), moments of the features and mean counts over size factors of the chosen genes.
    """

    mask: np.ndarray
    unit_size: float
    size_factor: np.ndarray
    shares: np.ndarray
    moments: Moments
    gene_mean: np.ndarray


def rounded_moments(mean: np.ndarray, std: np.ndarray, scale: float) -> Moments:
    """Moments in the single precision in which the network computes."""
    return Moments(mean.astype(np.float32), std.astype(np.float32), float(np.float32(scale)))


def fit_features(
    x: Any,
    *,
    size: np.ndarray | None,
    n_genes: int,
    flavor: GeneFlavor,
    feature_total: float | None,
    batch_index: np.ndarray | None = None,
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
    flavor
        See :func:`select_genes`.
    feature_total
        Largest typical library size before the logarithm, see :class:`scgpcl.SCGPCL`.
    batch_index
        Batch of each cell, shape (n_cells,), if there are any: genes are then chosen by their variation within batches.
    """
    library = library_sizes(x)
    size = library if size is None else np.asarray(size, dtype=np.float64)
    unit_size = float(np.median(size))
    size_factor = size / unit_size
    typical = float(np.median(library / size_factor))
    scale = 1.0 if feature_total is None else min(1.0, feature_total / typical)
    statistics = gene_statistics(x, size_factor, scale=scale, batch_index=batch_index)
    mask = np.ones(x.shape[1], dtype=bool)
    if n_genes < len(mask):
        mask = select_genes(statistics, n_genes, flavor=flavor, scale=SELECTION_TOTAL / typical)
        logger.info("Using %d of %d genes, chosen by %r.", n_genes, len(mask), flavor)
    std = statistics.log_std[mask]
    std = np.where(std > 0, std, 1.0)
    shares = statistics.norm_mean / statistics.norm_mean.sum()
    moments = rounded_moments(statistics.log_mean[mask], std, scale)
    return Features(mask, unit_size, size_factor, shares, moments, statistics.norm_mean[mask])


class GeneStatistics(NamedTuple):
    """Moments of every gene over cells, float64, each of shape (n_genes,).

    Parameters
    ----------
    raw_var
        Variance of the counts; with batches, within them.
    norm_mean, norm_var
        Mean and variance (ddof 1) of counts over size factors; with batches, the variance within them.
    log_mean, log_std
        Mean and standard deviation (ddof 0) of ``log1p`` of scaled counts over size factors.
    """

    raw_var: np.ndarray
    norm_mean: np.ndarray
    norm_var: np.ndarray
    log_mean: np.ndarray
    log_std: np.ndarray


def library_sizes(x: Any) -> np.ndarray:
    """Total count of each cell of counts (n_cells, n_genes), float64, shape (n_cells,)."""
    if isinstance(x, DataModuleCounts) and x.library is not None:
        return x.library
    return np.concatenate([np.asarray(block.sum(1, dtype=np.float64)).ravel() for block in row_blocks(x)])


def _with_squares(*arrays: np.ndarray) -> Iterator[np.ndarray]:
    """Each array and its squares, one after the other: a block of a file is large enough without all at once."""
    for values in arrays:
        yield values
        yield values**2


def gene_statistics(
    x: Any, size_factor: np.ndarray, *, scale: float = 1.0, batch_index: np.ndarray | None = None
) -> GeneStatistics:
    """Moments of every gene.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes).
    size_factor
        Shape (n_cells,).
    scale
        Factor of the counts over size factors before the logarithm.
    batch_index
        Batch of each cell, shape (n_cells,). With it the variances by which genes are chosen are those within batches,
        weighted by their cells, so that no gene is chosen for a difference between batches.
    """
    n_cells, n_genes = x.shape
    n_batch = 1 if batch_index is None else int(batch_index.max()) + 1
    sums = np.zeros((6, n_genes))
    of_batch = np.zeros((4 if n_batch > 1 else 0, n_batch * n_genes))
    start = 0
    for block in row_blocks(x):
        stop = start + block.shape[0]
        counts = block.data.astype(np.float64)
        norm = counts / np.repeat(size_factor[start:stop], np.diff(block.indptr))
        log = np.log1p(scale * norm)
        for i, values in enumerate(_with_squares(counts, norm, log)):
            sums[i] += np.bincount(block.indices, weights=values, minlength=n_genes)
        if batch_index is not None and n_batch > 1:
            at = np.repeat(batch_index[start:stop] * n_genes, np.diff(block.indptr)) + block.indices
            for i, values in enumerate(_with_squares(counts, norm)):
                of_batch[i] += np.bincount(at, weights=values, minlength=n_batch * n_genes)
        start = stop
    means = sums / n_cells
    # what is left of the difference in a constant gene is rounding; as a variance it would blow the gene up
    raw_var, norm_var, log_var = (
        np.where(means[i + 1] - means[i] ** 2 > ROUNDING * means[i + 1], means[i + 1] - means[i] ** 2, 0.0)
        for i in (0, 2, 4)
    )
    if batch_index is not None and n_batch > 1:
        size = np.maximum(np.bincount(batch_index), 1.0)[:, None]
        total = of_batch.reshape(4, n_batch, n_genes)
        raw_var, norm_var = (np.maximum(total[i + 1] - total[i] ** 2 / size, 0.0).sum(0) / n_cells for i in (0, 2))
    norm_var = norm_var * n_cells / max(n_cells - n_batch, 1)
    return GeneStatistics(raw_var, means[2], norm_var, means[4], np.sqrt(log_var))


def select_genes(
    statistics: GeneStatistics, n_top_genes: int, *, flavor: GeneFlavor = "seurat", scale: float = 1.0
) -> np.ndarray:
    """Choose the most variable genes.

    Parameters
    ----------
    statistics
        Moments of all genes.
    n_top_genes
        How many to choose.
    flavor
        ``"seurat"``: normalised dispersion as in ``scanpy.pp.highly_variable_genes(flavor="seurat")`` on
        log-normalised counts, computed from streamed moments so that no normalised matrix is made.
        ``"variance"``: variance of the raw counts (the paper's).
    scale
        Factor from the normalised counts of ``statistics`` to those whose dispersion is measured, such as counts per
        10,000: the bins of the mean, and so the choice, depend on it.

    Returns
    -------
    Mask of shape (n_genes,) with ``n_top_genes`` true entries; ties go to the earlier gene.
    """
    if flavor == "seurat":
        score = seurat_dispersion(scale * statistics.norm_mean, scale**2 * statistics.norm_var)
    else:
        score = statistics.raw_var
    score = np.where(np.isnan(score), -np.inf, score)
    mask = np.zeros(len(score), dtype=bool)
    mask[np.argsort(-score, kind="stable")[:n_top_genes]] = True
    return mask


def seurat_dispersion(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Dispersion standardised within bins of the mean (Satija et al. 2015), as scanpy computes it.

    Parameters
    ----------
    mean, var
        Moments of normalised counts, shape (n_genes,).

    Returns
    -------
    Shape (n_genes,), NaN for genes without variance.
    """
    safe_mean = np.where(mean == 0, 1e-12, mean)
    dispersion = var / safe_mean
    with np.errstate(divide="ignore"):
        dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
    frame = pd.DataFrame({"bin": pd.cut(np.log1p(safe_mean), bins=N_BINS), "dispersion": dispersion})
    groups = frame.groupby("bin", observed=True)["dispersion"]
    center, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()  # a gene alone in its bin is its own scale and counts as average plus one
    spread = spread.where(~alone, center)
    center = center.where(~alone, 0.0)
    return ((frame["dispersion"] - center) / spread).to_numpy()
