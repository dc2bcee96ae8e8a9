"""Training in two stages."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from scgpcl import presets
from scgpcl._random import derived_seed, seeded
from scgpcl.cluster import estimate_n_clusters, kmeans, select_start
from scgpcl.data import BipartiteSplitter
from scgpcl.model import _checks
from scgpcl.model._base import ModelState
from scgpcl.model._features import (
    comparison_sample,
    comparison_space,
    fit_batches,
    fit_features,
    set_features,
    start_at_pca,
)
from scgpcl.model._inference import all_selected
from scgpcl.nn import shrink_length
from scgpcl.pp import library_sizes
from scgpcl.train import (
    ClusterPlan,
    PretrainPlan,
    PrototypeUpdate,
    StageSettings,
    TargetUpdate,
    encode_all,
    fit_stage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgpcl.data import CountSource

logger = logging.getLogger(__name__)

#: Restarts of the k-means that starts the clustering stage.
CENTERS_INIT = 20
#: Number that the granularities of the prototypes multiply while the number of clusters is not known.
PRETRAIN_CLUSTERS = 10
_TRAIN = presets.DEFAULT["train"]


class TwoStageTraining(ModelState):
    """``train``: contrastive pre-training, then clustering."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        pretrain_max_epochs: int | None = None,
        cluster_max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = 1.0,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
        early_stopping: bool = False,
        agreement: float | None = None,
        agreement_patience: int | None = None,
        label_tol: float | None = None,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        pretrain_plan_kwargs: Mapping[str, Any] | None = None,
        cluster_plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages and write the result to the registered AnnData.

        Called again, training goes on from the state it has reached. If the second stage fails, the first one is kept.

        Parameters
        ----------
        max_epochs
            Largest number of epochs of each stage that has no number of its own; ``None`` takes the default preset's.
        pretrain_max_epochs, cluster_max_epochs
            Largest number of epochs of each stage; 0 leaves the stage out. Without clustering epochs the clusters are
            those of k-means on the latent space.
        accelerator, devices
            See :class:`lightning.pytorch.Trainer`. ``"mps"`` is refused: PyTorch has no sparse matrices there.
        train_size, validation_size, shuffle_set_split
            Share of the cells to train on and to validate on, see :class:`scvi.dataloaders.DataSplitter`. Clustering
            describes the cells it is given, so all are trained on by default.
        batch_size
            Largest number of cells of a mini-batch. They are each other's context: genes learn from them.
        early_stopping
            Stop a stage when the validation loss stops falling; needs ``train_size`` below 1. The stages stop by
            themselves when their labels have settled.
        agreement
            Pre-training ends when the labels of successive epochs agree with an adjusted Rand index above this.
        agreement_patience
            How many successive epochs must agree.
        label_tol
            Clustering ends when less than this share of the labels changes in an epoch.
        datasplitter_kwargs
            Further arguments of the splitter, such as ``num_workers``.
        pretrain_plan_kwargs, cluster_plan_kwargs
            Arguments of :class:`scgpcl.train.PretrainPlan` and :class:`scgpcl.train.ClusterPlan` that differ from the
            default preset.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`.

        Notes
        -----
        Writes to the registered AnnData what :meth:`scgpcl.SCGPCL.annotate` writes.

        Raises
        ------
        ValueError
            If an argument is out of range, before any work.
        """
        values: dict[str, Any] = {
            "agreement": agreement,
            "agreement_patience": agreement_patience,
            "label_tol": label_tol,
        }
        values |= {"batch_size": batch_size}
        values |= {"pretrain_max_epochs": max_epochs if pretrain_max_epochs is None else pretrain_max_epochs}
        values |= {"cluster_max_epochs": max_epochs if cluster_max_epochs is None else cluster_max_epochs}
        values = {name: _TRAIN[name] if value is None else value for name, value in values.items()}
        plans = {
            "pretrain": {**_TRAIN["pretrain_plan_kwargs"], **(pretrain_plan_kwargs or {})},
            "cluster": {**_TRAIN["cluster_plan_kwargs"], **(cluster_plan_kwargs or {})},
        }
        self._check_training(values, accelerator, train_size, early_stopping)
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
            trainer_kwargs["early_stopping"] = True
        with seeded(derived_seed(self.seed_, 1)):
            source = self._prepare()
            splitter = BipartiteSplitter(
                self.adata_manager,
                source,
                seed=self.seed_,
                batch_size=values["batch_size"],
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                **(datasplitter_kwargs or {}),
            )
            where = {"accelerator": accelerator, "devices": devices, "trainer_kwargs": trainer_kwargs}
            self._pretrain(splitter, values, plans["pretrain"], where)
            self._cluster(splitter, values, plans["cluster"], where)
        self.is_trained_ = True
        self.annotate()

    def _check_training(
        self, values: Mapping[str, Any], accelerator: str, train_size: float | None, early_stopping: bool
    ) -> None:
        if self.adata is None:
            msg = "Expected a model with an AnnData, found one loaded without. Load it with `adata=` to train on."
            raise ValueError(msg)
        for name in ("pretrain_max_epochs", "cluster_max_epochs"):
            _checks.check_range(values[name], 0, np.inf, name, whole=True)
        _checks.check_range(values["batch_size"], 2, np.inf, "batch_size", whole=True)
        _checks.check_range(values["agreement_patience"], 1, np.inf, "agreement_patience", whole=True)
        _checks.check_range(values["agreement"], 0.0, np.inf, "agreement")
        _checks.check_range(values["label_tol"], 0.0, 1.0, "label_tol")
        _checks.check_n_clusters(self.n_clusters_, self.adata.n_obs)
        _checks.check_can_estimate(self.n_clusters_, self.adata.n_obs)
        if early_stopping and (train_size is None or train_size >= 1.0):
            msg = (
                "Expected `train_size` below 1 with `early_stopping=True`, found no cells to validate on. "
                "Pass `train_size=0.9`, or leave early stopping off: the stages stop when their labels have settled."
            )
            raise ValueError(msg)
        if accelerator == "mps":
            msg = (
                'Expected an accelerator with sparse matrices, found "mps", for which PyTorch has none. '
                'Pass `accelerator="cpu"`.'
            )
            raise ValueError(msg)

    def _prepare(self) -> CountSource:
        """Fix genes, feature moments and the encoder's start at the first call; give the counts of the model's genes."""
        layer, size_key = self._setup_arg("layer"), self._setup_arg("size_factor_key")
        x = _checks.counts_of(self.adata, layer)
        _checks.check_counts(x, layer)  # again: counts are often normalised in place after they were registered
        size = None if size_key is None else self.adata.obs[size_key].to_numpy(dtype=np.float64)
        batch_index = self._batch_index(self.adata)
        frame = self._frame
        if frame is not None and not self.adata.var_names.equals(frame.var_names):
            msg = (
                "Expected the genes of the trained model, in its order, to go on training; found others. "
                "Subset and sort the AnnData: `adata[:, model.gene_names_].copy()`."
            )
            raise ValueError(msg)
        if frame is not None:
            given = library_sizes(x) if size is None else size
            return all_selected(self.adata, layer, frame, given / frame.unit_size, batch_index)
        features = fit_features(
            x,
            self.adata.var_names,
            size=size,
            n_genes=self.module.n_genes,
            flavor=self.gene_flavor,
            feature_total=self.feature_total,
            batch_index=batch_index,
        )
        frame = features.frame
        source = all_selected(self.adata, layer, frame, features.size_factor, batch_index)
        set_features(self.module, features)
        ratios = None if batch_index is None else fit_batches(self.module, source, seed=self.seed_)
        if self.start == "pca":
            start_at_pca(self.module, source, seed=self.seed_)
            self.module.decoder.start_at_means(torch.from_numpy(features.gene_mean).float(), ratios)
        self.gene_names_, self.selected_genes_ = frame.var_names.to_numpy(), frame.selected.to_numpy()
        self.unit_size_, self.gene_shares_ = frame.unit_size, frame.shares
        return source

    def _pretrain(
        self, splitter: BipartiteSplitter, values: Mapping[str, Any], plan: Mapping[str, Any], where: Mapping[str, Any]
    ) -> None:
        if values["pretrain_max_epochs"] == 0:
            return
        k = self.n_clusters_ or PRETRAIN_CLUSTERS
        update = PrototypeUpdate(
            splitter,
            n_clusters=k,
            agreement=values["agreement"],
            patience=values["agreement_patience"],
            seed=derived_seed(self.seed_, 20),
        )
        fit_stage(
            self,
            PretrainPlan(self.module, n_clusters=k, seed=self.seed_, **plan),
            splitter,
            [update],
            StageSettings(values["pretrain_max_epochs"], **where),
        )

    def _cluster(
        self, splitter: BipartiteSplitter, values: Mapping[str, Any], plan: Mapping[str, Any], where: Mapping[str, Any]
    ) -> None:
        z = encode_all(self.module, splitter)
        if self.n_clusters_ is None:
            self.n_clusters_, self.n_clusters_curve_ = estimate_n_clusters(z, seed=derived_seed(self.seed_, 22))
            logger.info("Estimated %d clusters from the pre-trained latent space.", self.n_clusters_)
        k = self.n_clusters_
        if self.module.centers is None:
            self.module.set_n_clusters(k)
        self._set_start(z, k, splitter.source)
        if values["cluster_max_epochs"] > 0:
            fit_stage(
                self,
                ClusterPlan(self.module, seed=self.seed_, **plan),
                splitter,
                [TargetUpdate(splitter, tol=values["label_tol"])],
                StageSettings(values["cluster_max_epochs"], **where),
            )
            z = encode_all(self.module, splitter)
        self._sort_centers(z)
        self.module.eval()

    def _set_start(self, z: torch.Tensor, k: int, source: CountSource) -> None:
        """Start the centres at the chosen partition, and fix the length of the latent vectors with it."""
        seed = derived_seed(self.seed_, 21)
        if self.shrinkage == "auto":
            index = comparison_sample(len(z), seed=self.seed_)
            reference = torch.from_numpy(comparison_space(self.module, source, index, seed=self.seed_)).to(z)
            start = select_start(z[torch.from_numpy(index).to(z.device)], k, reference=reference, seed=seed)
            logger.info("Lengths are reduced by the power %g (cosine silhouette %.3f).", start.power, start.silhouette)
            self.module.set_centers(start.centers, shrinkage=start.power)
        else:
            found = kmeans(shrink_length(z, self.shrinkage), k, n_init=CENTERS_INIT, seed=seed)
            self.module.set_centers(found.centers, shrinkage=self.shrinkage)

    @torch.no_grad()
    def _sort_centers(self, z: torch.Tensor) -> None:
        """Order the centres by the number of their cells, the largest first."""
        q = self.module.assign_all(z)
        sizes = torch.bincount(q.argmax(1), minlength=q.shape[1])
        centers = cast("torch.Tensor", self.module.centers)
        self.module.set_centers(centers[sizes.argsort(descending=True, stable=True)])
