"""An estimate of the number of clusters."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import cut_tree, ward
from torch import Tensor
from torch.nn.functional import one_hot

from scgpcl._process import held
from scgpcl._rules import check
from scgpcl.cluster._kmeans import kmeans, nearest
from scgpcl.cluster._scores import adjusted_rand, cosine_silhouette
from scgpcl.nn import shrink_length

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Maximum number of cells used for the estimate; larger data sets are sampled.
MAX_CELLS = 3000
#: Number of sub-samples that are clustered, and the share of the cells in each.
N_SUBSAMPLES = 10
SHARE = 0.8
#: Range of numbers that are tried by default, as far as there are enough cells.
K_MIN, K_MAX = 2, 30
#: Minimum stability of the weakest cluster for a number to count as stable.
STABLE = 0.8
#: Power by which lengths are reduced, which leaves the square root of each length.
POWER = 0.5
#: Relative difference below which two numbers are equally good.
CLOSE = 0.01
#: Maximum number of runners-up that are named.
MAX_RUNNERS_UP = 3


class NClusters(NamedTuple):
    """Estimated number of clusters, and the curve that it is based on.

    Parameters
    ----------
    n_clusters
        The estimate.
    curve
        One row per number tried, in increasing order, with the columns ``K``; ``stability`` (of the weakest cluster,
        from 0 to 1, mean over the sub-samples); ``spread`` (its standard deviation over the sub-samples);
        ``agreement`` (mean adjusted Rand index of two sub-samples' clusterings); ``silhouette`` (mean cosine
        silhouette of the clusterings).
    """

    n_clusters: int
    curve: pd.DataFrame


@held()
def estimate_n_clusters(
    latent: np.ndarray | Tensor,
    *,
    k_range: tuple[int, int] | None = None,
    threshold: float = STABLE,
    power: float = POWER,
    n_subsamples: int = N_SUBSAMPLES,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> NClusters:
    """Estimate the number of clusters by stability and separation.

    Sub-samples of 80 % of the cells are clustered into each candidate number of clusters, and every cell is assigned
    to the nearest centre of each clustering. The stability of a cluster is its mean Jaccard similarity to the most
    similar cluster of the other clusterings (Hennig 2007); that of a clustering is that of its weakest cluster, as in
    the prediction strength (Tibshirani and Walther 2005), averaged over the sub-samples.

    If the stability of the weakest cluster is below ``threshold``, some cluster depends on which cells were sampled, and
    the number is excluded. Real data often has several stable numbers, of coarse and of fine groups. Among these, the number with
    the largest product of cosine silhouette and log K is chosen: the silhouette alone prefers very few groups, and log K
    is the maximum information in a label with K values. Among numbers within 1 % of the largest product, the smallest is chosen.

    Each clustering is a cut of a Ward tree, refined with k-means; one tree serves all numbers.

    Parameters
    ----------
    latent
        Latent vectors, shape (n_cells, n); see ``power``.
    k_range
        Smallest and largest number to try, both included; ``None`` means 2 to 30, or to the number of cells in a
        sub-sample if that is smaller.
    threshold
        Stability that counts as stable, from 0 to 1.
    power
        Power by which lengths are reduced before clustering, see ``scgpcl.nn.shrink_length``: 1 compares directions,
        0 uses plain distances. The silhouette always compares directions, so groups should differ in direction: centre
        other latent spaces first.
    n_subsamples
        Number of sub-samples, at least 2.
    max_cells
        Maximum number of cells; a sample is drawn if there are more. Run time grows with the square of this number.
    seed
        Seed of the samples.

    Returns
    -------
    The number and the curve.

    Warns
    -----
    UserWarning
        If no number is stable. The most stable one is then returned, the smallest on ties.

    Raises
    ------
    ValueError
        If ``latent`` is not a table of finite numbers with at least 3 rows, or an argument is out of range.
    """
    z = _checked(latent)
    values = check(threshold=threshold, power=power, n_subsamples=n_subsamples, max_cells=max_cells, seed=seed)
    n_subsamples, max_cells = values["n_subsamples"], values["max_cells"]
    n_fit = _n_fit(min(len(z), max_cells))
    numbers = _numbers(k_range, n_fit)
    rng = np.random.default_rng(values["seed"])
    if len(z) > max_cells:
        z = z[np.sort(rng.choice(len(z), max_cells, replace=False))]
    labels = _subsample_labels(shrink_length(z, power), numbers, n_subsamples, n_fit, rng)
    curve = pd.DataFrame([_row(z, k, found) for k, found in zip(numbers, labels, strict=True)])
    return NClusters(_choose(curve, threshold), curve)


def _checked(latent: np.ndarray | Tensor) -> Tensor:
    z = torch.as_tensor(latent).detach().cpu()
    if z.ndim != 2 or len(z) < 3 or z.shape[1] < 1:
        msg = f"Expected latent vectors of at least 3 cells, shape (n_cells, n), found shape {tuple(z.shape)}."
        raise ValueError(msg)
    z = z.float()
    bad = ~torch.isfinite(z).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        msg = f"Expected finite latent vectors, found NaN or infinite values in {int(bad.sum())} rows (first: {first})."
        raise ValueError(msg)
    return z


def _n_fit(n_cells: int) -> int:
    """Cells of a sub-sample: the share, and at least 2 but not all."""
    return min(max(2, int(SHARE * n_cells)), n_cells - 1)


def _numbers(k_range: tuple[int, int] | None, n_fit: int) -> list[int]:
    if k_range is None:
        return list(range(K_MIN, min(K_MAX, n_fit) + 1))
    low, high = k_range
    if not 2 <= low <= high:
        msg = f"Expected `k_range=(smallest, largest)` with 2 <= smallest <= largest, found {tuple(k_range)}."
        raise ValueError(msg)
    if high > n_fit:
        msg = (
            f"Expected no more clusters in `k_range` than cells in a sub-sample, found {high} for {n_fit} cells. "
            "Lower the largest number, or give more cells."
        )
        raise ValueError(msg)
    return list(range(low, high + 1))


def _subsample_labels(
    x: Tensor, numbers: Sequence[int], n_subsamples: int, n_fit: int, rng: np.random.Generator
) -> list[Tensor]:
    """Labels of all cells from each sub-sample's clustering: for each number (n_subsamples, n_cells), int64."""
    found: list[list[Tensor]] = [[] for _ in numbers]
    for _ in range(n_subsamples):
        rows = x[np.sort(rng.choice(len(x), n_fit, replace=False))]
        cuts = torch.from_numpy(cut_tree(ward(rows.numpy()), numbers).astype(np.int64))
        for labels, k, cut in zip(found, numbers, cuts.unbind(1), strict=True):
            start = _means(rows, cut, k)
            labels.append(nearest(x, kmeans(rows, k, init=start, max_iter=10).centers)[0])
    return [torch.stack(labels) for labels in found]


