"""Training plans of the two stages: losses, views and optimisers, with every default of a stage in one signature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from scgpcl import _keys
from scgpcl._random import cpu_generator
from scgpcl.cluster import kmeans
from scgpcl.data import thinned
from scgpcl.nn import Neighborhood, clustering_loss, draw_view, instance_loss, prototype_loss
from scgpcl.train._callbacks import PUBLISHED_KMEANS_INIT

if TYPE_CHECKING:
    from scgpcl.data import BipartiteBatch
    from scgpcl.module import SCGPCLModule
    from scgpcl.nn import View

Optimizer = Literal["AdamW", "Adadelta"]
PrototypeScope = Literal["epoch", "batch"]
#: Decay of the running averages of Adadelta, as published.
RHO = 0.95
#: Arguments of plans that a run sets itself.
SET_BY_RUN = frozenset({"module", "seed", "n_clusters", "neighborhood", "z", "batch_index", "noise"})
#: Number that the granularities of the prototypes multiply as long as the number of clusters is unknown.
UNKNOWN_CLUSTERS = 10


class StagePlan(pl.LightningModule):
    """Common parts of the stages: optimiser, logging and a separate stream of random numbers.

    The plan of a stage documents these arguments.
    """

    stage: int
    neighbor_keep: float
    feature_drop: float
    #: Name of the stage in progress bars.
    title: str

    def __init__(
        self,
        module: SCGPCLModule,
        *,
        seed: int,
        optimizer: Optimizer,
        lr: float,
        weight_decay: float,
        encoder_lr: float,
        one_cycle: bool,
        decoded_genes: float,
    ) -> None:
        super().__init__()
        self.module = module
        self.seed = seed
        self.optimizer_name = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.encoder_lr = encoder_lr
        self.one_cycle = one_cycle
        self.n_decoded = max(1, round(decoded_genes * module.n_genes))
        self._generator = cpu_generator(seed, self.stage)
        #: Parameters without gradients in this stage.
        self.idle = module.encoder.unused_parameters()
        self.step_losses: dict[str, Tensor] = {}
        self._logged: dict[str, tuple[Tensor, int]] = {}

    def configure_optimizers(self) -> Any:
        """Optimiser with a separate learning rate for the encoder."""
        encoder = list(self.module.encoder.parameters())
        names = {id(p) for p in encoder}
        rest = [p for p in self.module.parameters() if id(p) not in names and p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": encoder, "lr": self.lr * self.encoder_lr},
            {"params": rest, "lr": self.lr},
        ]
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "AdamW":
            optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)
        else:
            optimizer = torch.optim.Adadelta(groups, weight_decay=self.weight_decay, rho=RHO)
        if not self.one_cycle:
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in groups],
            total_steps=max(2, int(self.trainer.estimated_stepping_batches)),
            cycle_momentum=self.optimizer_name == "AdamW",  # Adadelta has none
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Use separate random numbers in every epoch and process, independent of earlier draws."""
        rank = (self.global_rank,) if self.global_rank > 0 else ()
        self._generator = cpu_generator(self.seed, self.stage, self.current_epoch, *rank)
        self._logged = {}

    def views(self, n_views: int) -> View:
        """Draw random views of a mini-batch: subgraphs and masked features."""
        return draw_view(
            self.module.n_genes,
            self.module.n_latent,
            n_views=n_views,
            neighbor_keep=self.neighbor_keep,
            feature_drop=self.feature_drop,
            generator=self._generator,
            device=self.module.gene_mean.device,
        )

    def decoded(self, device: torch.device) -> Tensor | None:
        """Genes to decode in a mini-batch, ``None`` for all."""
        n_genes = self.module.n_genes
        if self.n_decoded >= n_genes:
            return None
        return torch.randperm(n_genes, generator=self._generator)[: self.n_decoded].sort().values.to(device)

    def log_losses(self, batch: BipartiteBatch, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Log the mean over the cells of the epoch of the total and of each part.

        The sums are kept here and logged with the last mini-batch: Lightning's bookkeeping of a metric costs more than a
        training step.
        """
        self.step_losses = {name: value.detach() for name, value in parts.items()}
        n_cells = len(batch.cell_index)
        values = {_keys.TRAIN_LOSS: total} | {f"{name}_train": value for name, value in parts.items()}
        for name, value in values.items():
            before, n_before = self._logged.get(name, (0.0, 0))
            self._logged[name] = (before + n_cells * value.detach(), n_before + n_cells)
        if self.trainer.is_last_batch:
            means = {name: value / n for name, (value, n) in self._logged.items()}
            self.log_dict(means, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def validation_step(self, batch: BipartiteBatch, batch_idx: int) -> None:
        """Log the reconstruction loss of cells that are not trained on."""
        z = self.module.encode(batch).unsqueeze(1)
        loss = self.module.reconstruction_loss(batch, z)
        self.log_dict(
            {_keys.VALIDATION_LOSS: loss, f"{_keys.RECONSTRUCTION_LOSS}_validation": loss},
            on_epoch=True,
            batch_size=len(batch.cell_index),
            sync_dist=True,
        )


class PretrainPlan(StagePlan):
    """Contrastive pre-training: instances, prototypes and reconstruction of both views (Lee et al. 2023, eq. 8).

    Parameters
    ----------
    module
        The network.
    seed
        Seed of the random views.
    n_clusters
        Number of clusters, which ``granularity`` multiplies; ``None`` uses 10, for a number that is not yet known.
    neighborhood
        Neighbours of each cell; ``train`` computes them if ``n_neighbors`` is above 0.
    tau
        Temperature of the contrastive losses.
    neighbor_keep
        Share of the genes that a view keeps as neighbours.
    feature_drop
        Probability that a view zeroes a feature column.
    projection
        Compare views by a projection of the latent vector instead of the vector itself (published: the vector itself).
    n_neighbors
        Number of nearest cells, in principal components of the log counts, that count as positives of a cell in the instance
        loss when they are in the same mini-batch; 0 for none.
    lambda_instance, lambda_prototype
        Weights of the contrastive losses; the weight of the reconstruction is 1.
    lambda_label
        Weight of the loss that pulls labelled cells to the prototypes of their types, which are set once per epoch from all
        labelled cells. Only used by a model that was set up with labels.
    prototypes
        ``"epoch"``: both views are pulled to prototypes of all cells, which are set once per epoch. ``"batch"``, as
        published: at every step, the first view is pulled to the k-means centres of the second view of the mini-batch.
    n_prototypes
        Numbers of prototypes. They do not depend on the number of clusters, so neither do the latent vectors.
    granularity
        In place of ``n_prototypes``: multiples of the number of clusters, rounded, or rounded down with
        ``prototypes="batch"`` (published: 1, 1.5 and 2).
    warmup_epochs
        Epochs before the prototype loss starts.
    optimizer, lr, weight_decay
        Optimiser.
    encoder_lr
        Learning rate of the encoder as a multiple of ``lr``.
    one_cycle
        Raise and lower the learning rate once over the planned epochs.
    decoded_genes
        Share of the genes to reconstruct, drawn anew for every mini-batch: values below 1 are faster and noisier.
    """

    stage = 1
    title = "Pre-training"

    def __init__(
        self,
        module: SCGPCLModule,
        *,
        seed: int,
        n_clusters: int | None,
        neighborhood: Neighborhood | None = None,
        tau: float = 0.25,
        neighbor_keep: float = 0.8,
        feature_drop: float = 0.2,
        projection: bool = True,
        n_neighbors: int = 15,
        lambda_instance: float = 1.0,
        lambda_prototype: float = 0.5,
        lambda_label: float = 0.5,
        prototypes: PrototypeScope = "epoch",
        n_prototypes: tuple[int, ...] = (10, 15, 20),
        granularity: tuple[float, ...] | None = None,
        warmup_epochs: int = 3,
        optimizer: Optimizer = "AdamW",
        lr: float = 1e-3,
        encoder_lr: float = 1.0,
        weight_decay: float = 1e-4,
        one_cycle: bool = True,
        decoded_genes: float = 0.1,
    ) -> None:
        super().__init__(
            module,
            seed=seed,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            encoder_lr=encoder_lr,
            one_cycle=one_cycle,
            decoded_genes=decoded_genes,
        )
        self.tau = tau
        self.neighbor_keep = neighbor_keep
        self.feature_drop = feature_drop
        self.projection = projection
        self.n_neighbors = n_neighbors
        self.lambda_instance = lambda_instance
        self.lambda_prototype = lambda_prototype
        self.lambda_label = lambda_label
        self.prototype_scope = prototypes
        self.n_clusters = n_clusters or UNKNOWN_CLUSTERS
        whole = math.floor if prototypes == "batch" else round
        multiples = [max(2, whole(g * self.n_clusters)) for g in granularity or ()]
        self.n_prototypes = multiples or list(n_prototypes)
        self.warmup_epochs = warmup_epochs
        self.neighborhood = neighborhood
        self.idle += [] if module.centers is None else [module.centers]
        if not projection or (lambda_instance == 0 and lambda_prototype == 0):
            self.idle += module.projection.parameters()
        self.prototypes: list[Tensor] = []
        self.prototype_labels: list[Tensor] = []
        #: Prototypes of the types, in a separate list, and the type of each cell or -1, int64, (n_cells,).
        self.named_prototypes: list[Tensor] = []
        self.known: Tensor | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the prototypes."""
        names = ("prototypes", "prototype_labels", *(("named_prototypes",) if self.named_prototypes else ()))
        checkpoint["prototypes"] = {name: getattr(self, name) for name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the prototypes."""
        for name, tensors in checkpoint["prototypes"].items():
            setattr(self, name, [tensor.to(self.module.gene_mean.device) for tensor in tensors])

    @property
    def wants_prototypes(self) -> bool:
        """Whether the prototype loss is used in the current epoch."""
        return self.lambda_prototype > 0 and self.current_epoch >= self.warmup_epochs

    def training_step(self, batch: BipartiteBatch, batch_idx: int) -> Tensor:
        """Loss of one mini-batch under two random views."""
        z = self.module.inference(batch, self.views(2))["z"]
        parts = {_keys.RECONSTRUCTION_LOSS: self.module.reconstruction_loss(batch, z, self.decoded(z.device))}
        total = parts[_keys.RECONSTRUCTION_LOSS]
        projected = self.module.projection(z) if self.projection else z
        if self.lambda_instance > 0:
            near = None
            if self.neighborhood is not None:
                if self.neighborhood.unit.device != z.device:
                    self.neighborhood = Neighborhood(*(part.to(z.device) for part in self.neighborhood))
                near = self.neighborhood.among(batch.cell_index)
            parts[_keys.INSTANCE_LOSS] = instance_loss(
                projected, tau=self.tau, batch_index=batch.batch_index, neighbors=near
            )
            total = total + self.lambda_instance * parts[_keys.INSTANCE_LOSS]
        if self.wants_prototypes:
            pulled, prototypes, labels = self._prototypes_of(batch, projected)
            if prototypes:
                parts[_keys.PROTOTYPE_LOSS] = prototype_loss(pulled, prototypes, labels, tau=self.tau)
                total = total + self.lambda_prototype * parts[_keys.PROTOTYPE_LOSS]
        if self.named_prototypes and self.known is not None:
            code = self.known[batch.cell_index.cpu()].to(z.device)
            own = code >= 0
            # a sum over the mini-batch's labelled cells, so that the pull of a cell does not depend on their number
            share = own.float().mean() / (self.known >= 0).float().mean()
            loss = (
                prototype_loss(projected[own], self.named_prototypes, [code[own]], tau=self.tau) if own.any() else 0.0
            )
            parts[_keys.LABEL_LOSS] = share * torch.as_tensor(loss).to(z)
            total = total + self.lambda_label * parts[_keys.LABEL_LOSS]
        if self.lambda_prototype > 0 and len(parts) == 1:
            total = total + 0.0 * projected.sum()  # DDP also waits for a gradient of the projection during the warm-up
        self.log_losses(batch, total, parts)
        return total

    def _prototypes_of(self, batch: BipartiteBatch, projected: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The views (n_cells, n_pulled, n) to pull, and at every granularity the prototypes and that of each cell."""
        if self.prototype_scope == "epoch":
            return projected, self.prototypes, [labels[batch.cell_index] for labels in self.prototype_labels]
        x = projected.detach()[:, 1]
        seed = int(torch.randint(2**31, (), generator=self._generator))
        found = [kmeans(x, k, n_init=PUBLISHED_KMEANS_INIT, seed=seed) for k in self.n_prototypes if k <= len(x)]
        return projected[:, :1], [r.centers for r in found], [r.labels for r in found]


class DistillationPlan(StagePlan):
    """Learn to assign cells of any depth: a cell with few of its molecules must get the assignment of the whole cell.

    The targets are the supports of the consensus of the first stage, see ``scgpcl.cluster.consensus``. The centres
    learn them from whole cells and from thinned cells, whose latent vectors are noisier; the encoder is frozen, so latent
    vectors do not change. Finally, the confidence is calibrated (Guo et al. 2017): one half of a cell's molecules must
    predict the cluster found from the other half.

    Parameters
    ----------
    module
        The network; only its centres are trained.
    seed
        Seed of the thinning.
    alpha
        Degrees of freedom of the Student-t assignment. Larger values give more confident assignments; with ``alpha=1``,
        distances in many dimensions barely differ. Applied when the centres are placed, even without epochs.
    shrinkage
        Power by which the length of latent vectors is reduced before they are assigned: 0 keeps it, 1 keeps directions
        only. Noise lengthens the vectors of shallow cells more than it rotates them. Applied when the centres
        are placed, even without epochs.
    depth
        Smallest share of a cell's molecules to keep when it is thinned; the share is drawn log-uniformly from here to 1.
    optimizer, lr, weight_decay
        Optimiser.
    one_cycle
        Raise and lower the learning rate once over the planned epochs.
    """

    stage = 2
    title = "Clustering"

    def __init__(
        self,
        module: SCGPCLModule,
        *,
        seed: int,
        alpha: float = 30.0,
        shrinkage: float = 1.0,
        depth: float = 0.05,
        optimizer: Optimizer = "AdamW",
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        one_cycle: bool = True,
    ) -> None:
        super().__init__(
            module,
            seed=seed,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            encoder_lr=0.0,
            one_cycle=one_cycle,
            decoded_genes=1.0,
        )
        self.alpha = alpha
        self.shrinkage = shrinkage
        self.depth = depth
        self.idle = [parameter for name, parameter in module.named_parameters() if name != "centers"]
        #: Cells with a target, ascending, their targets (n_cells, n_clusters) and represented vectors (n_cells, n_latent).
        self.cells = torch.empty(0, dtype=torch.int64)
        self.target = torch.empty(0)
        self.latent = torch.empty(0)
        #: Accuracy of the names of cells whose labels were left out; NaN without labels, or with too few.
        self.accuracy = torch.tensor(torch.nan)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the cells with their targets and latent vectors."""
        names = ("cells", "target", "latent", "accuracy")
        checkpoint["targets"] = {name: getattr(self, name) for name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the cells with their targets and latent vectors."""
        for name, tensor in checkpoint["targets"].items():
            setattr(self, name, tensor.to(self.module.gene_mean.device))

    def training_step(self, batch: BipartiteBatch, batch_idx: int) -> Tensor:
        """Loss of one mini-batch of whole cells and of one thinning of each."""
        rows = torch.searchsorted(self.cells, batch.cell_index)
        share = self.depth ** torch.rand(len(rows), generator=self._generator)
        thin = thinned(batch, share, self._generator).to(self.latent.device)
        fewer = self.module.represent(self.module.encode(thin), thin.size_factor)
        target = self.target[rows]
        losses = [clustering_loss(self.module.soft_assign(z), target) for z in (self.latent[rows], fewer)]
        parts = {_keys.CLUSTERING_LOSS: torch.stack(losses).mean()}
        self.log_losses(batch, parts[_keys.CLUSTERING_LOSS], parts)
        return parts[_keys.CLUSTERING_LOSS]


class ClusterPlan(StagePlan):
    """Clustering: pull the Student-t assignment to its own sharpened target, with reconstruction (Lee et al. 2023, eq. 12).

    Parameters
    ----------
    module
        The network, including its centres.
    seed
        Seed of the genes that are decoded and of the views.
    alpha
        Degrees of freedom of the Student-t assignment (published: 1). Larger values give more confident assignments; with
        ``alpha=1``, distances in many dimensions barely differ. Applied when the centres are placed, even without epochs.
    shrinkage
        Power by which the length of latent vectors is reduced before they are clustered: 0 keeps it (published), 1 keeps
        directions only. Applied when k-means places the centres, even without epochs.
    neighbor_keep, feature_drop
        The cells are encoded in one random view (published), see :class:`scgpcl.train.PretrainPlan`. The defaults keep
        everything.
    lambda_reconstruction
        Weight of the reconstruction; the divergence has weight 1.
    optimizer, lr, weight_decay
        Optimiser.
    encoder_lr
        Learning rate of the encoder as a multiple of ``lr``.
    one_cycle
        Raise and lower the learning rate once over the planned epochs.
    decoded_genes
        See :class:`scgpcl.train.PretrainPlan`.
    """

    stage = 2
    title = "Clustering"

    def __init__(
        self,
        module: SCGPCLModule,
        *,
        seed: int,
        alpha: float = 10.0,
        shrinkage: float = 0.0,
        neighbor_keep: float = 1.0,
        feature_drop: float = 0.0,
        lambda_reconstruction: float = 1.0,
        optimizer: Optimizer = "AdamW",
        lr: float = 1e-4,
        encoder_lr: float = 0.3,
        weight_decay: float = 1e-4,
        one_cycle: bool = False,
        decoded_genes: float = 1.0,
    ) -> None:
        super().__init__(
            module,
            seed=seed,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            encoder_lr=encoder_lr,
            one_cycle=one_cycle,
            decoded_genes=decoded_genes,
        )
        self.alpha = alpha
        self.shrinkage = shrinkage
        self.neighbor_keep = neighbor_keep
        self.feature_drop = feature_drop
        self.lambda_reconstruction = lambda_reconstruction
        self.idle += list(module.projection.parameters())
        self.target = torch.empty(0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the target."""
        checkpoint["target"] = self.target

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the target."""
        self.target = checkpoint["target"].to(self.module.gene_mean.device)

    def training_step(self, batch: BipartiteBatch, batch_idx: int) -> Tensor:
        """Loss of one mini-batch."""
        view = None
        if self.neighbor_keep < 1 or self.feature_drop > 0:
            view = self.views(1)
        z = self.module.inference(batch, view)["z"]
        q = self.module.soft_assign(self.module.represent(z[:, 0], batch.size_factor))
        parts = {
            _keys.CLUSTERING_LOSS: clustering_loss(q, self.target[batch.cell_index]),
            _keys.RECONSTRUCTION_LOSS: self.module.reconstruction_loss(batch, z, self.decoded(z.device)),
        }
        total = parts[_keys.CLUSTERING_LOSS] + self.lambda_reconstruction * parts[_keys.RECONSTRUCTION_LOSS]
        self.log_losses(batch, total, parts)
        return total
