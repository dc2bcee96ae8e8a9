"""Assign cells to leaves of the tree, given their clusters and latent vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scgpcl.cluster._consensus import sharpened
from scgpcl.nn import fit_centers, fit_temperature, soft_assign


class Branches(NamedTuple):
    """Centres of the leaves below one or more clusters.

    Parameters
    ----------
    centers
        Centres of the leaves, shape (n_leaves, n).
    cluster
        Cluster that each leaf belongs to, int64, shape (n_leaves,).
    temperature
        Temperature of the assignment, see :func:`scgpcl.nn.soft_assign`.
    """

    centers: Tensor
    cluster: Tensor
    temperature: float

    def probability(self, q: Tensor, z: Tensor, alpha: float) -> Tensor:
        """Return leaf probabilities (n_cells, n_leaves) by splitting each cluster's probability among its leaves.

        ``q`` holds the cluster probabilities (n_cells, n_clusters) and ``z`` the vectors (n_cells, n). The computation
        uses double precision, so that the result for a cell does not depend on which other cells are assigned with it.
        """
        found = torch.zeros(len(z), len(self.centers), dtype=torch.float64)
        for cluster in self.cluster.unique().tolist():
            of = (self.cluster == cluster).nonzero().squeeze(1)
            centers = self.centers[of].double()
            share = soft_assign(z.double(), centers, alpha=alpha, temperature=self.temperature)
            found[:, of] = q[:, cluster : cluster + 1].double() * share
        return found


def fit_branches(z: Tensor, support: Tensor, labels: Tensor, cluster: Tensor, *, alpha: float) -> Branches:
    """Fit leaf centres that reproduce each cell's support for the leaves of its cluster.

    Parameters
    ----------
    z
        Latent vectors as used for clustering, shape (n_cells, n).
    support
        Support of each cell for each leaf, shape (n_cells, n_leaves).
    labels
        Cluster of each cell, int64, shape (n_cells,).
    cluster
        Cluster of each leaf, int64, shape (n_leaves,).
    alpha
        Degrees of freedom of the Student-t assignment.
    """
    centers = z.new_zeros(len(cluster), z.shape[1])
    for number in cluster.unique().tolist():
        of, own = (cluster == number).nonzero().squeeze(1), labels == number
        if not own.any():
            continue
        target = sharpened(support[own][:, of])
        means = target.t() @ z[own] / target.sum(0).unsqueeze(1)
        centers[of] = fit_centers(z[own], target, means, alpha=alpha) if len(of) > 1 else means
    return Branches(centers, cluster, 1.0)


def calibrated(branches: Branches, first: Tensor, second: Tensor, labels: Tensor, *, alpha: float) -> Branches:
    """Return a copy with a calibrated temperature.

    At this temperature, one half of a cell's molecules best predicts the leaf found from the other half. ``first`` and
    ``second`` hold the vectors of the two halves, each of shape (n_cells, n). The cluster of each cell (n_cells,) is
    taken as known.
    """
    q = torch.nn.functional.one_hot(labels, int(branches.cluster.max()) + 1)
    both = [branches.probability(q, z, alpha) for z in (first, second)]
    several = torch.bincount(branches.cluster)[labels] > 1
    if not several.any():
        return branches
    found = [p[several] for p in both]
    answer = torch.cat([found[1].argmax(1), found[0].argmax(1)])
    return branches._replace(temperature=fit_temperature(torch.cat(found), answer))
