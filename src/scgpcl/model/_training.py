"""Training in two stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from scgpcl import presets
from scgpcl._random import derived_seed, seeded
from scgpcl.cluster import neighborhood
from scgpcl.data import BipartiteSplitter
from scgpcl.model import _checks
from scgpcl.model._cells import check_datamodule
from scgpcl.model._centers import CenterPlacement
from scgpcl.model._comparison import ComparisonSpace
from scgpcl.model._features import fit_batches, fit_features, set_features, start_at_pca
from scgpcl.model._resume import check_checkpoint_path, check_run, run_values, table_of
from scgpcl.model._training_checks import check_plan_kwargs, check_split, check_stage_arguments, check_trainer
from scgpcl.pp import library_sizes
from scgpcl.train import (
    ClusterPlan,
    EpochCheckpoint,
    PretrainPlan,
    PrototypeUpdate,
    StageSettings,
    TargetUpdate,
    encode_all,
    fit_stage,
    from_first,
    read_checkpoint,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import lightning.pytorch as pl

    from scgpcl.data import CountSource
    from scgpcl.train import RunState
    from scgpcl.train._plans import StagePlan

#: Number that the granularities of the prototypes multiply while the number of clusters is not known.
PRETRAIN_CLUSTERS = 10
_TRAIN = presets.DEFAULT["train"]


class _Run(NamedTuple):
    """One call of ``train``: where it runs, the space of comparison, and the checkpoints that it writes and goes on from."""

    where: dict[str, Any]
    space: ComparisonSpace
    checkpoint: Path | None
    resumed: RunState | None


class TwoStageTraining(CenterPlacement):
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
        datamodule: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages and write the result to the registered AnnData.

        Called again, training goes on from the state it has reached. If the second stage fails, the first one is kept.
        The AnnData is annotated at the end, whole or not at all.

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
            default preset. Pre-training takes ``n_neighbors`` in place of ``neighborhood``: how many nearest cells, in
            principal components of the log counts, count as positives of a cell where they share a mini-batch; 0 for none.
        datamodule
            Where the cells are of a model that was made with ``registry=datamodule.registry``: a data module of scvi-tools
            or :class:`scgpcl.data.CollectionDataModule`. It is read three times before the first epoch, through its
            inference loader, which must always give all cells in one order; the counts of the model's genes are kept in
            memory.
        checkpoint
            File to write the state of the run to after every epoch; ``None`` writes none.
        resume_from
            Such a file: the run goes on after the epoch that it was written at. The model, the data and the arguments
            must be those of the run that wrote it; on a CPU the result is then the same bit for bit as without the
            interruption. It may be the file of ``checkpoint``.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`.

        Notes
        -----
        Writes to the registered AnnData, if there is one, what :meth:`scgpcl.SCGPCL.annotate` writes.

        Raises
        ------
        FileNotFoundError
            If ``resume_from`` is no file.
        FloatingPointError
            If a loss is NaN or infinite; the weights are those from before that epoch then.
        OSError
            If a checkpoint cannot be written.
        TypeError
            If an argument is unknown or of another kind, before any work.
        ValueError
            If an argument is out of range, or the checkpoint is damaged or of another model, before any work.
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
        n_cells = self._check_training(values, datamodule)
        check_split(train_size, validation_size, datasplitter_kwargs, n_cells, early_stopping=early_stopping)
        _checks.check_flag(shuffle_set_split, "shuffle_set_split")
        check_trainer(accelerator, devices, trainer_kwargs)
        check_plan_kwargs(PretrainPlan, pretrain_plan_kwargs, "pretrain_plan_kwargs")
        check_plan_kwargs(ClusterPlan, cluster_plan_kwargs, "cluster_plan_kwargs")
        path = None if checkpoint is None else check_checkpoint_path(Path(checkpoint))
        resumed = None if resume_from is None else read_checkpoint(Path(resume_from))
        if resumed is not None:
            check_run(resumed, run_values(self, n_cells))
        plans = {
            "pretrain": {**_TRAIN["pretrain_plan_kwargs"], **(pretrain_plan_kwargs or {})},
            "cluster": {**_TRAIN["cluster_plan_kwargs"], **(cluster_plan_kwargs or {})},
        }
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
            trainer_kwargs["early_stopping"] = True
        self._datamodule = datamodule if datamodule is not None else self._datamodule
        with seeded(derived_seed(self.seed_, 1)):
            source = self._prepare()
            splitter = BipartiteSplitter(
                source,
                seed=self.seed_,
                batch_size=values["batch_size"],
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                **(datasplitter_kwargs or {}),
            )
            where = {"accelerator": accelerator, "devices": devices, "trainer_kwargs": trainer_kwargs}
            run = _Run(where, ComparisonSpace(self.module, source, seed=self.seed_), path, resumed)
            self._pretrain(splitter, values, plans["pretrain"], run)
            self._cluster(splitter, values, plans["cluster"], run)
        self.is_trained_ = True
        if self.adata is not None:
            self.annotate()

    def _check_training(self, values: Mapping[str, Any], datamodule: Any = None) -> int:
        """Require cells to train on and good arguments; give the number of cells."""
        if datamodule is not None:
            if self.adata is not None:
                msg = (
                    "Expected a model without an AnnData to train on a data module, found one with. "
                    "Make it with `SCGPCL(registry=datamodule.registry)`."
                )
                raise ValueError(msg)
            check_datamodule(datamodule, self._registered_genes(), self._batch_names())
        cells = self.adata if self.adata is not None else datamodule if datamodule is not None else self._datamodule
        if cells is None:
            msg = (
                "Expected cells to train on, found a model without an AnnData. Load it with `adata=`, or pass the "
                "`datamodule` whose registry it was made of."
            )
            raise ValueError(msg)
        check_stage_arguments(values)
        n_cells = int(cells.n_obs)
        _checks.check_n_clusters(self.n_clusters_, n_cells)
        _checks.check_can_estimate(self.n_clusters_, n_cells)
        return n_cells

    def _prepare(self) -> CountSource:
        """Fix genes, feature moments and the encoder's start at the first call; give the counts of the model's genes."""
        cells = self._training_cells()
        frame = self._frame
        if frame is not None and not cells.var_names.equals(frame.var_names):
            msg = (
                "Expected the genes of the trained model, in its order, to go on training; found others. "
                "Subset and sort the AnnData: `adata[:, model.gene_names_].copy()`."
            )
            raise ValueError(msg)
        if frame is not None:
            size = library_sizes(cells.counts) if cells.size is None else cells.size
            return cells.selected(frame, size / frame.unit_size)
        features = fit_features(
            cells.counts,
            cells.var_names,
            size=cells.size,
            n_genes=self.module.n_genes,
            flavor=self.gene_flavor,
            feature_total=self.feature_total,
            batch_index=cells.batch_index,
        )
        frame = features.frame
        source = cells.selected(frame, features.size_factor)
        set_features(self.module, features)
        ratios = None if cells.batch_index is None else fit_batches(self.module, source, seed=self.seed_)
        if self.start == "pca":
            start_at_pca(self.module, source, seed=self.seed_)
            self.module.decoder.start_at_means(torch.from_numpy(features.gene_mean).float(), ratios)
        self.gene_names_, self.selected_genes_ = frame.var_names.to_numpy(), frame.selected.to_numpy()
        self.unit_size_, self.gene_shares_ = frame.unit_size, frame.shares
        return source

    def _pretrain(
        self,
        splitter: BipartiteSplitter,
        values: Mapping[str, Any],
        plan: dict[str, Any],
        run: _Run,
    ) -> None:
        if values["pretrain_max_epochs"] == 0 or (run.resumed is not None and run.resumed.stage > 1):
            return
        n_neighbors = plan.pop("n_neighbors")
        if n_neighbors > 0:
            plan["neighborhood"] = neighborhood(run.space.all(), n_neighbors, seed=derived_seed(self.seed_, 23))
        k = self.n_clusters_ or PRETRAIN_CLUSTERS
        update = PrototypeUpdate(
            splitter,
            n_clusters=k,
            agreement=values["agreement"],
            patience=values["agreement_patience"],
            seed=derived_seed(self.seed_, 20),
        )
        stage = PretrainPlan(self.module, n_clusters=k, seed=self.seed_, **plan)
        self._fit(stage, splitter, update, values["pretrain_max_epochs"], run)

    def _cluster(
        self,
        splitter: BipartiteSplitter,
        values: Mapping[str, Any],
        plan: Mapping[str, Any],
        run: _Run,
    ) -> None:
        resumed = run.resumed if run.resumed is not None and run.resumed.stage == 2 else None
        epochs = values["cluster_max_epochs"]
        if resumed is not None:
            self._take_clusters(resumed.model["n_clusters"], table_of(resumed.model["curve"]))
        else:
            start = from_first(
                self.trainer, self.module, lambda: self._place_centers(splitter, run.space, last=epochs == 0)
            )
            self._take_clusters(start.n_clusters, start.curve)
            self.module.set_centers(start.centers)
        if epochs > 0:
            stage = ClusterPlan(self.module, seed=self.seed_, **plan)
            update = TargetUpdate(splitter, tol=values["label_tol"])
            self._fit(stage, splitter, update, epochs, run._replace(resumed=resumed))
        if epochs > 0 or resumed is not None:
            centers = from_first(
                self.trainer, self.module, lambda: self._sort_centers(encode_all(self.module, splitter))
            )
            self.module.set_centers(centers)
        self.module.eval()

    def _fit(self, plan: StagePlan, splitter: BipartiteSplitter, update: pl.Callback, epochs: int, run: _Run) -> None:
        """Fit a stage, from its start or from a checkpoint, and write checkpoints if asked to."""
        settings = StageSettings(epochs, **run.where)
        if run.resumed is not None:
            self.history_ = run.resumed.history
            if run.resumed.stopped or run.resumed.epochs >= epochs:
                self.module.load_state_dict(run.resumed.weights)
                self.module.eval()
                return
            settings = settings._replace(resume_from=run.resumed.path, first_epoch=run.resumed.epochs)
        callbacks = [update]
        if run.checkpoint is not None:
            callbacks.append(
                EpochCheckpoint(run.checkpoint, history=self.history_, model=run_values(self, len(splitter.source)))
            )
        fit_stage(self, plan, splitter, callbacks, settings)
