"""Centres of the clusters: how many there are, where they start, and their order."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from scgpcl._random import derived_seed
from scgpcl.cluster import estimate_n_clusters, kmeans, select_start
from scgpcl.model._base import ModelState
from scgpcl.model._comparison import comparison_sample
from scgpcl.nn import shrink_length
from scgpcl.train import encode_all

if TYPE_CHECKING:
    import pandas as pd

    from scgpcl.data import BipartiteSplitter
    from scgpcl.model._comparison import ComparisonSpace

logger = logging.getLogger(__name__)

#: Restarts of the k-means that starts the clustering stage.
CENTERS_INIT = 20


class ClusterStart(NamedTuple):
    """Start of the clustering stage."""

    n_clusters: int
    curve: pd.DataFrame | None
    centers: torch.Tensor


class CenterPlacement(ModelState):
    """What is done with the centres before and after the clustering stage."""

    def _place_centers(self, splitter: BipartiteSplitter, space: ComparisonSpace, *, last: bool) -> ClusterStart:
        """Encode all cells, estimate the number of clusters if it is not known, and place the centres."""
        z = encode_all(self.module, splitter)
        k, curve = self.n_clusters_, self.n_clusters_curve_
        if k is None:
            k, curve = estimate_n_clusters(z, seed=derived_seed(self.seed_, 22))
            logger.info("Estimated %d clusters from the pre-trained latent space.", k)
        self._take_clusters(k, curve)
        self._set_start(z, k, space)
        return ClusterStart(
            k, curve, self._sort_centers(z) if last else cast("torch.Tensor", self.module.centers).detach()
        )

    def _take_clusters(self, n_clusters: int, curve: pd.DataFrame | None) -> None:
        """Make room for the centres of a number of clusters."""
        self.n_clusters_, self.n_clusters_curve_ = n_clusters, curve
        if self.module.centers is None:
            self.module.set_n_clusters(n_clusters)

    def _set_start(self, z: torch.Tensor, k: int, space: ComparisonSpace) -> None:
        """Start the centres at the chosen partition, and fix the length of the latent vectors with it."""
        seed = derived_seed(self.seed_, 21)
        if self.shrinkage == "auto":
            index = comparison_sample(len(z), seed=self.seed_)
            reference = space.sample().to(z)
            start = select_start(z[torch.from_numpy(index).to(z.device)], k, reference=reference, seed=seed)
            logger.info("Lengths are reduced by the power %g (cosine silhouette %.3f).", start.power, start.silhouette)
            self.module.set_centers(start.centers, shrinkage=start.power)
        else:
            found = kmeans(shrink_length(z, self.shrinkage), k, n_init=CENTERS_INIT, seed=seed)
            self.module.set_centers(found.centers, shrinkage=self.shrinkage)

    @torch.no_grad()
    def _sort_centers(self, z: torch.Tensor) -> torch.Tensor:
        """Order the centres by the number of their cells, the largest first."""
        q = self.module.assign_all(z)
        sizes = torch.bincount(q.argmax(1), minlength=q.shape[1])
        centers = cast("torch.Tensor", self.module.centers)
        self.module.set_centers(centers[sizes.argsort(descending=True, stable=True)])
        return centers.detach()
