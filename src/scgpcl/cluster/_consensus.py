"""Consensus of many partitions of the same cells, from many draws of their molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn.functional import one_hot

from scgpcl.cluster._communities import communities, shared_neighbor_graph
from scgpcl.cluster._kmeans import kmeans
from scgpcl.nn import shrink_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Powers by which lengths are reduced before k-means: whole lengths find unusual cells, directions alone equal types.
POWERS = (0.0, 0.5, 1.0)
#: Power of the support that is learned, which leaves little besides the largest entry, and the smallest share of it.
SHARPNESS, LEAST_TARGET = 32, 1e-6
#: Numbers of groups of the partitions, and the factor by which they continue if the number of clusters is larger.
NUMBERS = (2, 3, 5, 8, 12, 19, 30)
GROWTH = 1.6
#: Minimum number of cells in a group of a partition, on average, so that small data sets are not divided too finely.
CELLS_PER_GROUP = 15
#: Restarts of each k-means if all partitions have the same number of groups.
N_INIT = 5
#: Maximum number of cells from which the tree is built; the others join the clusters they agree with most.
MAX_LINKED = 2000
#: Smallest share of the linked cells that forms a separate cluster, and the smallest number.
MIN_SHARE, MIN_CELLS = 0.0025, 3


def numbers_of_groups(n_cells: int, n_clusters: int) -> list[int]:
    """Numbers of groups to partition cells into; they depend on the number of clusters only if it exceeds them."""
    found = list(NUMBERS)
    while found[-1] < n_clusters:
        found.append(round(GROWTH * found[-1]))
    found = [number for number in found if number <= n_cells // CELLS_PER_GROUP]
    return found if found and found[-1] >= n_clusters else [*found, n_clusters]


def partitions(z: Tensor, numbers: Sequence[int], *, n_init: int = 1, seed: int) -> list[Tensor]:
    """Partitions of cells (n_cells, n) by k-means at several lengths and by Leiden, each int64 of shape (n_cells,)."""
    short = [shrink_length(z, power) for power in POWERS]
    found = [kmeans(each, n, n_init=n_init, seed=seed).labels.cpu() for n in numbers for each in short]
    if len(z) > 2:
        found += torch.from_numpy(communities(shared_neighbor_graph(z), numbers, seed=seed)).unbind()
    return found


def targets(support: Tensor) -> Tensor:
    """Support as it is learned, (n_cells, n_clusters): sharpened, with the largest cluster first; rows sum to one."""
    n_clusters = support.shape[1]
    support = support[:, torch.bincount(support.argmax(1), minlength=n_clusters).argsort(descending=True, stable=True)]
    return sharpened(support)


def sharpened(support: Tensor) -> Tensor:
    """Support (n_cells, n) raised to a power, and scaled to sum to one."""
    support = support.clamp(min=LEAST_TARGET)
    power = ((support / support.amax(1, keepdim=True)) ** SHARPNESS).clamp(min=LEAST_TARGET)
    return power / power.sum(1, keepdim=True)


class Evidence(NamedTuple):
    """Partitions of the same cells (n_partitions, n_cells), linked cells, and the share that separates two of these.

    This is evidence accumulation (Fred and Jain 2005): two cells are as similar as the share of the partitions that put them
    together. The cells of each draw are partitioned into two groups, into many, and into numbers in between, so the evidence
    does not depend on the number of clusters. The clusters are found by average linkage of this similarity, cut so that as many
    clusters as wanted with more than a handful of cells remain. A split that is found by only one method or in only one draw of
    the molecules is outvoted, regardless of the size of the group.
    """

    labels: Tensor
    linked: Tensor
    distance: np.ndarray

    @classmethod
    def of(cls, draws: Iterable[Tensor], n_clusters: int, *, seed: int, only: bool = False) -> Evidence:
        """Partition every draw (n_cells, n) into several numbers of groups, or ``only`` into ``n_clusters``."""
        found: list[Tensor] = []
        for i, z in enumerate(draws):
            if only:
                found += partitions(z, [n_clusters], n_init=N_INIT, seed=seed + i)
            else:
                found += partitions(z, numbers_of_groups(len(z), n_clusters), seed=seed + i)
        labels = torch.stack(found)
        generator = torch.Generator().manual_seed(seed)
        linked = torch.randperm(labels.shape[1], generator=generator)[:MAX_LINKED].sort().values
        return cls.from_partitions(labels, linked)

    @classmethod
    def from_partitions(cls, labels: Tensor, linked: Tensor) -> Evidence:
        """Link some cells, ascending positions (n_linked,), by partitions (n_partitions, n_cells)."""
        return cls(labels, linked, distances(labels[:, linked]))

    def support(self, n_clusters: int) -> Tensor:
        """Support of each cell for each of ``n_clusters`` clusters, float32, shape (n_cells, n_clusters); rows sum to one.

        It is the mean similarity of the cell to the cells of the cluster, over the sum of those to all clusters. The largest entry
        is the cell's cluster.
        """
        clusters = _cut(self.distance, n_clusters)
        size = torch.bincount(clusters, minlength=n_clusters).float()
        support = torch.zeros(self.labels.shape[1], n_clusters)
        for each in self.labels:
            table = torch.zeros(int(each.max()) + 1, n_clusters)
            table.index_put_((each[self.linked], clusters), torch.ones(()), accumulate=True)
            support += (table / size)[each]
        support[support.sum(1) == 0] = 1.0  # a cell whose companions were never linked supports all clusters equally
        return support / support.sum(1, keepdim=True)

    def memberships(self) -> np.ndarray:
        """Vectors whose inner products are the shares of partitions that put cells together, float32, (n_cells, n)."""
        parts = [one_hot(each).float() for each in self.labels]
        return torch.cat(parts, 1).div_(len(parts) ** 0.5).numpy()


def distances(labels: Tensor) -> np.ndarray:
    """Share of the partitions (n_partitions, n_cells) that separate each pair of cells, in scipy's condensed form."""
    member = torch.cat([one_hot(each).float() for each in labels], 1)
    distance = (member @ member.t()).div_(-len(labels)).add_(1.0).numpy()
    np.fill_diagonal(distance, 0.0)
    return squareform(distance, checks=False).astype(np.float64)


