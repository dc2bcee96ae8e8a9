"""Run the training: pre-train, place the centres, and cluster. The state is complete even if a stage fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from scgpcl._random import derived_seed
from scgpcl.cluster import Evidence, kmeans, named_support, targets
from scgpcl.nn import fit_centers, neighborhood, shrink_length
from scgpcl.train._callbacks import (
    PUBLISHED_KMEANS_INIT,
    LabelWatch,
    PrototypeUpdate,
    TargetUpdate,
    from_first,
)
from scgpcl.train._checkpoint import EpochCheckpoint
from scgpcl.train._fit import fit_stage, shows_progress
from scgpcl.train._plans import DistillationPlan
from scgpcl.train._read_out import READ_OUT_SEED, ReadOut
from scgpcl.train._statistics import reference_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import lightning.pytorch as pl

    from scgpcl.data import BipartiteSplitter
    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import FeatureAxes
    from scgpcl.train._checkpoint import RunState
    from scgpcl.train._fit import Devices, History
    from scgpcl.train._plans import ClusterPlan, PretrainPlan, StagePlan

logger = logging.getLogger(__name__)


#: Total number of cells seen over all epochs of pre-training, and the minimum and maximum number of epochs.
PRETRAIN_CELLS, PRETRAIN_EPOCHS = 25_000, (6, 20)


class Placed(NamedTuple):
    """Number of clusters, the curve of its estimate, the centres (n_clusters, n_latent), and the data to distil.

    The data to distil are the clustered cells (n_some,), their targets (n_some, n_clusters) and their latent vectors
    (n_some, n_latent). If there are labels, the accuracy of the types for cells whose labels were left out is also
    given, if it is known.
    """

    n_clusters: int
    curve: pd.DataFrame | None
    centers: torch.Tensor
    distilled: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    accuracy: float = np.nan


class Run:
    """Training stages of one network on one split of the cells.

    Parameters
    ----------
    module
        The network.
    splitter
        Source of the cells.
    where
        Devices and arguments of the trainer.
    seed
        Random seed for all steps.
    axes
        Axes of the features of the cells.
    n_clusters, curve
        Number of clusters, or ``None`` to estimate it, and the curve behind an earlier estimate.
    history
        Metrics of earlier runs.
    trainer
        Trainer of the most recent stage.
    checkpoint
        File to which the state is written after every epoch.
    resumed
        Checkpoint to resume from.
    identity
        Plain values that identify the model in checkpoints.

    Attributes
    ----------
    history, trainer, n_clusters, curve
        As above, updated by every stage, even if it fails.
    begun, fitted
        Whether a stage has begun, so that the network may have changed, and whether all stages are completed.
    grown
        State of the tree for all numbers of clusters (see :class:`scgpcl.cluster.Grown`), once the clusters have been
        found.
    """

    def __init__(
        self,
        module: SCGPCLModule,
        splitter: BipartiteSplitter,
        where: Devices,
        *,
        seed: int,
        axes: FeatureAxes,
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
        self.begun = self.fitted = False
        self.grown: dict[str, Any] | None = None
        self._checkpoint = checkpoint
        self._resumed = resumed
        self._identity = identity or {}
        self._read_out = ReadOut(module, splitter, axes=axes, visible=shows_progress(where.trainer_kwargs))
        known = self._read_out.known
        self._n_types = 0 if known is None else int(known.max()) + 1

    def pretrain(
        self,
        plan: PretrainPlan,
        *,
        max_epochs: int | None,
        max_cells: int | None,
        agreement: float | None,
        patience: int,
    ) -> None:
        """Pre-train by contrast on at most ``max_cells`` cells, unless the run resumes after this stage.

        If ``max_epochs`` is ``None``, the number of epochs depends on the number of cells.
        """
        if max_epochs == 0 or (self._resumed is not None and self._resumed.stage > plan.stage):
            return
        splitter = self.splitter
        if max_cells is not None and len(splitter.source) > max_cells:
            splitter = splitter.sampled(max_cells, seed=derived_seed(self.seed, 27))
            logger.info("Pre-training on %d of %d cells.", len(splitter.source), len(self.splitter.source))
        if max_epochs is None:
            max_epochs = int(np.clip(round(PRETRAIN_CELLS / len(splitter.source)), *PRETRAIN_EPOCHS))
        if plan.n_neighbors > 0:
            components = self._read_out.components(splitter)
            plan.neighborhood = neighborhood(components, plan.n_neighbors, seed=derived_seed(self.seed, 23))
        label_index = splitter.source.label_index
        plan.known = None if label_index is None else torch.from_numpy(label_index)
        seed, k = derived_seed(self.seed, 20), min(plan.n_clusters, len(splitter.source))
        update = PrototypeUpdate(splitter, n_clusters=k, agreement=agreement, patience=patience, seed=seed)
        self.fit(plan, [update], max_epochs, splitter)

    def place_centers(self, plan: ClusterPlan | DistillationPlan, *, false_splits: float) -> None:
        """Find the number of clusters and place their centres, unless the run resumes after this step.

        The centres are ordered by cluster size, the largest first.
        """
        self.begun = True
        resumed = self._resumed_at(plan)
        if resumed is not None:
            curve = resumed.model["curve"]
            self._take_clusters(resumed.model["n_clusters"], None if curve is None else pd.DataFrame(curve))
            return
        placed = from_first(self.trainer, self.module, lambda: self._place(plan, false_splits))
        self._take_clusters(placed.n_clusters, placed.curve)
        self.module.set_centers(placed.centers)
        if isinstance(plan, DistillationPlan) and placed.distilled is not None:
            plan.cells, plan.target, plan.latent = placed.distilled
            plan.accuracy = torch.tensor(placed.accuracy)

    def cluster(self, plan: ClusterPlan | DistillationPlan, *, max_epochs: int, label_tol: float) -> None:
        """Cluster the cells from the placed centres, or resume clustering, and order the clusters by size."""
        if max_epochs > 0 and isinstance(plan, DistillationPlan):
            self.fit(plan, [LabelWatch(tol=label_tol)], max_epochs, self.splitter.restricted(self._read_out.index))
        elif max_epochs > 0:
            self.fit(plan, [TargetUpdate(self.splitter, tol=label_tol)], max_epochs)
        if max_epochs > 0 or self._resumed_at(plan) is not None:
            sort = lambda: self._sorted_centers(self._read_out.encode_all())
            self.module.set_centers(from_first(self.trainer, self.module, sort))
        if isinstance(plan, DistillationPlan):
            from_first(self.trainer, self.module, lambda: self._read_out.calibrate(float(plan.accuracy)))
        self.module.eval()
        self.fitted = True
        self.grown = from_first(self.trainer, self.module, lambda: self._read_out.grow().state())

    def fit(
        self, plan: StagePlan, callbacks: list[pl.Callback], max_epochs: int, splitter: BipartiteSplitter | None = None
    ) -> None:
        """Fit a stage from its start or from one of its checkpoints, and write checkpoints if requested."""
        self.begun = True
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
            plan,
            splitter or self.splitter,
            callbacks,
            max_epochs=max_epochs,
            where=self.where,
            history=self.history,
            **first,
        )

    def _resumed_at(self, plan: StagePlan) -> RunState | None:
        return self._resumed if self._resumed is not None and self._resumed.stage == plan.stage else None

    def _take_clusters(self, n_clusters: int, curve: pd.DataFrame | None) -> None:
        self.n_clusters, self.curve = n_clusters, curve
        if self.module.centers is None or len(self.module.centers) != n_clusters:
            self.module.set_n_clusters(n_clusters)

    @torch.no_grad()
    def _place(self, plan: ClusterPlan | DistillationPlan, false_splits: float) -> Placed:
        """Encode all cells, estimate the number of clusters if it is unknown, and place the centres."""
        read_out = self._read_out
        z = read_out.encode_all()
        size_factor = torch.from_numpy(self.splitter.source.size_factor).to(z.device)
        cells = torch.from_numpy(read_out.index).to(z.device)
        if isinstance(plan, DistillationPlan):
            read_out.fit_depth(plan.depth)
        else:
            self.module.depth.weight.zero_()
        given = self.n_clusters
        kept: list[torch.Tensor] = []
        if read_out.known is not None and isinstance(plan, DistillationPlan):
            kept = list(read_out.draws())
            read_out.evidence(given or 2, kept)
        k, curve = read_out.estimate(false_splits)[:2] if given is None else (given, self.curve)
        self.module.shrinkage.fill_(plan.shrinkage)
        self.module.alpha.fill_(plan.alpha)
        self.module.temperature.fill_(1.0)
        if not isinstance(plan, DistillationPlan):
            self._take_clusters(k, curve)
            seed = derived_seed(self.seed, 21)
            self.module.set_centers(
                kmeans(shrink_length(z, plan.shrinkage), k, n_init=PUBLISHED_KMEANS_INIT, seed=seed).centers
            )
            return Placed(k, curve, self._sorted_centers(z), None)
        if read_out.known is None:
            target, accuracy = targets(read_out.evidence(k).support(k).to(z.device)), np.nan
        else:
            known, n_new = read_out.known[read_out.index], None if given is None else given - self._n_types
            evidence = Evidence.of(kept, k, seed=READ_OUT_SEED, only=True)
            named = named_support(evidence, kept[:2], known, self._n_types, k, n_new=n_new)
            target, k, accuracy = named.support.to(z.device), self._n_types + named.n_new, named.accuracy
            logger.info("Found %d new clusters in addition to the %d labelled types.", named.n_new, self._n_types)
            own, labelled = named.support.argmax(1), known >= 0
            logger.info(
                "%d of the %d labelled cells were assigned to a type or new cluster other than their label; %d types have no cells.",
                int((own != known)[labelled].sum()),
                int(labelled.sum()),
                self._n_types - len(own[own < self._n_types].unique()),
            )
        self._take_clusters(k, curve)
        rows = self.module.represent(z[cells], size_factor[cells])
        means = target.t() @ rows / target.sum(0).unsqueeze(1)
        return Placed(k, curve, fit_centers(rows, target, means, alpha=plan.alpha), (cells, target, rows), accuracy)

    def statistics(self) -> dict[str, np.ndarray] | None:
        """Return statistics of the training cells after the run, or ``None`` in all processes except the first."""
        if self.trainer is not None and not self.trainer.is_global_zero:
            return None
        return reference_statistics(self.module, self.splitter, self._read_out.index)

    @torch.no_grad()
    def _sorted_centers(self, z: torch.Tensor) -> torch.Tensor:
        """Return the centres by number of cells, the largest first. Centres of labelled types keep their positions."""
        q = self.module.assign_all(z, torch.from_numpy(self.splitter.source.size_factor))
        sizes = torch.bincount(q.argmax(1), minlength=q.shape[1])
        sizes[: self._n_types] = len(z) + 1
        return cast("torch.Tensor", self.module.centers)[sizes.argsort(descending=True, stable=True)]
