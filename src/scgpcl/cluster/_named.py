"""Named clusters: types for which some cells are labelled, plus new groups of cells that match none of those types."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from scgpcl.nn import shrink_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgpcl.cluster._consensus import Evidence

#: Weight of the partitions relative to each space of unit vectors, and inverse strength of the ridge penalty.
PARTITION_WEIGHT = 3.0
INVERSE_RIDGE = 1.0
MAX_ITERATIONS = 500
#: Target for the mean of the largest support, and the range in which the logarithm of the sharpening power is searched.
CONFIDENCE = 0.95
LOG_POWERS = (0.0, 6.0)
#: Number of folds for estimating the accuracy on cells whose labels are left out.
N_FOLDS = 5
#: A group is new if, for every type, less than this share of the partitions group its cells with the labelled cells.
MAX_CLAIM = 0.2
#: A group is not new if its share of labelled cells is more than this multiple of the share among all cells.
MAX_LABELLED = 0.25
#: Number of additional groups to try if a new group may be hidden within the group of a type.
MORE_GROUPS = 10


class NamedSupport(NamedTuple):
    """Support of each type and new group, the number of new groups, and the accuracy.

    The support is float32 with shape (n_cells, n_types + n_new). The accuracy is estimated on cells whose labels were
    left out, and is NaN if there are too few labels.
    """

    support: Tensor
    n_new: int
    accuracy: float


def named_support(
    evidence: Evidence, spaces: Sequence[Tensor], known: Tensor, n_types: int, n_groups: int, *, n_new: int | None
) -> NamedSupport:
    """Propagate the labels of some cells to all cells, and find groups of cells that no label reaches.

    The model is a multinomial regression on what is known about each cell without labels: its direction in several
    spaces and its memberships in many partitions. As a result, a few labels are propagated along clusters, whereas many
    labels can draw borders inside them. Groups of the consensus that contain hardly any labelled cells, and are hardly
    ever grouped with labelled cells of any type, are added with new names, each with the same weight as a type.

    Parameters
    ----------
    evidence
        Partitions of the cells.
    spaces
        Vectors of the cells, each of shape (n_cells, n).
    known
        Type of each labelled cell, or -1 for the other cells, int64, shape (n_cells,). Every type has labelled cells.
    n_types
        Number of types.
    n_groups
        Number of groups in which to search for new groups. If ``n_new`` is given, it is that of all types and new groups.
    n_new
        Number of new groups. If ``None``, all groups that are hardly ever grouped with labelled cells are used.
    """
    member = evidence.memberships()
    units = [shrink_length(z, 1.0).cpu().numpy() / z.shape[1] ** 0.5 for z in spaces]
    x = np.hstack([*units, PARTITION_WEIGHT * member]).astype(np.float64)
    code = known.cpu().numpy()
    group, new = _new_groups(evidence, member, code, n_types, n_groups, n_new)
    labelled = code >= 0
    weight = labelled.astype(np.float64)
    y = code.copy()
    for rank, each in enumerate(new):
        own = (group == each) & ~labelled
        y[own] = n_types + rank
        weight[own] = labelled.sum() / n_types / own.sum()
    used = weight > 0
    model = LogisticRegression(C=INVERSE_RIDGE, max_iter=MAX_ITERATIONS).fit(x[used], y[used], weight[used])
    support = _sharpened(model.predict_proba(x))
    return NamedSupport(torch.from_numpy(support).float(), len(new), _held_out(x, y, used, weight, support, n_types))


def _sharpened(probability: np.ndarray) -> np.ndarray:
    """Raise probabilities to the power at which their mean maximum equals ``CONFIDENCE``.

    Without sharpening, the probabilities are flat if there are few labels.
    """
    logits = np.log(np.maximum(probability, np.finfo(float).tiny))

    def powered(log_power: float) -> np.ndarray:
        return softmax(np.exp(log_power) * logits, axis=1)

    low, high = LOG_POWERS
    if powered(low).max(1).mean() >= CONFIDENCE:
        return powered(low)
    if powered(high).max(1).mean() <= CONFIDENCE:
        return powered(high)
    return powered(brentq(lambda power: powered(power).max(1).mean() - CONFIDENCE, low, high, xtol=1e-3))


def _held_out(
    x: np.ndarray, y: np.ndarray, used: np.ndarray, weight: np.ndarray, support: np.ndarray, n_types: int
) -> float:
    """Estimate the accuracy on labelled cells whose labels are left out, weighting types by predicted frequency."""
    labelled = np.flatnonzero(used & (y < n_types))
    counts = np.bincount(y[labelled], minlength=n_types)
    if counts.min() < 2 or n_types < 2:
        return float("nan")
    rank = np.empty(len(labelled), dtype=np.int64)
    order = np.argsort(y[labelled], kind="stable")
    rank[order] = np.arange(len(labelled)) - np.repeat(np.cumsum(counts) - counts, counts)
    fold = rank % N_FOLDS
    right = np.zeros(len(labelled))
    for each in range(min(N_FOLDS, int(counts.max()))):
        out = labelled[fold == each]
        rest = used.copy()
        rest[out] = False
        model = LogisticRegression(C=INVERSE_RIDGE, max_iter=MAX_ITERATIONS).fit(x[rest], y[rest], weight[rest])
        right[fold == each] = model.predict(x[out]) == y[out]
    share = np.bincount(support.argmax(1), minlength=support.shape[1])[:n_types]
    by_type = np.bincount(y[labelled], weights=right, minlength=n_types) / counts
    return float(share @ by_type / max(share.sum(), 1))


def _new_groups(
    evidence: Evidence, member: np.ndarray, code: np.ndarray, n_types: int, n_groups: int, n_new: int | None
) -> tuple[np.ndarray, list[int]]:
    """Return the group of each cell (n_cells,) and the new groups, the largest first."""
    n_cells = len(code)
    if n_new == 0:
        return np.zeros(n_cells, dtype=np.int64), []
    types = np.stack([member[code == each].mean(0) for each in range(n_types)])
    least = max(2 - n_types, 0 if n_new is None else n_new)
    first = max(n_groups, n_types)
    last = min(first + MORE_GROUPS, max(first + 1, n_cells // 2))
    best: tuple[float, np.ndarray, list[int]] | None = None
    for k in range(first, last):
        group = evidence.support(k).argmax(1).numpy()
        size, inside = (np.bincount(group[chosen], minlength=k) for chosen in (code < 0, code >= 0))
        mean = np.stack(
            [member[group == each].mean(0) if size[each] else np.zeros_like(member[0]) for each in range(k)]
        )
        claim = np.where(size > 0, (mean @ types.T).max(1), np.inf)
        claim += inside > MAX_LABELLED * (code >= 0).mean() * (size + inside)
        # groups that no type claims, the largest first, and then the others, the least claimed first
        order = np.lexsort((claim, np.where(claim < MAX_CLAIM, -size, 1)))
        chosen = [int(each) for each in order if claim[each] < MAX_CLAIM]
        if n_new is not None or len(chosen) < least:
            chosen = [int(each) for each in order[:least] if np.isfinite(claim[each])]
        worst = float(claim[chosen].max(initial=0.0))
        if best is None or len(chosen) > len(best[2]) or worst < best[0]:
            best = worst, group, sorted(chosen, key=lambda each: (-size[each], each))
        if len(chosen) >= least and worst < MAX_CLAIM:
            break
    assert best is not None
    return best[1], best[2]
