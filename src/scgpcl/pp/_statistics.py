"""Library sizes and gene statistics in two passes over the counts, whatever their storage."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scgpcl.data import row_blocks


class GeneStatistics(NamedTuple):
    """Moments of every gene over cells, float64, each of shape (n_genes,).

    Parameters
    ----------
    raw_var
        Variance of the counts.
    norm_mean, norm_var
        Mean and variance (ddof 1) of counts over size factors.
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
    return np.concatenate([np.asarray(block.sum(1, dtype=np.float64)).ravel() for block in row_blocks(x)])


def gene_statistics(x: Any, size_factor: np.ndarray, *, scale: float = 1.0) -> GeneStatistics:
    """Moments of every gene.

    Parameters
    ----------
    x
        Counts, shape (n_cells, n_genes).
    size_factor
        Shape (n_cells,).
    scale
        Factor of the counts over size factors before the logarithm.
    """
    n_cells, n_genes = x.shape
    sums = np.zeros((6, n_genes))
    start = 0
    for block in row_blocks(x):
        stop = start + block.shape[0]
        counts = block.data.astype(np.float64)
        norm = counts / np.repeat(size_factor[start:stop], np.diff(block.indptr))
        log = np.log1p(scale * norm)
        for i, values in enumerate((counts, counts**2, norm, norm**2, log, log**2)):
            sums[i] += np.bincount(block.indices, weights=values, minlength=n_genes)
        start = stop
    means = sums / n_cells
    raw_var, norm_var, log_var = (np.maximum(means[i + 1] - means[i] ** 2, 0.0) for i in (0, 2, 4))
    return GeneStatistics(raw_var, means[2], norm_var * n_cells / max(n_cells - 1, 1), means[4], np.sqrt(log_var))
