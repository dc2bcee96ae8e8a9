"""Library sizes and gene statistics in two passes over the counts, whatever their storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scgpcl.data import DataModuleCounts, row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Share of the mean square below which a variance is rounding.
ROUNDING = 1e-12


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
    """Total count of each cell.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes).

    Returns
    -------
    float64, shape (n_cells,).
    """
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
