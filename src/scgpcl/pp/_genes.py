"""Scores for gene selection and moments of the features, streamed over counts in any storage format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.interpolate import CubicSpline

from scgpcl.data import DataModuleCounts, row_blocks
from scgpcl.data._cells import BLOCK_ROWS, read_rows
from scgpcl.nn import Moments

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Share of the mean square below which a variance is considered a rounding error.
ROUNDING = 1e-12
#: Number of bins of mean expression within which dispersions are compared, as in scanpy.
N_BINS = 20
#: Inverse dispersion of Pearson residuals, as in scanpy, and number of gene totals at which the contribution of zeros
#: is computed.
THETA = 100.0
N_KNOTS = 256
#: Genes found in fewer cells than this are not used to distinguish groups of cells.
MIN_CELLS = 5
#: Number of rows for which residuals are held in memory at a time. Each of their counts takes up ten numbers.
RESIDUAL_ROWS = 512


def feature_moments(mean: np.ndarray, std: np.ndarray, gene_scaling: float, scale: float = 1.0) -> Moments:
    """Compute feature centres and divisors in single precision, shape (n_genes,) or (n_batch, n_genes).

    Each gene is divided by its standard deviation (in its batch) and multiplied by a power of its typical standard
    deviation. A feature therefore has the standard deviation ``std ** (1 - gene_scaling)``, up to a common factor that
    makes the median 1.
    """
    typical = std if std.ndim == 1 else std.mean(0)
    weight = typical ** (1.0 - gene_scaling)
    divisor = std / weight * np.median(weight)
    return Moments(mean.astype(np.float32), divisor.astype(np.float32), float(np.float32(scale)))


class GeneStatistics(NamedTuple):
    """Moments of each gene over cells, given as float64 arrays of shape (n_genes,).

    Parameters
    ----------
    raw_var
        Variance of the counts, computed within batches if there are any.
    norm_mean, norm_var
        Mean and variance (ddof 1) of the normalised counts (counts divided by size factors). The variance is computed
        within batches if there are any.
    log_mean, log_std
        Mean and standard deviation (ddof 0) of the normalised counts after scaling and ``log1p``.
    totals
        Total count of each gene in each batch, shape (n_batch, n_genes). There is a single row if there are no batches.
    """

    raw_var: np.ndarray
    norm_mean: np.ndarray
    norm_var: np.ndarray
    log_mean: np.ndarray
    log_std: np.ndarray
    totals: np.ndarray


def library_sizes(x: Any) -> np.ndarray:
    """Compute the total count of each cell (n_cells,) as float64, given counts (n_cells, n_genes)."""
    if isinstance(x, DataModuleCounts) and x.library is not None:
        return x.library
    return np.concatenate([np.asarray(block.sum(1, dtype=np.float64)).ravel() for block in row_blocks(x)])


def _with_squares(*arrays: np.ndarray) -> Iterator[np.ndarray]:
    """Yield each array and then its squares, one at a time, because a block of a file is already large."""
    for values in arrays:
        yield values
        yield values**2


def gene_statistics(
    x: Any, size_factor: np.ndarray, *, scale: float = 1.0, batch_index: np.ndarray | None = None
) -> GeneStatistics:
    """Compute the moments of each gene.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes).
    size_factor
        Size factor of each cell, shape (n_cells,).
    scale
        Factor applied to the normalised counts (counts divided by size factors) before taking the logarithm.
    batch_index
        Batch of each cell, shape (n_cells,). If given, genes are chosen by their variance within batches, weighted by
        the number of cells, so that no gene is chosen because it differs between batches.
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
    totals = sums[:1]
    # in a constant gene, the remaining difference is a rounding error, which as a variance would blow up the gene
    raw_var, norm_var, log_var = (
        np.where(means[i + 1] - means[i] ** 2 > ROUNDING * means[i + 1], means[i + 1] - means[i] ** 2, 0.0)
        for i in (0, 2, 4)
    )
    if batch_index is not None and n_batch > 1:
        size = np.maximum(np.bincount(batch_index), 1.0)[:, None]
        total = of_batch.reshape(4, n_batch, n_genes)
        totals = total[0]
        raw_var, norm_var = (np.maximum(total[i + 1] - total[i] ** 2 / size, 0.0).sum(0) / n_cells for i in (0, 2))
    norm_var = norm_var * n_cells / max(n_cells - n_batch, 1)
    return GeneStatistics(raw_var, means[2], norm_var, means[4], np.sqrt(log_var), totals)


