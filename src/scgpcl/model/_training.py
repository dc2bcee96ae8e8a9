"""Train both stages, train the decoder alone, and update the model with new cells."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from scgpcl import _input, _keys
from scgpcl._process import held
from scgpcl._random import cpu_generator, derived_seed, seeded
from scgpcl._rules import check, check_enough_cells, check_kwargs
from scgpcl.data import BipartiteSplitter, Cells, concatenated
from scgpcl.model._reference import READ_CELLS, check_same_genes, training_counts
from scgpcl.model._setup import check_datamodule
from scgpcl.pp import FeatureAxes, fit_features, library_sizes
from scgpcl.train import (
    SET_BY_RUN,
    BestDecoder,
    ClusterPlan,
    DecoderPlan,
    Devices,
    DistillationPlan,
    PretrainPlan,
    Run,
    TargetUpdate,
    check_checkpoint_path,
    check_run,
    check_split,
    check_trainer,
    encode_all,
    identity,
    read_checkpoint,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    import lightning.pytorch as pl
    import pandas as pd
    from anndata import AnnData

    from scgpcl.model._reference import Reference, Registration
    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import GeneFlavor

#: Minimum number of cells required to hold some of them out.
MIN_DECODER_CELLS = 20
#: Arguments of training that a run must share with the checkpoint from which it resumes.
IDENTIFYING = ("batch_size", "clustering", "pretrain_max_cells", "shuffle_set_split", "train_size", "validation_size")
#: Arguments of the clustering plan that an update cannot change.
FIXED_BY_TRAIN = {"alpha", "shrinkage"}
#: Training plans for the second stage, by name.
CLUSTERING = {"distillation": DistillationPlan, "self_training": ClusterPlan}


class Training:
    """Mixin that adds ``train``, ``train_decoder`` and ``update`` to the model."""

    adata: AnnData | None
    module: SCGPCLModule
    trainer: pl.Trainer | None = None
    history_: Any
    is_trained_: bool
    init_params_: dict[str, Any]
    n_clusters_: int | None
    n_clusters_curve_: pd.DataFrame | None
    cluster_names_: np.ndarray | None = None
    tree_: dict[str, Any] | None
    level_: pd.DataFrame | None
    subclusters_: dict[str, dict[str, Any]] | None
    #: Statistics of the training cells, see ``scgpcl.train.reference_statistics``.
    #: This is ``None`` in models from old versions.
    statistics_: dict[str, np.ndarray] | None = None
    seed_: int
    gene_flavor: GeneFlavor
    gene_scaling: float
    feature_total: float | None
    keep_genes: list[str] | None
    start: Literal["discriminant", "pca", "random"]
    train_indices: Any
    validation_indices: Any
    test_indices: Any
    gene_names_: np.ndarray | None
    selected_genes_: np.ndarray | None
    unit_size_: float | None
    gene_shares_: np.ndarray | None
    #: Data module used in the last training run, for a model without an AnnData.
    _datamodule: Any = None
    #: Cells used for training, and the axes computed from them.
    _axes: FeatureAxes | None = None

    if TYPE_CHECKING:  # provided by the model itself

        @property
        def registered_genes(self) -> pd.Index: ...
        @property
        def registration(self) -> Registration: ...
        @property
        def reference(self) -> Reference: ...
        def _make_reference(self) -> Reference: ...
        def _annotate_registered(self) -> None: ...
        def _note_counts(self) -> None: ...
        def _names_at_setup(self) -> pd.Index: ...

    @held()
    def train(
        self,
        max_epochs: int | None = None,
        *,
        pretrain_max_epochs: int | None = None,
        cluster_max_epochs: int = 10,
        pretrain_max_cells: int | None = 20_000,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = 1.0,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 256,
        early_stopping: bool = False,
        agreement: float | None = None,
        agreement_patience: int = 1,
        label_tol: float = 0.001,
        false_splits: float = 0.01,
        clustering: Literal["distillation", "self_training"] = "distillation",
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        pretrain_plan_kwargs: Mapping[str, Any] | None = None,
        cluster_plan_kwargs: Mapping[str, Any] | None = None,
        datamodule: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages of the model and write the results to the registered AnnData.

        If this method is called again, training continues from the current state. If the second stage fails, the result
        of the first stage is kept. The AnnData is annotated at the end, either completely or not at all.

        Parameters
        ----------
        max_epochs
            Maximum number of epochs for each stage, which replaces the two arguments below.
        pretrain_max_epochs, cluster_max_epochs
            Maximum number of epochs for each stage; 0 skips the stage. By default, pre-training takes
            ``25_000 / n_cells`` epochs, but at least 6 and at most 20. If there are no clustering epochs, cells are
            assigned to the nearest centre, where the centres come from the consensus of many partitions, or from
            k-means if ``clustering="self_training"``.
        pretrain_max_cells
            Maximum number of cells to pre-train on. If there are more cells, a uniform sample is drawn once and kept in
            memory, so that the number of steps stops growing with the size of the data; ``None`` uses all cells. The
            statistics and gene states for inference are computed from all training cells, and all cells are encoded and
            labelled.
        accelerator, devices
            See :class:`lightning.pytorch.Trainer`. ``"mps"`` is not supported, because PyTorch has no sparse matrices
            for this backend.
        train_size, validation_size, shuffle_set_split
            Fractions of the cells to use for training and validation, see :class:`scvi.dataloaders.DataSplitter`. By
            default, all cells are used for training, because the clustering describes the given cells.
        batch_size
            Maximum number of cells per mini-batch. The cells in a mini-batch provide context for each other, because
            genes learn from them.
        early_stopping
            Whether to stop a stage when the validation loss stops decreasing; this requires ``train_size`` below 1.
            Clustering also stops when the labels have settled, see ``label_tol``.
        agreement
            Pre-training ends when the adjusted Rand index between the labels of successive epochs is above this value
            (published: 0.99); ``None`` trains for all epochs, with a learning rate that decreases to zero.
        agreement_patience
            Number of successive epochs that must agree.
        label_tol
            Clustering ends when the fraction of labels that change in an epoch is below this value.
        false_splits
            Maximum probability that a continuous group of cells is divided when the number of clusters is estimated.
            Splits are tested on held-out molecules; a smaller value gives fewer clusters.
        clustering
            Method for the second stage. ``"distillation"`` learns to assign cells at any sequencing depth, see
            :class:`scgpcl.train.DistillationPlan`; ``"self_training"`` sharpens its own assignment, as published, see
            :class:`scgpcl.train.ClusterPlan`.
        datasplitter_kwargs
            Further keyword arguments for the data splitter, such as ``num_workers``.
        pretrain_plan_kwargs, cluster_plan_kwargs
            Keyword arguments for :class:`scgpcl.train.PretrainPlan` and for the plan selected by ``clustering``, such
            as ``{"tau": 0.5}`` and ``{"alpha": 1.0}``. The defaults are shown in the signatures of these plans.
        datamodule
            Data module with the cells, for a model created with ``registry=datamodule.registry``. This is a data module
            of scvi-tools or a :class:`scgpcl.data.CollectionDataModule`. It is read three times before the first epoch
            through its inference data loader, which must always return all cells in the same order. The counts of the
            model's genes are kept in memory.
        checkpoint
            File to which the state of the run is saved after every epoch; ``None`` saves nothing.
        resume_from
            Checkpoint file from which to resume, starting after the epoch in which it was written. The model, the data
            and the arguments must be the same as in the run that wrote it; on a CPU, the result is then bit-identical
            to the result of an uninterrupted run. The same file can be used as ``checkpoint``.
        **trainer_kwargs
            Further keyword arguments for :class:`scvi.train.Trainer`.

        Notes
        -----
        If there is a registered AnnData, this method writes the same results to it as :meth:`scgpcl.SCGPCL.annotate`.

        Raises
        ------
        FileNotFoundError
            If ``resume_from`` does not exist.
        FloatingPointError
            If a loss is NaN or infinite. The weights from before that epoch are then restored.
        OSError
            If a checkpoint cannot be written.
        TypeError
            If an argument is unknown or has the wrong type. This error is raised before any work is done.
        ValueError
            If an argument is out of range, or if the checkpoint is damaged or belongs to another model. This error is
            raised before any work is done.
        """
        n_cells = self._check_cells(datamodule)
        values = check(
            pretrain_max_epochs=pretrain_max_epochs if max_epochs is None else max_epochs,
            cluster_max_epochs=cluster_max_epochs if max_epochs is None else max_epochs,
            pretrain_max_cells=pretrain_max_cells,
            batch_size=batch_size,
            agreement=agreement,
            agreement_patience=agreement_patience,
            label_tol=label_tol,
            false_splits=false_splits,
            clustering=clustering,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
        )
        pretrain = check_kwargs(pretrain_plan_kwargs, PretrainPlan, "pretrain_plan_kwargs", without=SET_BY_RUN)
        cluster = check_kwargs(
            cluster_plan_kwargs, CLUSTERING[values["clustering"]], "cluster_plan_kwargs", without=SET_BY_RUN
        )
        if values["clustering"] != "distillation" and len(self.registration.types):
            msg = (
                f'Expected `clustering="distillation"` for a model with labels, found {clustering!r}, which knows none. '
                "Pass `setup_anndata(..., labels_key=None)` to cluster without labels."
            )
            raise ValueError(msg)
        if self.adata is not None:
            self.registration.label_index(self.adata, complete=True)
        check_split(train_size, validation_size, datasplitter_kwargs, n_cells, early_stopping=early_stopping)
        check_trainer(accelerator, devices, trainer_kwargs)
        path = None if checkpoint is None else check_checkpoint_path(Path(checkpoint))
        resumed = None if resume_from is None else read_checkpoint(Path(resume_from))
        identified: dict[str, Any] = {}
        if path is not None or resumed is not None:
            own = dict(self.init_params_["non_kwargs"]) | self._data_identity()
            own |= {name: values[name] for name in IDENTIFYING}
            own |= {f"pretrain_plan_kwargs[{name!r}]": value for name, value in pretrain.items()}
            own |= {f"cluster_plan_kwargs[{name!r}]": value for name, value in cluster.items()}
            identified = identity(own, seed=self.seed_, n_cells=n_cells, genes=self.registered_genes)
        if resumed is not None:
            check_run(resumed, identified, self.n_clusters_)
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
            trainer_kwargs["early_stopping"] = True
        self._datamodule = datamodule if datamodule is not None else self._datamodule
        with seeded(derived_seed(self.seed_, 1)):
            cells = self._prepare()
            splitter = BipartiteSplitter(
                cells,
                seed=self.seed_,
                batch_size=values["batch_size"],
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=values["shuffle_set_split"],
                **(datasplitter_kwargs or {}),
            )
            where = Devices(accelerator, devices, trainer_kwargs, self)
            pretraining = PretrainPlan(self.module, seed=self.seed_, n_clusters=self.n_clusters_, **pretrain)
            stage_plan = CLUSTERING[values["clustering"]](self.module, seed=self.seed_, **cluster)
            epochs = values["cluster_max_epochs"]
            more = {"checkpoint": path, "resumed": resumed, "identity": identified}
            with self._running(splitter, where, split=True, **more) as run:
                run.pretrain(
                    pretraining,
                    max_epochs=values["pretrain_max_epochs"],
                    max_cells=values["pretrain_max_cells"],
                    agreement=values["agreement"],
                    patience=values["agreement_patience"],
                )
                run.place_centers(stage_plan, false_splits=values["false_splits"])
                self._name_clusters(run)
                run.cluster(stage_plan, max_epochs=epochs, label_tol=values["label_tol"])
                self.statistics_ = run.statistics()
        if self.adata is not None:
            self._annotate_registered()

    @held()
    def update(
        self,
        query: AnnData,
        max_epochs: int = 10,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int = 256,
        label_tol: float = 0.001,
        transform_batch: str | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Continue the clustering stage on the registered cells together with the query cells.

        The encoder, the decoder and the cluster centres are trained further with the low learning rate of the
        clustering stage. The statistics and gene states for inference are then recomputed from all of these cells.
        Everything that describes the data is fixed: the model's genes, the moments of their features, the reference
        library size, the number of clusters, their names, ``alpha`` and ``shrinkage``. Cluster "3" is therefore the
        same cluster before and after the update. A cell type that is missing in the reference does not get a new
        cluster; train a new model in this case.

        Parameters
        ----------
        query
            AnnData with the new cells, which are matched and checked as in :meth:`get_latent_representation`. None of
            the model's genes may be missing, because the model cannot learn from genes that were not measured. The
            AnnData is not modified.
        max_epochs
            Maximum number of epochs; 0 only recomputes the statistics and gene states.
        accelerator, devices
            See :meth:`train`.
        batch_size
            Maximum number of cells per mini-batch.
        label_tol
            Training ends when the fraction of labels that change in an epoch is below this value.
        transform_batch
            Batch of the model to which all query cells are assigned. This is required if the query contains a batch
            that is unknown to the model, because the moments of the batches are fixed.
        plan_kwargs
            Keyword arguments for :class:`scgpcl.train.ClusterPlan`, except ``alpha`` and ``shrinkage``.
        **trainer_kwargs
            Further keyword arguments for :class:`scvi.train.Trainer`.

        Notes
        -----
        If there is a registered AnnData, this method writes the same results to it as :meth:`train`. The query is not
        stored: save the updated model, and call :meth:`annotate` to label the query. During the update, the counts of
        the model's genes are kept in memory for all cells. If the update fails, the model is restored to its previous
        state.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If an argument is out of range, if genes are missing, or if the model was loaded without its cells. Without
            the reference cells, batch normalisation and gene states would depend on the query alone, which would change
            the labels of the reference.
        """
        reference = self.reference
        values = check(cluster_max_epochs=max_epochs, batch_size=batch_size, label_tol=label_tol)
        self._check_cells()
        check_trainer(accelerator, devices, trainer_kwargs)
        plan_values = check_kwargs(plan_kwargs, ClusterPlan, "plan_kwargs", without=SET_BY_RUN | FIXED_BY_TRAIN)
        if trainer_kwargs.get("early_stopping"):
            msg = (
                "Expected no `early_stopping` in `update`, found it set: no cells are kept to validate on. "
                "Lower `max_epochs`."
            )
            raise ValueError(msg)
        _input.check_is_adata(query, "query")
        missing = ~reference.selected.isin(query.var_names)
        if missing.any():
            reference.match(query.var_names)  # raises a separate error if too many genes are missing
            msg = (
                f"Expected all {len(missing)} genes that the model uses in `adata.var_names` to learn from, found "
                f"{missing.sum()} missing. Cells that lack some can be mapped, see `model.predict`."
            )
            raise ValueError(msg)
        new = concatenated(list(reference.read(query, None, READ_CELLS, transform_batch)))
        cells = concatenated([self._prepare(), new])
        seed = derived_seed(self.seed_, 30)
        splitter = BipartiteSplitter(cells, seed=seed, batch_size=values["batch_size"], train_size=1.0)
        where = Devices(accelerator, devices, trainer_kwargs, self)
        with (
            self._restored_on_failure(),
            seeded(derived_seed(self.seed_, 3)),
            self._running(splitter, where, split=False) as run,
        ):
            if values["cluster_max_epochs"] > 0:
                update = TargetUpdate(splitter, tol=values["label_tol"])
                plan = ClusterPlan(self.module, seed=self.seed_, **plan_values)
                run.fit(plan, [update], values["cluster_max_epochs"])
            encode_all(self.module, splitter)
            self.statistics_ = run.statistics()
        if self.tree_ is not None:
            values = {name: value for name, value in self.tree_["values"].items() if name != "size"}
            self.tree_ = {**self.tree_, "values": values}
        if self.adata is not None:
            self._annotate_registered()

    @held()
    def train_decoder(
        self,
        max_epochs: int = 60,
        *,
        validation_size: float = 0.1,
        patience: int = 5,
        noise: float = 0.5,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int = 256,
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Continue training the decoder for denoised expression, without changing latent vectors or labels.

        :meth:`train` ends when the clusters have settled. On a small data set, the decoder has by then seen too few
        mini-batches to learn much more than the mean of each gene. This method trains the decoder on fixed latent
        vectors with added noise until the likelihood of held-out cells stops increasing, and keeps the best state.

        Parameters
        ----------
        max_epochs
            Maximum number of epochs.
        validation_size
            Fraction of the registered cells to hold out.
        patience
            Number of epochs without a lower loss on the held-out cells after which training ends.
        noise
            Standard deviation of the noise, as a multiple of the standard deviation of each latent dimension.
        accelerator, devices
            See :meth:`train`.
        batch_size
            Maximum number of cells per mini-batch.
        plan_kwargs
            Keyword arguments for :class:`scgpcl.train.DecoderPlan`: ``lr``, ``weight_decay`` and ``decoded_genes``.
        **trainer_kwargs
            Further keyword arguments for :class:`scvi.train.Trainer`.

        Notes
        -----
        The AnnData is not changed, and the epochs are appended to ``history_`` as stage 3. If training fails, the model
        is restored to its previous state.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If an argument is out of range, if there are fewer than 20 cells, or if the model was loaded without
            its cells.
        """
        _ = self.reference  # first, raise an error if the model is not trained
        values = check(
            "train_decoder",
            max_epochs=max_epochs,
            validation_size=validation_size,
            patience=patience,
            noise=noise,
            batch_size=batch_size,
        )
        n_cells = self._check_cells()
        check_trainer(accelerator, devices, trainer_kwargs)
        plan_values = check_kwargs(plan_kwargs, DecoderPlan, "plan_kwargs", without=SET_BY_RUN)
        if n_cells < MIN_DECODER_CELLS:
            msg = f"Expected at least {MIN_DECODER_CELLS} cells to train on and hold out from, found {n_cells}."
            raise ValueError(msg)
        trainer_kwargs["check_val_every_n_epoch"] = 1
        cells = self._prepare()
        splitter = BipartiteSplitter(
            cells,
            seed=derived_seed(self.seed_, 31),
            batch_size=values["batch_size"],
            train_size=1.0 - values["validation_size"],
        )
        where = Devices(accelerator, devices, trainer_kwargs, self)
        known = None if cells.batch_index is None else torch.from_numpy(cells.batch_index)
        with (
            self._restored_on_failure(),
            seeded(derived_seed(self.seed_, 4)),
            self._running(splitter, where, split=False) as run,
        ):
            z = torch.cat([self.module.encode(batch) for batch in splitter.batches()])
            plan = DecoderPlan(
                self.module, seed=self.seed_, z=z, batch_index=known, noise=values["noise"], **plan_values
            )
            run.fit(plan, [BestDecoder(splitter.train_idx, patience=values["patience"])], values["max_epochs"])
            device = self.module.device
            self.module.decoder.fit_statistics(z.to(device), None if known is None else known.to(device))

    def _name_clusters(self, run: Run) -> None:
        """Adopt the number of clusters from a run, and name the clusters after the labelled types, if there are any."""
        self.n_clusters_, self.n_clusters_curve_ = run.n_clusters, run.curve
        types, k = self.registration.types, cast("int", run.n_clusters)
        new = [f"{_keys.NEW} {i}" for i in range(k - len(types))]
        self.cluster_names_ = np.array([*types, *new] if len(types) else [str(i) for i in range(k)], dtype=object)

    def _check_cells(self, datamodule: Any = None) -> int:
        """Check that there are suitable cells to train the model on, and return their number."""
        if datamodule is not None:
            if self.adata is not None:
                msg = (
                    "Expected a model without an AnnData for training on a data module, found a model that has one. "
                    "Create it with `SCGPCL(registry=datamodule.registry)`."
                )
                raise ValueError(msg)
            check_datamodule(datamodule, self.registered_genes, self.registration.batches)
        cells = self.adata if self.adata is not None else datamodule if datamodule is not None else self._datamodule
        if cells is None:
            msg = (
                "Expected cells to train on, found a model without an AnnData. Load it with `adata=`, or pass the "
                "`datamodule` whose registry it was made of."
            )
            raise ValueError(msg)
        n_cells = int(cells.n_obs)
        check_enough_cells(self.n_clusters_, n_cells)
        return n_cells

    def _prepare(self) -> Cells:
        """Return the training cells. The first call sets the genes, the feature moments and the initial network."""
        genes = self.registered_genes
        check_same_genes(genes, self._names_at_setup())
        found = training_counts(self.adata, self._datamodule, self.registration)
        self._note_counts()
        own: dict[str, Any] = {"batch_index": found.batch_index, "label_index": found.label_index}
        if self.gene_names_ is not None:
            reference = self._make_reference()
            if not genes.equals(reference.genes):
                msg = (
                    "Expected the genes of the trained model in its order, found different ones. "
                    "Subset and sort the AnnData: `adata[:, model.gene_names_].copy()`."
                )
                raise ValueError(msg)
            size = library_sizes(found.counts) if found.size is None else found.size
            columns = genes.get_indexer(reference.selected)
            return Cells(found.counts, size / reference.unit_size, columns, **own)
        features = fit_features(
            found.counts,
            size=found.size,
            n_genes=self.module.n_genes,
            flavor=self.gene_flavor,
            gene_scaling=self.gene_scaling,
            feature_total=self.feature_total,
            keep=None if self.keep_genes is None else genes.isin(self.keep_genes),
            n_batch=self.module.n_batch,
            seed=self.seed_,
            **own,
        )
        self.module.set_moments(features.moments, features.batch_share)
        if self.start != "random":
            axes = self._axes_of(features.cells).start
            if axes is not None:
                self.module.encoder.start_at_axes(torch.from_numpy(axes), cpu_generator(self.seed_, 11))
            ratios = None if features.batch_ratio is None else torch.from_numpy(features.batch_ratio).float()
            self.module.decoder.start_at_means(torch.from_numpy(features.gene_mean).float(), ratios)
        self.gene_names_, self.selected_genes_ = genes.to_numpy(), genes[features.mask].to_numpy()
        self.unit_size_, self.gene_shares_ = features.unit_size, features.shares
        return features.cells

    def _axes_of(self, cells: Cells) -> FeatureAxes:
        """Return the axes of the features of training cells, which are kept until the end of the run."""
        if self._axes is None or self._axes.cells is not cells:
            discriminant, seed = self.start == "discriminant", derived_seed(self.seed_, 10)
            self._axes = FeatureAxes(cells, self.module.moments, discriminant=discriminant, seed=seed)
        return self._axes

    def _data_identity(self) -> dict[str, Any]:
        """Return what identifies the registered cells in a checkpoint: digests of counts and labels, and names."""
        registered, adata = self.registration, self.adata
        found: dict[str, Any] = {
            name: getattr(registered, name)
            for name in ("batch_columns", "batches", "labels_key", "size_factor_key", "types")
        }
        if adata is not None:
            labels = registered.label_index(adata)
            found["counts"] = _input.fingerprint(_input.counts_of(adata, registered.layer))
            found["labels"] = None if labels is None else hashlib.blake2b(labels.tobytes(), digest_size=16).hexdigest()
        return found

    @contextmanager
    def _running(self, splitter: BipartiteSplitter, where: Devices, *, split: bool, **kwargs: Any) -> Iterator[Run]:
        """Provide a run whose results are adopted by the model, even if it fails.

        If ``split`` is set, the model also adopts how the run splits the cells.
        """
        run = Run(
            self.module,
            splitter,
            where,
            seed=self.seed_,
            axes=self._axes_of(splitter.source),
            n_clusters=self.n_clusters_,
            curve=self.n_clusters_curve_,
            history=self.history_,
            trainer=self.trainer,
            **kwargs,
        )
        try:
            yield run
        finally:
            self._axes = None
            splitter.source.release()
            self.history_, self.trainer = run.history or None, run.trainer
            if split:  # a model whose training failed halfway has clusters that do not belong to its network
                self.is_trained_ = run.fitted or (self.is_trained_ and not run.begun)
            if split and run.fitted:
                self.tree_, self.level_, self.subclusters_ = run.grown, None, None
                self.train_indices, self.validation_indices = splitter.train_idx, splitter.val_idx
                self.test_indices = splitter.test_idx

    @contextmanager
    def _restored_on_failure(self) -> Iterator[None]:
        """Restore the network and the history if the block fails."""
        state = {name: value.clone() for name, value in self.module.state_dict().items()}
        history = self.history_
        try:
            yield
        except BaseException:
            self.module.load_state_dict(state)
            self.history_ = history
            raise
