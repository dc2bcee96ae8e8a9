"""Callbacks that cluster all cells between epochs and stop training if a loss is not finite."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import normalize

from scgpcl import _keys
from scgpcl._random import derived_seed
from scgpcl.cluster import add_rows, kmeans
from scgpcl.nn import target_distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scgpcl.data import BipartiteSplitter
    from scgpcl.module import SCGPCLModule
    from scgpcl.train._plans import ClusterPlan, DistillationPlan, PretrainPlan, StagePlan

T = TypeVar("T")

#: Advice shown if losses are not finite.
ADVICE = (
    "The weights are restored to those before that epoch. Lower the learning rate, for example with "
    "`pretrain_plan_kwargs` and `cluster_plan_kwargs={'lr': 1e-4}`, or train in full precision."
)
#: Number of restarts of the first k-means in pre-training. Later epochs start from the previous centres.
FIRST_INIT = 10
#: Number of restarts of each k-means in the published code.
PUBLISHED_KMEANS_INIT = 20
#: Number of latent vectors projected at a time.
PROJECTED_ROWS = 1 << 16


def from_first(trainer: pl.Trainer | None, module: SCGPCLModule, compute: Callable[[], T]) -> T:
    """Call a function in the first process only, and return its result in all processes.

    All processes also receive the buffers of the module (statistics and gene states for inference), because such
    functions set them.

    An error in the first process is raised there and reported as a ``RuntimeError`` in the other processes. The result
    may contain tensors and plain values in any nesting.
    """
    if trainer is None or trainer.world_size == 1 or not torch.distributed.is_initialized():
        return compute()  # also between stages, if processes exist for one stage only
    sent: dict[str, Any] = {}
    failure = None
    if trainer.global_rank == 0:
        try:
            sent["result"] = move_data_to_device(compute(), "cpu")
            sent["buffers"] = {name: buffer.cpu() for name, buffer in module.named_buffers()}
        except Exception as error:  # noqa: BLE001  (raised again once the other processes know)
            failure, sent = error, {"failure": f"{type(error).__name__}: {error}"}
    sent = trainer.strategy.broadcast(sent)
    if failure is not None:
        raise failure
    if "failure" in sent:
        msg = f"Expected a result of the first process, found that it failed there: {sent['failure']}"
        raise RuntimeError(msg)
    for name, buffer in module.named_buffers():
        buffer.copy_(sent["buffers"][name])
    return move_data_to_device(sent["result"], module.gene_mean.device)


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

    The full-length latent vectors have shape (n_cells, n_latent).
    """
    device = module.gene_mean.device
    with _evaluating(module):
        z = module.refresh(lambda: splitter.batches(splitter.train_idx, device=device))
        if np.array_equal(splitter.train_idx, np.arange(len(splitter.source))):
            return z
        return torch.cat([module.encode(batch) for batch in splitter.batches(device=device)])