def _means(rows: Tensor, labels: Tensor, k: int) -> Tensor:
    total = rows.new_zeros(k, rows.shape[1]).index_add_(0, labels, rows)
    return total / torch.bincount(labels, minlength=k).unsqueeze(1)


def _row(z: Tensor, k: int, labels: Tensor) -> dict[str, float]:
    weakest = _weakest_cluster(labels, k)
    pairs = [adjusted_rand(a, b) for i, a in enumerate(labels) for b in labels[:i]]
    return {
        "K": k,
        "stability": float(weakest.mean()),
        "spread": float(weakest.std(correction=0)),
        "agreement": float(np.mean(pairs)),
        "silhouette": float(np.mean([_silhouette(z, found, k) for found in labels])),
    }


def _silhouette(z: Tensor, labels: Tensor, k: int) -> float:
    """Mean cosine silhouette; 0, as for a single cell, if all cells are in one cluster."""
    return cosine_silhouette(z, labels, k) if len(labels.unique()) > 1 else 0.0


def _weakest_cluster(labels: Tensor, k: int) -> Tensor:
    """Stability of the weakest cluster of each clustering; 0 if a cluster is empty.

    Parameters
    ----------
    labels
        Clusterings of the same cells, shape (n_runs, n_cells).
    k
        Number of clusters.

    Returns
    -------
    Shape (n_runs,).
    """
    member = one_hot(labels, k).float()  # (n_runs, n_cells, k)
    size = member.sum(1)
    weakest = []
    for run in range(len(labels)):
        common = (
            member[run].t() @ member
        )  # (n_runs, k, k): cells that a cluster of this run shares with those of others
        union = size[run].view(1, k, 1) + size.unsqueeze(1) - common
        best = (common / union.clamp(min=1.0)).max(2).values
        others = torch.arange(len(labels)) != run
        weakest.append(best[others].mean(0).min())
    return torch.stack(weakest)


def runners_up(curve: pd.DataFrame, n_clusters: int, *, threshold: float = STABLE) -> list[int]:
    """Other stable numbers that are better than stable ones directly below and above; at most three, best first."""
    stable = curve[curve["stability"] >= threshold]
    value = dict(zip(stable["K"].astype(int), _value(stable), strict=True))
    peaks = [k for k in value if value[k] > max(value.get(k - 1, -np.inf), value.get(k + 1, -np.inf))]
    others = [k for k in peaks if abs(k - n_clusters) > 1]
    return sorted(others, key=lambda k: -value[k])[:MAX_RUNNERS_UP]


def also_stable(numbers: Sequence[int]) -> str:
    """Text about runners-up: "6 and 12 are stable too: model.cut(6)"; empty if there are none."""
    if not numbers:
        return ""
    named = [str(number) for number in numbers]
    text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{text} {'is' if len(named) == 1 else 'are'} stable too: model.cut({named[0]})"


def _value(curve: pd.DataFrame) -> pd.Series:
    """Value that the chosen number maximises, for each number of a curve."""
    return curve["silhouette"] * np.log(curve["K"])


def _choose(curve: pd.DataFrame, threshold: float) -> int:
    stable = curve[curve["stability"] >= threshold]
    if len(stable):
        value = _value(stable)
        return int(stable["K"][value >= value.max() - CLOSE * abs(value.max())].min())
    best = int(curve["K"].iloc[curve["stability"].argmax()])
    msg = (
        f"No number of clusters from {curve['K'].min()} to {curve['K'].max()} is stable: the weakest cluster reaches "
        f"{curve['stability'].max():.2f} at most, {threshold:g} counts as stable. Taking {best}, the most stable. "
        "The cells may form no separate groups; pass the number if you know it."
    )
    warnings.warn(msg, UserWarning, stacklevel=3)
    return best