def _cut(distance: np.ndarray, n_clusters: int) -> Tensor:
    """Cut the tree so that ``n_clusters`` groups are large enough; smaller ones join the nearest of these, int64."""
    merges = average(distance)
    n_cells = len(merges) + 1
    least = min(smallest_group(n_cells), n_cells // n_clusters)
    # undo the merges from the root down until enough of the groups are large.
    sizes = np.concatenate([np.ones(n_cells), merges[:, 3]])
    groups = {2 * n_cells - 2}
    for node in range(2 * n_cells - 2, n_cells - 1, -1):
        if sum(sizes[group] >= least for group in groups) >= n_clusters:
            break
        groups.remove(node)
        groups.update(int(child) for child in merges[node - n_cells, :2])
    order = sorted(groups, key=lambda group: (-sizes[group], group))
    labels = np.full(n_cells, -1)
    for rank, group in enumerate(order):
        labels[leaves_below(group, merges, n_cells)] = rank
    if len(order) > n_clusters:
        square = squareform(distance)
        for rank in range(n_clusters, len(order)):
            own = labels == rank
            near = [square[np.ix_(own, labels == kept)].mean() for kept in range(n_clusters)]
            labels[own] = int(np.argmin(near))
    return torch.from_numpy(labels)


def smallest_group(n_cells: int) -> int:
    """Minimum number of linked cells that form a separate group."""
    return max(MIN_CELLS, round(MIN_SHARE * n_cells))


def leaves_below(node: int, merges: np.ndarray, n_cells: int) -> list[int]:
    """Cells below a node of the tree."""
    stack, found = [node], []
    while stack:
        node = stack.pop()
        if node < n_cells:
            found.append(node)
        else:
            stack.extend(int(child) for child in merges[node - n_cells, :2])
    return found