def select_genes(
    statistics: GeneStatistics,
    n_top_genes: int,
    *,
    flavor: Literal["seurat", "variance"] = "seurat",
    scale: float = 1.0,
) -> np.ndarray:
    """Choose the most variable genes.

    Parameters
    ----------
    statistics
        Moments of all genes.
    n_top_genes
        Number of genes to choose.
    flavor
        ``"seurat"``: normalised dispersion as in ``scanpy.pp.highly_variable_genes(flavor="seurat")`` on log-normalised
        counts, computed from streamed moments without creating a normalised matrix. ``"variance"``: variance of the raw
        counts, as in the paper.
    scale
        Factor that converts the normalised counts of ``statistics`` to the scale on which the dispersion is measured,
        such as counts per 10,000. The bins of the mean, and therefore the chosen genes, depend on it.

    Returns
    -------
    Mask of shape (n_genes,) with ``n_top_genes`` true entries. Ties go to the earlier gene.
    """
    return top(variability(statistics, flavor, scale), n_top_genes)


def variability(statistics: GeneStatistics, flavor: str, scale: float) -> np.ndarray:
    """Score each gene by ``flavor``, shape (n_genes,). See :func:`select_genes`."""
    if flavor == "seurat":
        return seurat_dispersion(scale * statistics.norm_mean, scale**2 * statistics.norm_var)
    return statistics.raw_var


def top(score: np.ndarray, n_top_genes: int) -> np.ndarray:
    """Return a mask (n_genes,) of the genes with the largest scores. NaN is last, and ties go to the earlier gene."""
    mask = np.zeros(len(score), dtype=bool)
    mask[np.argsort(-np.where(np.isnan(score), -np.inf, score), kind="stable")[:n_top_genes]] = True
    return mask


def pearson_residual_variance(
    x: Any, library: np.ndarray, totals: np.ndarray, batch_index: np.ndarray | None = None, *, theta: float = THETA
) -> np.ndarray:
    r"""Compute the variance of the Pearson residuals of each gene (Lause, Berens and Kobak 2021) in a single pass.

    A gene whose counts are explained by a constant share of the library has a variance of about 1, whatever its mean.
    For a cell with library size :math:`n_i` and a gene with total count :math:`t_j`, the expected count is
    :math:`\mu_{ij} = n_i t_j / \sum_j t_j`. The residual is :math:`(x - \mu) / \sqrt{\mu + \mu^2 / \theta}`, clipped at
    the square root of the number of cells. Zero counts, which are nearly all entries of a sparse matrix, contribute
    through two smooth functions of :math:`t_j` alone. These functions are computed at some totals and interpolated
    between them. If there are so few cells that a zero can be clipped, they are computed at all totals.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes).
    library
        Total count of each cell, shape (n_cells,).
    totals
        Total count of each gene in each batch, shape (n_batch, n_genes).
    batch_index
        Batch of each cell, shape (n_cells,). If given, the variance is computed within batches and weighted by their
        numbers of cells.
    theta
        Expected inverse dispersion of the counts.

    Returns
    -------
    Variance of each gene, shape (n_genes,), which is 0 for a gene without counts. For one batch, it is the same as in
    ``scanpy.experimental.pp.highly_variable_genes``.
    """
    n_batch, n_genes = totals.shape
    batch = np.zeros(len(library), dtype=np.int64) if batch_index is None else batch_index
    size = np.bincount(batch, minlength=n_batch).astype(np.float64)
    clip = np.sqrt(size)
    share = totals / np.maximum(totals.sum(1, keepdims=True), 1.0)
    sums = np.zeros((2, n_batch * n_genes))
    start = 0
    for block in row_blocks(x, n_rows=RESIDUAL_ROWS):
        stop = start + block.shape[0]
        cell = np.repeat(np.arange(start, stop), np.diff(block.indptr))
        at, genes = batch[cell], block.indices
        mean = library[cell] * share[at, genes]
        mean = np.where(mean > 0, mean, 1.0)  # a stored zero of a gene without counts
        scale = np.sqrt(mean + mean**2 / theta)
        residual = np.clip((block.data - mean) / scale, -clip[at], clip[at])
        of_zero = np.maximum(-mean / scale, -clip[at])
        for moment in (0, 1):
            values = residual ** (moment + 1) - of_zero ** (moment + 1)
            sums[moment] += np.bincount(at * n_genes + genes, weights=values, minlength=n_batch * n_genes)
        start = stop
    first, second = sums.reshape(2, n_batch, n_genes)
    variance = np.zeros(n_genes)
    for b in np.flatnonzero(totals.sum(1) > 0):
        known = share[b] > 0
        zeros = _sums_of_zeros(library[batch == b], share[b, known], theta, clip[b])
        mean = (first[b, known] + zeros[0]) / size[b]
        variance[known] += size[b] * ((second[b, known] + zeros[1]) / size[b] - mean**2)
    return variance / len(library)


