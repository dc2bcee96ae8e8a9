"""Compute a consensus of many partitions of the same cells, based on several random draws of their molecules."""

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

#: Powers by which vector lengths are reduced before k-means. Full lengths help to find unusual cells, and directions
#: alone help to find types of equal size.
POWERS = (0.0, 0.5, 1.0)
#: Power to which the support is raised before it is learned, which leaves little besides the largest entry, and the
#: lower bound of each entry.
SHARPNESS, LEAST_TARGET = 32, 1e-6
#: Numbers of groups into which cells are partitioned, and the growth factor for adding larger numbers if there are more
#: clusters.
NUMBERS = (2, 3, 5, 8, 12, 19, 30)
GROWTH = 1.6
#: Minimum average number of cells per group of a partition, so that small data sets are not divided too finely.
CELLS_PER_GROUP = 15
#: Number of restarts of each k-means run if all partitions have the same number of groups.
N_INIT = 5
#: Maximum number of cells used to build the tree. Each of the other cells joins the cluster it agrees with most.
MAX_LINKED = 2000
#: Minimum size of a separate cluster, as a share of the linked cells and as a number of cells.
MIN_SHARE, MIN_CELLS = 0.0025, 3


def numbers_of_groups(n_cells: int, n_clusters: int) -> list[int]:
    """Return the numbers of groups into which the cells are partitioned.

    They depend on the number of clusters only if it is larger than all default numbers.
    """
    found = list(NUMBERS)
    while found[-1] < n_clusters:
        found.append(round(GROWTH * found[-1]))
    found = [number for number in found if number <= n_cells // CELLS_PER_GROUP]
    return found if found and found[-1] >= n_clusters else [*found, n_clusters]


def partitions(z: Tensor, numbers: Sequence[int], *, n_init: int = 1, seed: int) -> list[Tensor]:
    """Partition cells (n_cells, n) by k-means at several vector lengths and by Leiden clustering.

    Each partition is int64 with shape (n_cells,).
    """
    short = [shrink_length(z, power) for power in POWERS]
    found = [kmeans(each, n, n_init=n_init, seed=seed).labels.cpu() for n in numbers for each in short]
    if len(z) > 2:
        found += torch.from_numpy(communities(shared_neighbor_graph(z), numbers, seed=seed)).unbind()
    return found


def targets(support: Tensor) -> Tensor:
    """Return the sharpened support that is used as the training target, shape (n_cells, n_clusters).

    The largest cluster comes first, and rows sum to one.
    """
    n_clusters = support.shape[1]
    support = support[:, torch.bincount(support.argmax(1), minlength=n_clusters).argsort(descending=True, stable=True)]
    return sharpened(support)


def sharpened(support: Tensor) -> Tensor:
    """Raise the support (n_cells, n) to a power and scale each row to sum to one."""
    support = support.clamp(min=LEAST_TARGET)
    power = ((support / support.amax(1, keepdim=True)) ** SHARPNESS).clamp(min=LEAST_TARGET)
    return power / power.sum(1, keepdim=True)


class Evidence(NamedTuple):
    """Partitions of the same cells, and the share of the partitions that separate each pair of linked cells.

    The partitions have shape (n_partitions, n_cells). This is evidence accumulation (Fred and Jain 2005): the
    similarity of two cells is the share of the partitions that put them together. The cells of each draw are
    partitioned into two groups, into many groups, and into several numbers in between, so the evidence does not depend
    on the number of clusters. The clusters are found by average linkage on this similarity. The tree is cut so that the
    requested number of clusters with more than a handful of cells remains. A split that is found by only one method or
    in only one draw of the molecules is outvoted, regardless of the size of the group.
    """

    labels: Tensor
    linked: Tensor
    distance: np.ndarray

    @classmethod
    def of(cls, draws: Iterable[Tensor], n_clusters: int, *, seed: int, only: bool = False) -> Evidence:
        """Partition each draw (n_cells, n) into several numbers of groups, or into ``n_clusters`` if ``only``."""
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
        """Link the cells at ascending positions (n_linked,) based on partitions (n_partitions, n_cells)."""
        return cls(labels, linked, distances(labels[:, linked]))

    def support(self, n_clusters: int) -> Tensor:
        """Return the support of each cell for each cluster, float32, shape (n_cells, n_clusters).

        The support is the mean similarity of the cell to the cells of the cluster, divided by the sum of these means
        over all clusters, so each row sums to one. A cell belongs to the cluster with the largest entry.
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
        """Return float32 vectors (n_cells, n) whose inner products are the shares of partitions that join two cells."""
        parts = [one_hot(each).float() for each in self.labels]
        return torch.cat(parts, 1).div_(len(parts) ** 0.5).numpy()


def distances(labels: Tensor) -> np.ndarray:
    """Compute the share of the partitions that separate each pair of cells, in scipy's condensed form.

    The partitions have shape (n_partitions, n_cells).
    """
    member = torch.cat([one_hot(each).float() for each in labels], 1)
    distance = (member @ member.t()).div_(-len(labels)).add_(1.0).numpy()
    np.fill_diagonal(distance, 0.0)
    return squareform(distance, checks=False).astype(np.float64)


def _cut(distance: np.ndarray, n_clusters: int) -> Tensor:
    """Cut the tree so that ``n_clusters`` groups are large enough, and return the group of each cell as int64.

    Smaller groups join the nearest of the large groups.
    """
    merges = average(distance)
    n_cells = len(merges) + 1
    least = min(smallest_group(n_cells), n_cells // n_clusters)
    # undo the merges from the root down until enough of the groups are large.
    cells, start, sizes = leaf_order(merges)
    groups = {2 * n_cells - 2}
    for node in range(2 * n_cells - 2, n_cells - 1, -1):
        if sum(sizes[group] >= least for group in groups) >= n_clusters:
            break
        groups.remove(node)
        groups.update(int(child) for child in merges[node - n_cells, :2])
    order = sorted(groups, key=lambda group: (-sizes[group], group))
    labels = np.full(n_cells, -1)
    for rank, group in enumerate(order):
        labels[cells[start[group] : start[group] + sizes[group]]] = rank
    if len(order) > n_clusters:
        square = squareform(distance)
        for rank in range(n_clusters, len(order)):
            own = labels == rank
            near = [square[np.ix_(own, labels == kept)].mean() for kept in range(n_clusters)]
            labels[own] = int(np.argmin(near))
    return torch.from_numpy(labels)


def smallest_group(n_cells: int) -> int:
    """Return the minimum number of linked cells in a separate group."""
    return max(MIN_CELLS, round(MIN_SHARE * n_cells))


def leaf_order(merges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cells in an order in which those below any node of a linkage are consecutive, int64, (n_cells,).

    Also returns where the cells below each node start in this order, and how many there are, int64, (2 n_cells - 1,).
    """
    n_cells = len(merges) + 1
    size = np.r_[np.ones(n_cells), merges[:, 3]].astype(np.int64)
    start = np.zeros(len(size), dtype=np.int64)
    for node in range(len(size) - 1, n_cells - 1, -1):
        left, right = merges[node - n_cells, :2].astype(np.int64)
        start[right], start[left] = start[node], start[node] + size[right]
    order = np.empty(n_cells, dtype=np.int64)
    order[start[:n_cells]] = np.arange(n_cells)
    return order, start, size
