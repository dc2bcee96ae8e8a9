"""One run of training: pre-train, place the centres, cluster; its state is complete also when a stage fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pandas as pd
import torch

from scgpcl._random import derived_seed
from scgpcl.cluster import estimate_n_clusters, start_centers
from scgpcl.nn import neighborhood
from scgpcl.train._callbacks import PrototypeUpdate, TargetUpdate, encode_all, from_first
from scgpcl.train._checkpoint import EpochCheckpoint
from scgpcl.train._fit import fit_stage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import lightning.pytorch as pl

    from scgpcl.data import BipartiteSplitter
    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import ComparisonSpace
    from scgpcl.train._checkpoint import RunState
    from scgpcl.train._fit import Devices, History
    from scgpcl.train._plans import ClusterPlan, PretrainPlan, StagePlan

logger = logging.getLogger(__name__)


class Placed(NamedTuple):
    """Number of clusters, what its estimate rests on, and the centres (n_clusters, n_latent)."""

    n_clusters: int
    curve: pd.DataFrame | None
    centers: torch.Tensor


class Run:
    """Stages of one network on one split of the cells.

    Parameters
    ----------
    module
        The network.
    splitter
        Source of the cells.
    where
        Devices and arguments of the trainer.
    seed
        Seed of everything random.
    n_clusters, curve
        Number of clusters, ``None`` to estimate it, and what an earlier estimate rests on.
    history
        Metrics of earlier runs.
    trainer
        Trainer of the last earlier stage.
    checkpoint
        File to write the state to after every epoch.
    resumed
        Checkpoint to resume from.
    identity
        Plain values that identify the model in checkpoints.

    Attributes
    ----------
    history, trainer, n_clusters, curve
        As above, updated by every stage, also by one that fails.
    fitted
        Whether any stage has been completed.
    """

    def __init__(
        self,
        module: SCGPCLModule,
        splitter: BipartiteSplitter,
        where: Devices,
        *,
        seed: int,
        n_clusters: int | None,
        curve: pd.DataFrame | None = None,
        history: History | None = None,
        trainer: pl.Trainer | None = None,
        checkpoint: Path | None = None,
        resumed: RunState | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.module = module
        self.splitter = splitter
        self.where = where
        self.seed = seed
        self.n_clusters, self.curve = n_clusters, curve
        self.history: History = dict(history or {})
        self.trainer = trainer
        self.fitted = False
        self._checkpoint = checkpoint
        self._resumed = resumed
        self._identity = identity or {}

    def pretrain(
        self, plan: PretrainPlan, space: ComparisonSpace, *, max_epochs: int, agreement: float, patience: int
    ) -> None:
        """Contrastive pre-training, unless the run resumes after it."""
        if max_epochs == 0 or (self._resumed is not None and self._resumed.stage > plan.stage):
            return
        if plan.n_neighbors > 0:
            plan.neighborhood = neighborhood(space.all(), plan.n_neighbors, seed=derived_seed(self.seed, 23))
        seed, k = derived_seed(self.seed, 20), plan.n_clusters
        update = PrototypeUpdate(self.splitter, n_clusters=k, agreement=agreement, patience=patience, seed=seed)
        self.fit(plan, [update], max_epochs)

    def place_centers(self, plan: ClusterPlan, space: ComparisonSpace, *, last: bool) -> None:
        """Find the number of clusters and place their centres, unless the run resumes after that.

        ``last``: no epochs follow, so the centres take their final order.
        """
        resumed = self._resumed_at(plan)
        if resumed is not None:
            curve = resumed.model["curve"]
            self._take_clusters(resumed.model["n_clusters"], None if curve is None else pd.DataFrame(curve))
            return
        placed = from_first(self.trainer, self.module, lambda: self._place(space, plan, last=last))
        self._take_clusters(placed.n_clusters, placed.curve)
        self.module.set_centers(placed.centers)

    def cluster(self, plan: ClusterPlan, *, max_epochs: int, label_tol: float) -> None:
        """Cluster from the placed centres, or resume, and order the clusters by size."""
        if max_epochs > 0:
            self.fit(plan, [TargetUpdate(self.splitter, tol=label_tol)], max_epochs)
        if max_epochs > 0 or self._resumed_at(plan) is not None:
            sort = lambda: self._sort_centers(encode_all(self.module, self.splitter))
            self.module.set_centers(from_first(self.trainer, self.module, sort))
        self.module.eval()
        self.fitted = True

    def fit(self, plan: StagePlan, callbacks: list[pl.Callback], max_epochs: int) -> None:
        """Fit a stage from its start or from a checkpoint of it, and write checkpoints if asked to."""
        first: dict[str, Any] = {}
        resumed = self._resumed_at(plan)
        if resumed is not None:
            self.history = resumed.history
            if resumed.stopped or resumed.epochs >= max_epochs:
                self.module.load_state_dict(resumed.weights)
                self.module.eval()
                return
            first = {"resume_from": resumed.path, "first_epoch": resumed.epochs}
        if self._checkpoint is not None:
            curve = None if self.curve is None else {name: self.curve[name].tolist() for name in self.curve}
            values = {**self._identity, "n_clusters": self.n_clusters, "curve": curve}
            callbacks = [*callbacks, EpochCheckpoint(self._checkpoint, history=self.history, model=values)]
        self.trainer = fit_stage(
            plan, self.splitter, callbacks, max_epochs=max_epochs, where=self.where, history=self.history, **first
        )
        self.fitted = True

    def _resumed_at(self, plan: StagePlan) -> RunState | None:
        return self._resumed if self._resumed is not None and self._resumed.stage == plan.stage else None

    def _take_clusters(self, n_clusters: int, curve: pd.DataFrame | None) -> None:
        self.n_clusters, self.curve = n_clusters, curve
        if self.module.centers is None:
            self.module.set_n_clusters(n_clusters)

    def _place(self, space: ComparisonSpace, plan: ClusterPlan, *, last: bool) -> Placed:
        """Encode all cells, estimate the number of clusters if it is not known, and place the centres."""
        z = encode_all(self.module, self.splitter)
        k, curve = self.n_clusters, self.curve
        if k is None:
            k, curve = estimate_n_clusters(z, seed=derived_seed(self.seed, 22))
            logger.info("Estimated %d clusters from the pre-trained latent space.", k)
        self._take_clusters(k, curve)
        start = start_centers(
            z,
            k,
            shrinkage=plan.shrinkage,
            sample=space.index,
            reference=lambda: space.sample,
            seed=derived_seed(self.seed, 21),
        )
        if plan.shrinkage == "auto":
            logger.info("Lengths are reduced by the power %g (cosine silhouette %.3f).", start.power, start.silhouette)
        self.module.shrinkage.fill_(start.power)
        self.module.alpha.fill_(plan.alpha)
        self.module.set_centers(start.centers)
        return Placed(k, curve, self._sort_centers(z) if last else cast("torch.Tensor", self.module.centers).detach())

    @torch.no_grad()
    def _sort_centers(self, z: torch.Tensor) -> torch.Tensor:
        """Order the centres by the number of their cells, the largest first."""
        q = self.module.assign_all(z)
        sizes = torch.bincount(q.argmax(1), minlength=q.shape[1])
        centers = cast("torch.Tensor", self.module.centers)
        self.module.set_centers(centers[sizes.argsort(descending=True, stable=True)])
        return centers.detach()
