"""What each stage does with all cells between its epochs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from scgpcl import _keys
from scgpcl.cluster import adjusted_rand, kmeans
from scgpcl.nn import target_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgpcl.data import BipartiteSplitter
    from scgpcl.module import SCGPCLModule
    from scgpcl.train._plans import ClusterPlan, PretrainPlan

#: Restarts of the first k-means of the pre-training; later epochs start from the centres before.
FIRST_INIT = 10
#: Latent vectors that are projected at a time.
PROJECTED_ROWS = 1 << 16


@contextmanager
def _evaluating(module: SCGPCLModule) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@torch.no_grad()
def encode_all(module: SCGPCLModule, splitter: BipartiteSplitter) -> Tensor:
    """Refresh the gene states from the training cells and encode all cells.

    Parameters
    ----------
    module
        The network, on the device that it trains on.
    splitter
        Source of the cells.

    Returns
    -------
    Latent vectors of whole length, shape (n_cells, n_latent).
    """
    with _evaluating(module):
        z = module.refresh(lambda: splitter.batches(training_only=True))
        if np.array_equal(splitter.train_idx, np.arange(len(splitter.source))):
            return z
        return torch.cat([module.encode(batch) for batch in splitter.batches()])


class _AllCells(pl.Callback):
    """What both stages need between their epochs: the states of inference, where cells are validated."""

    splitter: BipartiteSplitter

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refresh the gene states, so that validation sees the network as it is after this epoch."""
        module = cast("PretrainPlan | ClusterPlan", pl_module).module
        with _evaluating(module):
            module.refresh(lambda: self.splitter.batches(training_only=True))


class PrototypeUpdate(_AllCells):
    """Set the prototypes of all cells once per epoch and stop when successive clusterings agree.

    Parameters
    ----------
    splitter
        Source of all cells.
    n_clusters
        Number of clusters whose agreement is watched.
    agreement
        Adjusted Rand index above which the pre-training ends (r in the paper).
    patience
        Successive epochs that must agree.
    seed
        Seed of k-means.
    """

    def __init__(
        self, splitter: BipartiteSplitter, *, n_clusters: int, agreement: float, patience: int, seed: int
    ) -> None:
        self.splitter = splitter
        self.n_clusters = n_clusters
        self.agreement = agreement
        self.patience = patience
        self.seed = seed
        self._centers: dict[int, Tensor] = {}
        self._labels: Tensor | None = None
        self._agreed = 0

    def state_dict(self) -> dict[str, Any]:
        """Labels, centres and agreement so far, for a checkpoint."""
        return {"centers": self._centers, "labels": self._labels, "agreed": self._agreed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._centers, self._labels = state_dict["centers"], state_dict["labels"]
        self._agreed = state_dict["agreed"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set prototypes before the first epoch that wants them, when no epoch end has done so."""
        plan = cast("PretrainPlan", pl_module)
        if plan.wants_prototypes and plan.prototype_scope == "epoch" and not plan.prototypes:
            self._update(plan, encode_all(plan.module, self.splitter))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cluster all cells, log the agreement with the epoch before, and set the prototypes of the next epoch."""
        plan = cast("PretrainPlan", pl_module)
        z = encode_all(plan.module, self.splitter)
        labels = self._cluster(z, self.n_clusters)
        if self._labels is not None:
            agreement = adjusted_rand(self._labels, labels)
            plan.log(_keys.LABEL_AGREEMENT, agreement)
            warm = trainer.current_epoch + 1 >= plan.warmup_epochs
            self._agreed = self._agreed + 1 if agreement > self.agreement and warm else 0
            if self._agreed >= self.patience:
                trainer.should_stop = True
        self._labels = labels
        if plan.prototype_scope == "epoch" and plan.lambda_prototype > 0:
            self._update(plan, z)

    def _update(self, plan: PretrainPlan, z: Tensor) -> None:
        """Cluster the latent vectors at every granularity; prototypes are mean projections of their cells."""
        plan.prototype_labels = [self._cluster(z, k) for k in plan.n_prototypes if k <= len(z)]
        totals = [z.new_zeros(int(labels.max()) + 1, z.shape[1]) for labels in plan.prototype_labels]
        with _evaluating(plan.module), torch.no_grad():
            for start in range(0, len(z), PROJECTED_ROWS):
                part = slice(start, start + PROJECTED_ROWS)
                projected = normalize(plan.module.project(z[part].unsqueeze(1))[:, 0], dim=1)
                for labels, total in zip(plan.prototype_labels, totals, strict=True):
                    total.index_add_(0, labels[part], projected)
        plan.prototypes = [normalize(total, dim=1) for total in totals]

    def _cluster(self, z: Tensor, n_clusters: int) -> Tensor:
        """Cluster the directions of the latent vectors, from the centres of the epoch before where there are some."""
        init = self._centers.get(n_clusters)
        found = kmeans(z, n_clusters, n_init=FIRST_INIT, init=init, seed=self.seed, directions=True)
        self._centers[n_clusters] = found.centers
        return found.labels


class TargetUpdate(_AllCells):
    """Recompute the target distribution at every epoch and stop when hardly any label changes.

    Parameters
    ----------
    splitter
        Source of all cells.
    tol
        Share of changed labels below which the clustering ends.
    """

    def __init__(self, splitter: BipartiteSplitter, *, tol: float) -> None:
        self.splitter = splitter
        self.tol = tol
        self._labels: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Labels so far, for a checkpoint."""
        return {"labels": self._labels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._labels = state_dict["labels"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the target that the epoch pulls to."""
        if self._labels is None:
            self._labels = self._update(cast("ClusterPlan", pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share of changed labels and stop when it is small."""
        labels = self._update(cast("ClusterPlan", pl_module))
        changed = float((labels != cast("Tensor", self._labels)).sum()) / len(labels)
        self._labels = labels
        pl_module.log(_keys.LABEL_CHANGE, changed)
        if changed < self.tol:
            trainer.should_stop = True

    def _update(self, plan: ClusterPlan) -> Tensor:
        q = plan.module.assign_all(encode_all(plan.module, self.splitter))
        plan.target = target_distribution(q)
        return q.argmax(1)