def _sums_of_zeros(library: np.ndarray, share: np.ndarray, theta: float, clip: float) -> np.ndarray:
    """Sum the residuals of zero counts and their squares over cells for genes of given shares, shape (2, n_genes)."""
    clipped = clip**2 < theta  # no residual of a zero is below the negative root of theta
    if clipped:
        at, of_gene = np.unique(np.log(share), return_inverse=True)
    else:
        at = np.linspace(np.log(share.min()) - 1e-6, np.log(share.max()) + 1e-6, N_KNOTS)
    knots = np.empty((2, len(at)))
    for i, value in enumerate(at):
        mean = library * np.exp(value)
        residual = np.maximum(-np.sqrt(mean / (1.0 + mean / theta)), -clip)
        knots[:, i] = residual.sum(), (residual**2).sum()
    return knots[:, of_gene] if clipped else CubicSpline(at, knots, axis=1)(np.log(share))


def seurat_dispersion(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Compute the dispersion standardised within bins of the mean (Satija et al. 2015), as in scanpy.

    Parameters
    ----------
    mean, var
        Mean and variance of the normalised counts, shape (n_genes,).

    Returns
    -------
    Standardised dispersion, shape (n_genes,), which is NaN for genes without variance.
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


def variance_ratio(
    x: Any,
    size_factor: np.ndarray,
    index: np.ndarray,
    groups: np.ndarray,
    *,
    scale: float = 1.0,
    batch_index: np.ndarray | None = None,
) -> np.ndarray:
    r"""Compute the ratio of the variance between groups of cells to the variance within them, for each gene.

    This is the F statistic up to a constant.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes).
    size_factor
        Size factor of each cell, shape (n_cells,).
    index
        Positions of the cells to measure, ascending, shape (n_some,).
    groups
        Group of each measured cell, shape (n_some,).
    scale
        Factor applied to the normalised counts (counts divided by size factors) before taking the logarithm.
    batch_index
        Batch of each cell, shape (n_cells,). If given, the mean of a group is compared with the mean of its batches, so
        that no gene is chosen because it differs between batches.

    Returns
    -------
    Variance ratios of the log counts, float64, shape (n_genes,). The ratio is 0 for a gene found in fewer than five of
    the cells.
    """
    n_cells, n_genes = len(index), x.shape[1]
    batch = np.zeros(n_cells, dtype=np.int64) if batch_index is None else batch_index[index]
    n_groups, n_batch = int(groups.max()) + 1, int(batch.max()) + 1
    of_group, of_batch = np.zeros((n_groups, n_genes)), np.zeros((n_batch, n_genes))
    square, found = np.zeros(n_genes), np.zeros(n_genes)
    start = 0
    for block in rows_of(x, index):
        rows = np.arange(start, start + block.shape[0])
        degree = np.diff(block.indptr)
        log = np.log1p(block.data * np.repeat(scale / size_factor[index[rows]], degree))
        values = sp.csr_matrix((log, block.indices, block.indptr), shape=block.shape)
        for sums, group in ((of_group, groups[rows]), (of_batch, batch[rows])):
            member = sp.csr_matrix((np.ones(len(rows)), (group, np.arange(len(rows)))), (len(sums), len(rows)))
            sums += (member @ values).toarray()
        square += np.bincount(block.indices, weights=log**2, minlength=n_genes)
        found += np.bincount(block.indices, weights=log > 0, minlength=n_genes)
        start += block.shape[0]
    in_batch = np.maximum(np.bincount(batch, minlength=n_batch), 1.0)
    together = np.zeros((n_groups, n_batch))
    np.add.at(together, (groups, batch), 1.0)
    mean = of_batch / in_batch[:, None]
    difference = of_group - together @ mean
    between = (difference**2 / np.maximum(together.sum(1), 1.0)[:, None]).sum(0)
    total = square - (in_batch[:, None] * mean**2).sum(0)
    within = np.maximum(total - between, ROUNDING * np.maximum(square, 1.0))
    return np.where(found >= MIN_CELLS, between / within, 0.0)


def rows_of(x: Any, index: np.ndarray) -> Iterator[sp.csr_matrix]:
    """Yield the rows of counts at ascending positions in blocks."""
    if isinstance(x, DataModuleCounts):
        start = 0
        for block in row_blocks(x):
            yield block[index[(index >= start) & (index < start + block.shape[0])] - start]
            start += block.shape[0]
        return
    for start in range(0, len(index), BLOCK_ROWS):
        yield read_rows(x, index[start : start + BLOCK_ROWS])
