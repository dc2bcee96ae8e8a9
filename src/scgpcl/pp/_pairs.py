"""Test whether two groups of cells differ in cells that were not used to find the difference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.stats import norm, rankdata
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from scgpcl.cluster import gap
from scgpcl.pp._batches import GroupSums, batch_shifts

#: Number of genes used to fit the axes, and minimum number of cells that must express each gene.
N_GENES, MIN_EXPRESSED = 200, 5
#: Strength of the prior that there is no batch effect, in cells. It is large enough to solve for effects that the
#: groups leave undetermined.
PRIOR_CELLS = 1e-3
#: Number of draws of one continuous group.
N_NULL = 50


class PairTest(NamedTuple):
    """Measures of how well two groups can be distinguished in held-out cells.

    Parameters
    ----------
    auc
        Probability that a cell of one group has a larger score than a cell of the other (area under the ROC curve).
    separation
        Distance between the means divided by the standard deviation within groups, relative to the best-separating cut
        through one continuous group.
    p_value
        P-value of the separation if the groups were found in the same counts, otherwise the p-value of a rank test on
        the scores.
    """

    auc: float
    separation: float
    p_value: float


def pair_test(
    x: sp.csr_matrix, side: np.ndarray, *, clustered: bool, rng: np.random.Generator, batch: np.ndarray | None = None
) -> PairTest:
    """Fit axes between two groups on one half of the cells and test them on the other half, and vice versa.

    Genes are chosen by Welch's t in the first half and divided between two linear discriminants (with covariance shrunk
    as in Ledoit and Wolf 2004), so that a gap must be found in both sets of genes. If ``clustered``, the separation in
    the other half is compared with cuts through one continuous group (see :func:`scgpcl.cluster._gap.gap`). Otherwise,
    the groups do not depend on the counts, and the ranks of the summed scores are tested within batches (van Elteren
    1960, or Mann and Whitney 1947 if there are no batches). This test is valid for any scores of other cells. The
    smaller of the two p-values is doubled.

    Parameters
    ----------
    x
        Log-normalised counts, shape (n_cells, n_genes).
    side
        Whether each cell is in the second group, bool, shape (n_cells,). Each half needs at least two cells of each
        group.
    clustered
        Whether the groups were found in these counts.
    rng
        Random number generator for the halves and the draws.
    batch
        Batch of each cell, shape (n_cells,). If given, differences between batches at equal composition are removed
        from the genes in the first half of the cells and from the scores in the second half.
    """
    half = np.zeros(len(side), dtype=bool)
    for group in (~side, side):
        half[rng.permutation(np.flatnonzero(group))[::2]] = True
    gaps, auc, p_rank = [], [], []
    for train in (half, ~half):
        scores = np.stack(held_out_scores(x, side, train, batch), 1)
        own, codes = side[~train], np.zeros((~train).sum(), dtype=np.int64) if batch is None else batch[~train]
        p_rank.append(rank_test(scores.sum(1), own, codes))
        if batch is not None:
            scores = scores - _shifts(sp.csr_matrix(scores), own, codes)[0][codes]
        gaps.append(gap(scores[:, 0], scores[:, 1], own, rng, N_NULL))
        ranks = rankdata(scores.sum(1))[own]
        auc.append((ranks.mean() - (own.sum() + 1) / 2) / (~own).sum())
    observed = np.mean([each.observed for each in gaps])
    null = np.mean([each.null for each in gaps], 0)
    z = (observed - null.mean()) / max(null.std(ddof=1), 1e-9)
    p_value = float(norm.sf(z)) if clustered else min(1.0, 2.0 * min(p_rank))
    return PairTest(float(np.mean(auc)), float(np.exp(observed - null.mean())), p_value)


def held_out_scores(
    x: sp.csr_matrix, side: np.ndarray, train: np.ndarray, batch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Score the cells that are not in ``train`` along two axes that share no genes, each of shape (n_other,)."""
    own, groups = x[train], side[train]
    codes = np.zeros(len(side), dtype=np.int64) if batch is None else batch
    shift, t = _shifts(own, groups, codes[train], int(codes.max()) + 1, known=batch is not None)
    t[own.getnnz(0) < MIN_EXPRESSED] = 0.0
    ranked = np.argsort(-t, kind="stable")[:N_GENES]
    scores = []
    for genes in (np.sort(ranked[::2]), np.sort(ranked[1::2])):
        values = x[:, genes].toarray() - shift[codes][:, genes]
        discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(values[train], groups)
        scores.append(values[~train] @ discriminant.coef_[0])
    return scores[0], scores[1]


def _shifts(
    x: sp.csr_matrix, side: np.ndarray, codes: np.ndarray, n_batch: int = 0, *, known: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the batch effects (n_batch, n) on the columns of ``x`` (n_cells, n), adjusted for the groups.

    Also returns Welch's t (n,) after the batch effects are removed.
    """
    n_batch = n_batch or int(codes.max()) + 1
    cell = codes * 2 + side
    member = sp.csr_matrix((np.ones(len(cell)), (cell, np.arange(len(cell)))), shape=(2 * n_batch, len(cell)))
    n = np.bincount(cell, minlength=2 * n_batch).reshape(n_batch, 2).astype(np.float64)
    total, square = ((member @ each).toarray().reshape(n_batch, 2, -1) for each in (x, x.multiply(x).tocsr()))
    sums = GroupSums(n, total, square)
    shift = batch_shifts(sums, PRIOR_CELLS) if known else np.zeros((n_batch, x.shape[1]))
    in_group = n.sum(0)[:, None]
    mean = (total.sum(0) - n.T @ shift) / in_group
    moved = (square - 2 * shift[:, None] * total + n[:, :, None] * shift[:, None] ** 2).sum(0) / in_group
    error = ((moved - mean**2) / (in_group - 1)).sum(0)
    return shift, np.abs(mean[1] - mean[0]) / np.sqrt(np.maximum(error, 0.0) + 1e-6)


def rank_test(score: np.ndarray, side: np.ndarray, codes: np.ndarray) -> float:
    """Return the p-value for larger scores (n_cells,) in the second group, ranked within batches (van Elteren 1960)."""
    statistic, mean, variance = 0.0, 0.0, 0.0
    for code in np.unique(codes):
        own, here = side[codes == code], score[codes == code]
        n_cells, n_second = len(own), int(own.sum())
        n_first = n_cells - n_second
        statistic += rankdata(here)[own].sum() / (n_cells + 1)
        mean += n_second / 2
        variance += n_first * n_second / 12 / (n_cells + 1)
    return float(norm.sf((statistic - mean) / np.sqrt(variance))) if variance > 0 else 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values (n,) for the number of tests (Holm 1979). NaN is kept and does not count as a test."""
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted
