"""Training plans of the two stages, with all defaults of losses, views and optimiser in one signature per stage."""

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
#: Decay of the running averages in Adadelta, as published.
RHO = 0.95
#: Plan arguments that a run sets itself.
SET_BY_RUN = frozenset({"module", "seed", "n_clusters", "neighborhood", "z", "batch_index", "noise"})
#: Number of clusters to which the granularities of the prototypes are applied as long as the number is unknown.
UNKNOWN_CLUSTERS = 10


class StagePlan(pl.LightningModule):
    """Base class of the stages, with their optimiser, logging and a separate stream of random numbers.

    See the plan of a stage for a description of the arguments.
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
        #: Parameters that receive no gradients in this stage.
        self.frozen = module.encoder.unused_parameters()
        self.step_losses: dict[str, Tensor] = {}
        self._logged: dict[str, tuple[Tensor, int]] = {}

    def configure_optimizers(self) -> Any:
        """Return an optimiser with a separate learning rate for the encoder."""
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
        """Use separate random numbers in each epoch and process, independent of earlier draws."""
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
        """Draw the genes to decode in a mini-batch, or return ``None`` to decode all genes."""
        n_genes = self.module.n_genes
        if self.n_decoded >= n_genes:
            return None
        return torch.randperm(n_genes, generator=self._generator)[: self.n_decoded].sort().values.to(device)

    def log_losses(self, batch: BipartiteBatch, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Log the total loss and each of its parts, averaged over the cells of the epoch.

        The sums are kept here and logged with the last mini-batch, because Lightning's bookkeeping of a metric takes
        longer than a training step.
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
        """Log the reconstruction loss of the validation cells."""
        z = self.module.encode(batch).unsqueeze(1)
        loss = self.module.reconstruction_loss(batch, z)
        self.log_dict(
            {_keys.VALIDATION_LOSS: loss, f"{_keys.RECONSTRUCTION_LOSS}_validation": loss},
            on_epoch=True,
            batch_size=len(batch.cell_index),
            sync_dist=True,
        )


class PretrainPlan(StagePlan):
    """Contrastive pre-training with instance, prototype and reconstruction losses (Lee et al. 2023, eq. 8).

    The reconstruction loss is computed for both views.

    Parameters
    ----------
    module
        The network.
    seed
        Random seed for the views.
    n_clusters
        Number of clusters, which is multiplied by ``granularity``. If ``None`` (not yet known), 10 is used.
    neighborhood
        Neighbours of each cell. They are computed by ``train`` if ``n_neighbors`` is above 0.
    tau
        Temperature of the contrastive losses.
    neighbor_keep
        Share of the genes that are kept as neighbours in a view.
    feature_drop
        Probability that a feature column is set to zero in a view.
    projection
        Whether to compare a projection of the latent vectors between views instead of the latent vectors themselves
        (published: the latent vectors themselves).
    n_neighbors
        Number of nearest cells, along the axes at which training starts, that count as positives of a cell in the
        instance loss if they are in the same mini-batch. If 0, no neighbours are used.
    lambda_instance, lambda_prototype
        Weights of the contrastive losses. The weight of the reconstruction loss is 1.
    lambda_label
        Weight of the loss that pulls labelled cells towards the prototypes of their types. These prototypes are set
        once per epoch from all labelled cells. Only used if the model was set up with labels.
    prototypes
        ``"epoch"``: both views are pulled towards prototypes of all cells, which are set once per epoch. ``"batch"``,
        as published: at every step, the first view is pulled towards the k-means centres of the second view of the
        mini-batch.
    n_prototypes
        Numbers of prototypes. They do not depend on the number of clusters, and therefore neither do the latent
        vectors.
    granularity
        Numbers of prototypes as multiples of the number of clusters, used instead of ``n_prototypes``. They are
        rounded, or rounded down if ``prototypes="batch"`` (published: 1, 1.5 and 2).
    warmup_epochs
        Number of epochs before the prototype loss starts.
    optimizer, lr, weight_decay
        Optimiser, learning rate and weight decay.
    encoder_lr
        Learning rate of the encoder as a multiple of ``lr``.
    one_cycle
        Whether to raise and lower the learning rate once over the planned epochs.
    decoded_genes
        Share of the genes to reconstruct, drawn again for every mini-batch. Values below 1 make training faster and
        noisier.
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
        self.frozen += [] if module.centers is None else [module.centers]
        if not projection or (lambda_instance == 0 and lambda_prototype == 0):
            self.frozen += module.projection.parameters()
        self.prototypes: list[Tensor] = []
        self.prototype_labels: list[Tensor] = []
        #: Prototypes of the types, in a separate list, and the type of each cell (-1 if it has no label), int64, shape
        #: (n_cells,).
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
        """Compute the loss of one mini-batch for two random views."""
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
        """Return the views to pull, the prototypes at each granularity, and the prototype of each cell.

        The views have shape (n_cells, n_pulled, n).
        """
        if self.prototype_scope == "epoch":
            return projected, self.prototypes, [labels[batch.cell_index] for labels in self.prototype_labels]
        x = projected.detach()[:, 1]
        seed = int(torch.randint(2**31, (), generator=self._generator))
        found = [kmeans(x, k, n_init=PUBLISHED_KMEANS_INIT, seed=seed) for k in self.n_prototypes if k <= len(x)]
        return projected[:, :1], [r.centers for r in found], [r.labels for r in found]


class DistillationPlan(StagePlan):
    """Learn to assign cells at any sequencing depth.

    A cell downsampled to a few of its molecules should receive the same assignment as the whole cell. The targets are
    the cluster supports from the consensus of the first stage. The centres learn them
    from whole cells and from downsampled (thinned) cells, whose latent vectors are noisier. The encoder is frozen, so
    the latent vectors do not change. Finally, the confidence is calibrated (Guo et al. 2017) so that one half of a
    cell's molecules predicts the cluster found from the other half.

    Parameters
    ----------
    module
        The network, of which only the centres are trained.
    seed
        Random seed for the thinning.
    alpha
        Degrees of freedom of the Student-t assignment. Larger values give more confident assignments. With ``alpha=1``,
        distances in many dimensions barely differ. The value is applied when the centres are placed, even if there are
        no training epochs.
    shrinkage
        Power by which the length of the latent vectors is reduced before assignment: 0 keeps the length, and 1 keeps
        only the direction. Noise lengthens the vectors of shallow cells more than it rotates them. The value is applied
        when the centres are placed, even if there are no training epochs.
    depth
        Minimum share of a cell's molecules to keep when it is thinned. The share is drawn log-uniformly from ``depth``
        to 1.
    optimizer, lr, weight_decay
        Optimiser, learning rate and weight decay.
    one_cycle
        Whether to raise and lower the learning rate once over the planned epochs.
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
        self.frozen = [parameter for name, parameter in module.named_parameters() if name != "centers"]
        #: Cells with a target, ascending, their targets (n_cells, n_clusters), and their latent vectors as used for
        #: clustering (n_cells, n_latent).
        self.cells = torch.empty(0, dtype=torch.int64)
        self.target = torch.empty(0)
        self.latent = torch.empty(0)
        #: Accuracy of the names for cells whose labels were left out. It is NaN if there are no labels or too few.
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
        """Compute the loss of one mini-batch of whole cells and of one thinned copy of each cell."""
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
    """Cluster cells by pulling the Student-t assignment towards its own sharpened target (Lee et al. 2023, eq. 12).

    The loss also includes the reconstruction.

    Parameters
    ----------
    module
        The network, including its centres.
    seed
        Random seed for the decoded genes and the views.
    alpha
        Degrees of freedom of the Student-t assignment (published: 1). Larger values give more confident assignments.
        With ``alpha=1``, distances in many dimensions barely differ. The value is applied when the centres are placed,
        even if there are no training epochs.
    shrinkage
        Power by which the length of the latent vectors is reduced before clustering: 0 keeps the length (published),
        and 1 keeps only the direction. The value is applied when k-means places the centres, even if there are no
        training epochs.
    neighbor_keep, feature_drop
        Parameters of the random view in which the cells are encoded (published), see
        :class:`scgpcl.train.PretrainPlan`. The defaults keep everything.
    lambda_reconstruction
        Weight of the reconstruction loss. The weight of the divergence is 1.
    optimizer, lr, weight_decay
        Optimiser, learning rate and weight decay.
    encoder_lr
        Learning rate of the encoder as a multiple of ``lr``.
    one_cycle
        Whether to raise and lower the learning rate once over the planned epochs.
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
        self.frozen += list(module.projection.parameters())
        self.target = torch.empty(0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the target."""
        checkpoint["target"] = self.target

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the target."""
        self.target = checkpoint["target"].to(self.module.gene_mean.device)

    def training_step(self, batch: BipartiteBatch, batch_idx: int) -> Tensor:
        """Compute the loss of one mini-batch."""
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
