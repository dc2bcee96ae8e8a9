"""Estimate the moments of each gene in each experimental batch as if all batches had the same composition."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from scgpcl._random import derived_seed
from scgpcl.cluster import kmeans
from scgpcl.data._counts import BLOCK_ROWS
from scgpcl.pp._axes import principal_axes, scores_along
from scgpcl.pp._genes import feature_moments

if TYPE_CHECKING:
    from scgpcl.data import Cells
    from scgpcl.nn import Moments

#: Strength of the prior that there is no batch effect, in pseudo-cells.
PRIOR_CELLS = 10.0
#: Number of groups within which batches are compared, and number of rounds in which groups and batch effects are
#: refitted.
N_GROUPS = 15
GROUP_ROUNDS = 3
#: Number of principal axes used to group cells, and number of k-means restarts.
N_GROUP_AXES = 30
GROUPS_INIT = 5


class BatchMoments(NamedTuple):
    """Statistics of each batch, given as float64 arrays of shape (n_batch, n_genes).

    Parameters
    ----------
    mean, std
        Mean and standard deviation of the log counts, used to standardise the cells of a batch.
    share
        Mean share of each gene among the expressed genes of a cell.
    ratio
        Mean normalised count (count divided by size factor), relative to the mean over all cells.
    """

    mean: np.ndarray
    std: np.ndarray
    share: np.ndarray
    ratio: np.ndarray


class GroupSums(NamedTuple):
    """Sums over the cells in each batch and group.

    Parameters
    ----------
    n
        Number of cells, shape (n_batch, n_groups).
    total, square
        Sums of the values and of their squares, each of shape (n_batch, n_groups, n_genes).
    """

    n: np.ndarray
    total: np.ndarray
    square: np.ndarray


class BatchFit(NamedTuple):
    """Feature moments, gene proportions in messages, and mean counts relative to all cells, (n_batch, n_genes)."""

    moments: Moments
    share: np.ndarray
    ratio: np.ndarray


def fit_batches(cells: Cells, n_batch: int, *, gene_scaling: float, scale: float, seed: int) -> BatchFit:
    """Compute the moments of each batch as if all batches had the same composition.

    The composition is unknown, so the batches are first compared as if their compositions were equal. The cells are
    then grouped by k-means on the principal axes of the corrected features, the batches are compared within the groups,
    and both steps are repeated. As a result, a batch with cell types that are missing from the other batches is not
    shifted towards them.

    Parameters
    ----------
    cells
        Training cells and their batches.
    n_batch
        Number of batches.
    gene_scaling
        See :class:`scgpcl.SCGPCL`.
    scale
        Factor applied to the normalised counts (counts divided by size factors) before taking the logarithm.
    seed
        Random seed for the axes and k-means.
    """
    groups = None
    for turn in range(GROUP_ROUNDS + 1):
        found = batch_moments(cells, n_batch, groups=groups, scale=scale)
        moments = feature_moments(found.mean, found.std, gene_scaling, scale)
        axes = principal_axes(cells, moments, N_GROUP_AXES, seed=derived_seed(seed, 12, turn))
        if turn == GROUP_ROUNDS or axes is None or len(cells) <= N_GROUPS:
            break
        scores = torch.from_numpy(scores_along(cells, moments, axes))
        groups = kmeans(scores, N_GROUPS, n_init=GROUPS_INIT, seed=derived_seed(seed, 13)).labels.numpy()
    return BatchFit(moments, found.share, found.ratio)


def batch_moments(
    cells: Cells,
    n_batch: int,
    *,
    groups: np.ndarray | None = None,
    scale: float = 1.0,
    prior: float = PRIOR_CELLS,
) -> BatchMoments:
    """Estimate the differences between batches that are not explained by their composition.

    Parameters
    ----------
    cells
        Counts of the selected genes, and the batch of each cell.
    n_batch
        Number of batches.
    groups
        Group of each cell, int, shape (n_cells,). Batches are compared within groups. If ``None``, all cells are
        compared, as if all batches had the same composition.
    prior
        Strength of the shrinkage of shifts, variances and ratios, in pseudo-cells.
    """
    if groups is None:
        groups = np.zeros(len(cells), dtype=np.int64)
    log, share, norm = _group_sums(cells, n_batch, groups, scale)
    shift = batch_shifts(log, prior)
    mean, var = batch_variances(log, shift, prior)
    share_shift = batch_shifts(share, prior)
    typical = _unshifted_mean(share, share_shift) + share_shift
    return BatchMoments(mean + shift, np.sqrt(var), typical, batch_ratios(norm, prior))


def batch_shifts(sums: GroupSums, prior: float) -> np.ndarray:
    r"""Estimate the additive effect of each batch on each gene, shape (n_batch, n_genes).

    This is the best linear unbiased prediction in the model :math:`y = a_k + d_b + e`, with a fixed effect for each
    group and a random effect for each batch, :math:`d_b \sim N(0, \sigma^2 / \kappa)`. It solves the mixed model
    equations (Henderson 1975) after the groups have been eliminated:

    .. math:: (\mathrm{diag}(n_{b\cdot}) - N\, \mathrm{diag}(1 / n_{\cdot k})\, N^\top + \kappa I)\, d = r,

    where N counts the cells by batch and group, and r sums the distances of the cells of a batch from the means of
    their groups. Batches are compared only within groups that they share, and a batch that shares no group with the
    others is not moved. With one group and two equal batches of n cells, :math:`d_b` is :math:`n / (n + \kappa)` times
    the distance between the mean of the batch and the mean of all cells. This factor is the empirical Bayes weight of
    ComBat (Johnson, Li and Rabinovic 2007). A batch of n cells next to a very large batch is moved
    :math:`n / (n + \kappa / 2)` of the way to it.

    Parameters
    ----------
    sums
        Sums by batch and group.
    prior
        :math:`\kappa`, in cells.
    """
    in_group = np.maximum(sums.n.sum(0), 1.0)
    expected = sums.total.sum(0) / in_group[:, None]
    distance = sums.total.sum(1) - sums.n @ expected
    information = np.diag(sums.n.sum(1)) - (sums.n / in_group) @ sums.n.T
    return np.linalg.solve(information + prior * np.eye(len(information)), distance)


def batch_variances(sums: GroupSums, shift: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Estimate the mean and variance of each gene after removing the batch shifts.

    The variance of a batch is the variance of all cells times the ratio of two variances at equal composition: the
    variance of the batch and the variance of all cells. In both of them, group k is weighted by
    :math:`h_{bk} = n_{bk} (n_{\cdot k} - n_{bk}) / n_{\cdot k}`, which is its share of the information about the batch
    in :func:`batch_shifts`. Both are moderated by :math:`\kappa` cells that have the variance of all cells (as in Smyth
    2004, equation for the posterior variance), so that a gene that is constant in a small batch does not blow up.

    Parameters
    ----------
    sums
        Sums by batch and group.
    shift
        Result of :func:`batch_shifts`.
    prior
        :math:`\kappa`, in cells.

    Returns
    -------
    Mean, shape (n_genes,), and variance, shape (n_batch, n_genes). The variance is 1 for a gene that does not vary.
    """
    n = sums.n[:, :, None]
    total = sums.total - n * shift[:, None]
    square = sums.square - 2.0 * shift[:, None] * sums.total + n * shift[:, None] ** 2
    n_cells = sums.n.sum()
    mean = _unshifted_mean(sums, shift)
    var = np.maximum(square.sum((0, 1)) / n_cells - mean**2, 0.0)
    in_group = sums.n.sum(0)
    weight = sums.n * (in_group - sums.n) / np.maximum(in_group, 1.0)
    every = (total.sum(0) / np.maximum(in_group, 1.0)[:, None], square.sum(0) / np.maximum(in_group, 1.0)[:, None])
    result = np.empty_like(shift)
    for b, w in enumerate(weight):
        own = tuple(values[b] / np.maximum(sums.n[b], 1.0)[:, None] for values in (total, square))
        information = w.sum()
        w = w / max(information, np.finfo(float).tiny)
        own_var, all_var = (np.maximum(w @ second - (w @ first) ** 2, 0.0) for first, second in (own, every))
        denominator = information * all_var + prior * var
        ratio = (information * own_var + prior * var) / np.where(denominator > 0, denominator, 1.0)
        result[b] = var * ratio
    return mean, np.where(result > 0, result, 1.0)