class _AllCells(pl.Callback):
    """Base callback for both stages, which updates the states for inference if there are validation cells."""

    splitter: BipartiteSplitter

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refresh the gene states so that validation uses the network as it is after this epoch."""
        module = cast("PretrainPlan | ClusterPlan", pl_module).module

        def refresh() -> None:
            with _evaluating(module):
                device = module.gene_mean.device
                module.refresh(lambda: self.splitter.batches(self.splitter.train_idx, device=device))

        from_first(trainer, module, refresh)


class _Grouping(NamedTuple):
    """Groups of all cells.

    The fields are the centres for each number of groups, the labels to monitor, the prototypes, the prototype of each
    cell, and the prototypes of the labelled types.
    """

    centers: dict[int, Tensor]
    labels: Tensor | None
    prototypes: list[Tensor]
    prototype_labels: list[Tensor]
    named_prototypes: list[Tensor]


class PrototypeUpdate(_AllCells):
    """Set the prototypes of all cells once per epoch, and stop when successive clusterings agree.

    The labels of ``n_clusters`` clusters are monitored. After warm-up, ``patience`` successive epochs must agree with
    an adjusted Rand index above ``agreement`` (r in the paper). If the prototypes come from mini-batches, which does
    not require clusters of all cells, the labels are found as published: after warm-up, by k-means on full-length
    vectors with new starting points.
    """

    def __init__(
        self, splitter: BipartiteSplitter, *, n_clusters: int, agreement: float | None, patience: int, seed: int
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
        """Return the labels, centres and agreement so far, for a checkpoint."""
        return {"centers": self._centers, "labels": self._labels, "agreed": self._agreed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._centers, self._labels = state_dict["centers"], state_dict["labels"]
        self._agreed = state_dict["agreed"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the prototypes before the first epoch that uses them, if no previous epoch has set them."""
        plan = cast("PretrainPlan", pl_module)
        if plan.wants_prototypes and plan.prototype_scope == "epoch" and not plan.prototypes:
            self._regroup(trainer, plan, watch=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cluster all cells, log the agreement with the previous epoch, and set the prototypes for the next one."""
        plan, before = cast("PretrainPlan", pl_module), self._labels
        if plan.prototype_scope == "batch" and trainer.current_epoch < plan.warmup_epochs:
            return
        self._regroup(trainer, plan, watch=True)
        if before is not None:
            agreement = adjusted_rand_score(before.cpu(), cast("Tensor", self._labels).cpu())
            plan.log(_keys.LABEL_AGREEMENT, agreement, sync_dist=True)
            warm = trainer.current_epoch > plan.warmup_epochs  # both epochs have had prototypes, as published
            self._agreed = self._agreed + 1 if warm and self.agreement is not None and agreement > self.agreement else 0
            if self._agreed >= self.patience:
                trainer.should_stop = True

    def _regroup(self, trainer: pl.Trainer, plan: PretrainPlan, *, watch: bool) -> None:
        """Group all cells in the first process, and set labels and prototypes in every process."""
        found = from_first(trainer, plan.module, lambda: self._group(plan, watch=watch))
        self._centers, self._labels = found.centers, found.labels
        plan.prototypes, plan.prototype_labels = found.prototypes, found.prototype_labels
        plan.named_prototypes = found.named_prototypes

    def _group(self, plan: PretrainPlan, *, watch: bool) -> _Grouping:
        """Encode and cluster all cells. If ``watch``, they are also clustered for the stopping rule."""
        z = encode_all(plan.module, self.splitter)
        if plan.prototype_scope == "batch":
            seed = derived_seed(self.seed, plan.current_epoch)
            found = kmeans(z, self.n_clusters, n_init=PUBLISHED_KMEANS_INIT, seed=seed)
            return _Grouping({}, found.labels, [], [], [])
        centers = dict(self._centers)
        labels = self._cluster(z, self.n_clusters, centers) if watch else self._labels
        own: list[Tensor] = []
        if plan.lambda_prototype > 0:
            own = [self._cluster(z, k, centers) for k in plan.n_prototypes if k <= len(z)]
        groups, n_types = own, 0
        if plan.known is not None and plan.lambda_label > 0:
            n_types = int(plan.known.max()) + 1  # the unlabelled cells form a last group, which is left out below
            groups = [*own, torch.where(plan.known < 0, n_types, plan.known).to(z.device)]
        if not groups:
            return _Grouping(centers, labels, [], [], [])
        # prototypes: mean projections of the cells of each group, at every granularity
        totals = [z.new_zeros(int(group.max()) + 1, z.shape[1]) for group in groups]
        with _evaluating(plan.module), torch.no_grad():
            for start in range(0, len(z), PROJECTED_ROWS):
                part = slice(start, start + PROJECTED_ROWS)
                rows = z[part].unsqueeze(1)
                projected = normalize((plan.module.projection(rows) if plan.projection else rows)[:, 0], dim=1)
                for group, total in zip(groups, totals, strict=True):
                    add_rows(total, group[part], projected)
        prototypes = [normalize(total, dim=1) for total in totals]
        named = [each[:n_types] for each in prototypes[len(own) :]]
        return _Grouping(centers, labels, prototypes[: len(own)], own, named)

    def _cluster(self, z: Tensor, n_clusters: int, centers: dict[int, Tensor]) -> Tensor:
        """Cluster the directions of the latent vectors, starting from the centres of any previous epoch."""
        init = centers.get(n_clusters)
        found = kmeans(z, n_clusters, n_init=FIRST_INIT, init=init, seed=self.seed, directions=True)
        centers[n_clusters] = found.centers
        return found.labels


class TargetUpdate(_AllCells):
    """Recompute the target distribution in each epoch, and stop when less than ``tol`` of the labels change."""

    def __init__(self, splitter: BipartiteSplitter, *, tol: float) -> None:
        self.splitter = splitter
        self.tol = tol
        self._labels: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the labels so far, for a checkpoint."""
        return {"labels": self._labels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._labels = state_dict["labels"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the target distribution for the epoch."""
        if self._labels is None:
            self._labels = self._update(trainer, cast("ClusterPlan", pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share of changed labels, and stop when it is small."""
        labels = self._update(trainer, cast("ClusterPlan", pl_module))
        changed = float((labels != cast("Tensor", self._labels)).sum()) / len(labels)
        self._labels = labels
        pl_module.log(_keys.LABEL_CHANGE, changed, sync_dist=True)
        if changed < self.tol:
            trainer.should_stop = True

    def _update(self, trainer: pl.Trainer, plan: ClusterPlan) -> Tensor:
        def assign() -> tuple[Tensor, Tensor]:
            z = encode_all(plan.module, self.splitter)
            q = plan.module.assign_all(z, torch.from_numpy(self.splitter.source.size_factor))
            return target_distribution(q), q.argmax(1)

        plan.target, labels = from_first(trainer, plan.module, assign)
        return labels


class LabelWatch(pl.Callback):
    """Stop the distillation when less than ``tol`` of the cell labels change in an epoch."""

    def __init__(self, *, tol: float) -> None:
        self.tol = tol
        self._labels: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the labels so far, for a checkpoint."""
        return {"labels": self._labels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._labels = state_dict["labels"]

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share of changed labels, and stop when it is small."""
        plan = cast("DistillationPlan", pl_module)
        labels = plan.module.soft_assign(plan.latent).argmax(1)
        if self._labels is not None:
            changed = float((labels != self._labels.to(labels)).sum()) / len(labels)
            plan.log(_keys.LABEL_CHANGE, changed, sync_dist=True)
            trainer.should_stop = trainer.should_stop or changed < self.tol
        self._labels = labels


class FiniteLosses(pl.Callback):
    """Stop training at a NaN or infinite loss, and restore the weights of the last successful epoch.

    On a CPU, losses are checked after every step. On other devices, where each check would make the host wait, they are
    checked once per epoch. The same applies if there are several processes, which stop together.
    """

    _steps: list[dict[str, Tensor]]
    _looked_at: int
    _good: dict[str, Tensor]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep a copy of the weights at the start of the epoch."""
        state = cast("StagePlan", pl_module).module.state_dict()
        self._good = {name: value.detach().clone() for name, value in state.items()}
        self._steps, self._looked_at = [], 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the losses of the step."""
        self._steps.append(cast("StagePlan", pl_module).step_losses)
        if pl_module.device.type == "cpu" and trainer.world_size == 1:
            self._look(trainer, cast("StagePlan", pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the remaining losses before the cells are clustered, and check the weights after the last step."""
        plan = cast("StagePlan", pl_module)
        self._look(trainer, plan)
        state = {name: value for name, value in plan.module.state_dict().items() if value.is_floating_point()}
        finite = torch.stack([torch.isfinite(value).all() for value in state.values()])
        if not finite.all():
            plan.module.load_state_dict(self._good)
            bad = list(state)[int((~finite).nonzero()[0, 0])]
            msg = (
                f"Expected finite weights, found others in `{bad}` after batch {len(self._steps) - 1} of epoch "
                f"{trainer.current_epoch} of stage {plan.stage}, whose losses are finite. {ADVICE}"
            )
            raise FloatingPointError(msg)

    def _look(self, trainer: pl.Trainer, plan: StagePlan) -> None:
        new = self._steps[self._looked_at :]
        if not new:
            return
        total = torch.stack([torch.stack(list(losses.values())).sum() for losses in new])
        total = cast("Tensor", trainer.strategy.reduce(total, reduce_op="sum"))
        if not torch.isfinite(total).all():
            step = int((~torch.isfinite(total)).nonzero()[0, 0])
            plan.module.load_state_dict(self._good)
            raise FloatingPointError(self._message(trainer, plan, self._looked_at + step))
        self._looked_at = len(self._steps)

    def _message(self, trainer: pl.Trainer, plan: StagePlan, step: int) -> str:
        losses = {name: float(value) for name, value in self._steps[step].items()}
        bad = [f"`{name}` {value}" for name, value in losses.items() if not torch.isfinite(torch.tensor(value))]
        return (
            f"Expected finite losses, found {', '.join(bad) or 'an infinite sum of all'} in batch {step} of epoch "
            f"{trainer.current_epoch} of stage {plan.stage}. {ADVICE}"
        )