def _unshifted_mean(sums: GroupSums, shift: np.ndarray) -> np.ndarray:
    """Compute the mean over all cells after removing the batch shifts, shape (n_genes,)."""
    return (sums.total.sum((0, 1)) - sums.n.sum(1) @ shift) / sums.n.sum()


def batch_ratios(sums: GroupSums, prior: float) -> np.ndarray:
    r"""Compute the ratio of observed to expected totals for each gene in each batch, shape (n_batch, n_genes).

    The expected total is the total of a batch in which each cell has the mean of its group (indirect standardisation).
    Both totals are increased by :math:`\kappa` cells with the overall mean, which gives the posterior mean under a
    gamma prior (Clayton and Kaldor 1987).

    Parameters
    ----------
    sums
        Sums of the counts divided by size factors, by batch and group.
    prior
        :math:`\kappa`, in cells.
    """
    expected = sums.n @ (sums.total.sum(0) / np.maximum(sums.n.sum(0), 1.0)[:, None])
    pseudo = prior * sums.total.sum((0, 1)) / sums.n.sum()
    denominator = expected + pseudo
    return np.where(denominator > 0, sums.total.sum(1) + pseudo, 1.0) / np.where(denominator > 0, denominator, 1.0)


def _group_sums(cells: Cells, n_batch: int, groups: np.ndarray, scale: float) -> tuple[GroupSums, GroupSums, GroupSums]:
    """Sum log counts, gene shares among expressed genes, and counts divided by size factors in a single pass."""
    if cells.batch_index is None:
        msg = "Expected counts with the batch of each cell, found none."
        raise ValueError(msg)
    n_groups = int(groups.max()) + 1
    cell = cells.batch_index * n_groups + groups
    n = np.bincount(cell, minlength=n_batch * n_groups).astype(np.float64)
    sums = None
    for start in range(0, len(cells), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(cells)))
        block = cells.rows(rows)
        block.eliminate_zeros()
        degree = np.diff(block.indptr)
        member = sp.csr_matrix((np.ones(len(rows)), (cell[rows], np.arange(len(rows)))), shape=(len(n), len(rows)))
        norm = block.data.astype(np.float64) / np.repeat(cells.size_factor[rows].astype(np.float64), degree)
        log = np.log1p(scale * norm)
        share = 1.0 / np.repeat(degree, degree)
        parts = (log, log**2, share, norm)
        added = [_summed(member, block, values) for values in parts]
        sums = added if sums is None else [a + b for a, b in zip(sums, added, strict=True)]
    if sums is None:
        msg = "Expected at least one cell, found none."
        raise ValueError(msg)
    shaped = [values.reshape(n_batch, n_groups, -1) for values in sums]
    n = n.reshape(n_batch, n_groups)
    nothing = np.empty(0)
    return GroupSums(n, *shaped[:2]), GroupSums(n, shaped[2], nothing), GroupSums(n, shaped[3], nothing)


def _summed(member: sp.csr_matrix, block: sp.csr_matrix, values: np.ndarray) -> np.ndarray:
    matrix = sp.csr_matrix((values, block.indices, block.indptr), shape=block.shape)
    return (member @ matrix).toarray()
