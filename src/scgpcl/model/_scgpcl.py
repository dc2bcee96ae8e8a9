"""The SCGPCL model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import pandas as pd
import rich.pretty  # noqa: F401  (scvi's `view_anndata_setup` uses it without importing it)
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import LayerField
from scvi.model.base import BaseModelClass
from scvi.utils import setup_anndata_dsp

from scgpcl import _input, _keys
from scgpcl._batch_names import batch_name
from scgpcl._process import held
from scgpcl._random import seeded
from scgpcl._rules import MAX_MISSING, check, check_enough_cells, check_known
from scgpcl.cluster import also_stable, runners_up
from scgpcl.model._annotate import NOTED, annotate, names
from scgpcl.model._differential import Differential
from scgpcl.model._getters import Getters
from scgpcl.model._levels import Levels
from scgpcl.model._reference import Reference, Registration, check_same_genes
from scgpcl.model._saving import load_model, save_model
from scgpcl.model._setup import batch_columns, check_not_overwritten, checked_manager, own_registry
from scgpcl.model._stability import Stability
from scgpcl.model._subclustering import Subclustering
from scgpcl.model._testing import Testing
from scgpcl.model._training import Training
from scgpcl.module import SCGPCLModule
from scgpcl.train import check_device

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np
    import torch
    from anndata import AnnData

#: Arguments of a training stage, and the argument of ``train`` through which they are passed.
MOVED = dict.fromkeys(("tau", "neighbor_keep", "feature_drop", "projection"), "pretrain_plan_kwargs")
MOVED |= dict.fromkeys(("alpha", "shrinkage"), "cluster_plan_kwargs")


class SCGPCL(Training, Getters, Levels, Subclustering, Differential, Stability, Testing, BaseModelClass):
    """Graph prototypical contrastive learning for clustering single-cell counts (Lee et al. 2023).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_clusters
        Number of clusters. If there are labels, this is the total number of types and new clusters. If ``None``, the
        number is estimated by counting the splits of the tree that are made by most partitions and hold on held-out
        molecules; ``n_clusters_`` and ``n_clusters_curve_`` are then set. The estimate is 1 if no groups of cells are
        clearly separated.
    n_top_genes
        Number of genes to use, selected based on the registered counts when training starts. A float up to 1 is
        interpreted as a fraction of the genes, and ``None`` uses all genes. If there are fewer genes than requested,
        all of them are used. The AnnData is not subset.
    keep_genes
        Names of genes that are always used, such as known markers. They replace the lowest-ranked genes that would
        otherwise be selected.
    gene_flavor
        Method for selecting genes. ``"discriminant"`` selects the genes that differ most between many small groups of
        cells, relative to their variance within groups; the groups are found using the 2000 genes of
        ``"pearson_residuals"``. ``"pearson_residuals"`` uses the variance of Pearson residuals (Lause et al. 2021) and
        ``"seurat"`` uses the normalised dispersion, both as in scanpy. ``"variance"`` uses the variance of the raw
        counts, as published.
    gene_scaling
        The log counts of each gene are divided by its standard deviation raised to this power. A value of 1 gives every
        gene the same weight, as published, and 0 weights genes by their variance. Intermediate values reduce the weight
        of noisy genes compared with 1, and the weight of the few genes with the largest variance compared with 0.
    feature_total
        If the median library size is above this value, counts are scaled down to it before the features are
        log-transformed, because noise in low counts would otherwise dominate their variance. ``None`` disables this
        scaling, as published.
    n_hidden
        Width of the hidden layers in the encoder and decoder.
    n_latent
        Dimensionality of the latent space and of the gene embedding.
    dispersion
        One of ``"gene"`` (one inverse dispersion per gene) or ``"gene-cell"`` (one per gene and cell, as published).
    use_graph
        Whether genes send messages; ``False`` is intended for ablations.
    start
        How to initialise the encoder: with the axes that best separate small groups of cells, relative to the spread
        within groups (``"discriminant"``), with the leading principal axes of the features (``"pca"``), or with random
        weights (``"random"``, as published). Unless ``"random"`` is used, the decoder is initialised with the gene
        means.
    seed
        Random seed; ``None`` uses ``scvi.settings.seed``, or 0 if that is not set. The global
        random state is neither used nor changed.
    registry
        Registry of the data module to train on (``datamodule.registry``), as an alternative to ``adata``.

    **moved
        Not accepted. The error message explains where to pass these arguments of the training plans.

    Attributes
    ----------
    module
        The neural network.
    n_clusters_
        Number of clusters, or ``None`` if it has not been estimated yet.
    n_clusters_curve_
        Table on which the estimate is based, or ``None`` if the number was given. Each row describes the split of the
        tree that leads to ``K`` clusters: the ``share`` of the partitions that separate its two sides, its
        ``separation`` on held-out molecules, the ``p_value`` for a separation of more than 1.11 (both NaN if the split
        was not tested because too few partitions make it or a split above it does not hold), and whether it ``holds``.
        The estimate is one more than the number of splits that hold, or 1 if no groups of cells are clearly separated.
    cluster_names_
        Names of the clusters found in training, in the column order of ``predict(soft=True)`` until another level of
        the tree is chosen. If there are labels, these are the
        labelled types followed by ``"new 0"``, ...; otherwise they are ``"0"``, ``"1"``, ..., starting with the largest
        cluster in training.
    seed_
        Random seed.
    gene_names_
        Registered genes in their original order, available once training has started.
    selected_genes_
        Genes used by the model, in the model's order.
    unit_size_
        Library size (or given size factor) that corresponds to a size factor of 1.
    gene_shares_
        Share of each registered gene in the training library, shape (n_vars,).

    Examples
    --------
    >>> import scgpcl
    >>> adata = scgpcl.datasets.pbmc3k()
    >>> scgpcl.SCGPCL.setup_anndata(adata, layer="counts")
    >>> model = scgpcl.SCGPCL(adata, n_clusters=9)
    >>> model.train()  # doctest: +SKIP
    >>> adata.obs["scgpcl_cluster"]  # doctest: +SKIP
    """

    _module_cls = SCGPCLModule
    #: Versions of the file format and of the package, saved with the model.
    file_format_: dict[str, Any] | None = None
    #: Fingerprint of the registered counts from the last time they were checked as a whole.
    _seen: str | None = None
    #: Registry of scvi-tools, and what was read from it.
    _registration: tuple[dict, Registration] | None = None

    def __init__(
        self,
        adata: AnnData | None = None,
        n_clusters: int | None = None,
        *,
        n_top_genes: float | None = 1000,
        keep_genes: Sequence[str] | None = None,
        gene_flavor: Literal["discriminant", "pearson_residuals", "seurat", "variance"] = "discriminant",
        gene_scaling: float = 0.75,
        feature_total: float | None = 2000.0,
        n_hidden: int = 128,
        n_latent: int = 64,
        dispersion: Literal["gene", "gene-cell"] = "gene",
        use_graph: bool = True,
        start: Literal["discriminant", "pca", "random"] = "discriminant",
        seed: int | None = None,
        registry: dict | None = None,
        **moved: Any,
    ) -> None:
        _refuse_moved(moved)
        if adata is None and registry is None:
            msg = "Expected an AnnData, found none. Pass one that `SCGPCL.setup_anndata(adata)` has registered."
            raise ValueError(msg)
        if adata is not None:
            _input.check_is_adata(adata)
        values = check(
            n_clusters=n_clusters,
            n_top_genes=n_top_genes,
            keep_genes=keep_genes,
            gene_flavor=gene_flavor,
            gene_scaling=gene_scaling,
            feature_total=feature_total,
            n_hidden=n_hidden,
            n_latent=n_latent,
            dispersion=dispersion,
            use_graph=use_graph,
            start=start,
        )
        if seed is not None:
            seed = check(seed=seed)["seed"]
        self.n_clusters_ = values["n_clusters"]
        if adata is not None and self.n_clusters_ is not None:
            check_enough_cells(self.n_clusters_, adata.n_obs)
        try:
            super().__init__(adata, own_registry(type(self), registry))
        except ValueError as error:
            msg = (
                f"Expected an AnnData that is registered, found one that is not: {error} "
                "Call `SCGPCL.setup_anndata(adata)` first, on this very object."
            )
            raise ValueError(msg) from error
        n_vars, n_batch = self.summary_stats.n_vars, self.summary_stats.n_batch
        n_types = len(self.registration.types)
        if self.n_clusters_ is not None and self.n_clusters_ < n_types:
            msg = (
                f"Expected at least as many clusters as labelled types, found `n_clusters={n_clusters}` for {n_types} types. "
                "Pass `n_clusters=None` to find clusters beside the types, or their number if there are no others."
            )
            raise ValueError(msg)
        self.n_clusters_curve_ = None
        self.keep_genes = self._checked_genes(values["keep_genes"])
        self.gene_flavor = values["gene_flavor"]
        self.gene_scaling = values["gene_scaling"]
        self.feature_total = values["feature_total"]
        self.start = values["start"]
        self.seed_ = int(seed if seed is not None else settings.seed or 0)
        self.gene_names_ = None
        self.selected_genes_ = None
        self.unit_size_ = None
        self.gene_shares_ = None
        self._note_counts()
        with held(), seeded(self.seed_):
            self.module = SCGPCLModule(
                max(_n_selected(values["n_top_genes"], n_vars), len(self.keep_genes or ())),
                self.n_clusters_,
                n_hidden=values["n_hidden"],
                n_latent=values["n_latent"],
                dispersion=values["dispersion"],
                use_graph=values["use_graph"],
                n_batch=n_batch if n_batch > 1 else 0,
            )
        self.init_params_ = self._get_init_params({**locals(), **values, "seed": seed})

    def _checked_genes(self, names: list[str] | None) -> list[str] | None:
        missing = [] if names is None else [name for name in names if name not in self.registered_genes]
        if missing:
            msg = (
                f"Expected registered genes in `keep_genes`, found {_input.listed(missing)} not in `adata.var_names`. "
                "Check the spelling, or leave them out."
            )
            raise KeyError(msg)
        return names

    @property
    def summary_string(self) -> str:
        """Summary of the model and its training state."""
        params = self.init_params_["non_kwargs"]
        asked = params.get("n_clusters")
        number = str(self.n_clusters_ or "to be estimated")
        n_types = len(self.registration.types)
        if self.n_clusters_ is not None and n_types:
            number += f" ({n_types} labelled types, {self.n_clusters_ - n_types} new)"
        elif asked is None and self.n_clusters_ is not None:
            more = also_stable(self._runners_up())
            number += f" (estimated; {more})" if more else " (estimated)"
        trained = "not trained"
        if self.is_trained_:
            n_epochs = len(self.history_[_keys.STAGE]) if self.history_ and _keys.STAGE in self.history_ else 0
            trained = f"trained for {n_epochs} epochs"
        return (
            f"SCGPCL model, {trained}\n"
            f"  genes: {self.module.n_genes} of {self.summary_stats.n_vars}\n"
            f"  clusters: {number}\n"
            f"  n_hidden: {params['n_hidden']}, n_latent: {params['n_latent']}, dispersion: {params['dispersion']}, "
            f"seed: {self.seed_}"
        )

    def _runners_up(self) -> list[int]:
        """Return other stable numbers of clusters, if the number was estimated."""
        curve, number = self.n_clusters_curve_, self.n_clusters_
        return [] if curve is None or number is None else runners_up(curve, number)

    def __repr__(self) -> str:
        return self.summary_string

    def __dir__(self) -> list[str]:
        # scvi-tools gives every model methods that only work for models with variational posteriors
        return [name for name in super().__dir__() if name != "differential_abundance"]

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str = "Unknown",
        categorical_covariate_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData with the model. Nothing is registered unless all checks pass.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
        batch_key
            Column of ``adata.obs`` that contains the batch of each cell. Batch effects are always corrected: features
            are standardised per batch, messages from genes are centred per batch, and the decoder receives the batch.
            New cells need the same column, and their batches are matched by name: 1, 1.0 and "1" are the same batch,
            and so are a date, a time stamp and a string that denote the same day.
        size_factor_key
            Column of ``adata.obs`` that contains size factors to use instead of library sizes. They are divided by
            their median.
        labels_key
            Column of ``adata.obs`` that contains the types of some or all cells. Clusters are then named after the
            types, and cells that match none of them form the clusters ``"new 0"``, ``"new 1"``, .... If only a few
            labels are wrong, they are outvoted. New cells do not need labels. Types are named in the same way as
            batches.
        unlabeled_category
            Value in this column that marks unlabelled cells.
        categorical_covariate_keys
            Columns of ``adata.obs`` that subdivide the batches, such as donors within studies. Each combination with
            ``batch_key`` that occurs in the data is treated as a separate batch, with a name such as
            ``"study 1 / donor 2"`` in ``transform_batch``.

        Raises
        ------
        KeyError
            If the layer or a column does not exist.
        TypeError
            If the storage format of the counts is not supported. The error message explains how to convert them.
        ValueError
            If the counts are not non-negative whole numbers, if a cell has no counts, if names are repeated, or if
            ``adata`` is a view.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls.register_manager(checked_manager(adata, setup_method_args, **kwargs))

    @held()
    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str = _keys.STEM,
        min_confidence: float | None = None,
        max_novelty: float | None = None,
        transform_batch: str | None = None,
        max_missing: float = MAX_MISSING,
    ) -> None:
        """Write the model's results to an AnnData.

        Parameters
        ----------
        adata
            AnnData to annotate; ``None`` uses the registered AnnData.
        key_added
            Stem of the keys listed below, which replaces ``scgpcl``.
        min_confidence
            Cells with a confidence below this value are named ``"unassigned"``, which is the last category; ``None``
            names every cell after its cluster. Probabilities and confidence are not changed.
        max_novelty
            Cells with a novelty above this value are named ``"unassigned"`` too, see :meth:`get_novelty`.
        transform_batch, max_missing
            See :meth:`get_latent_representation`.

        Notes
        -----
        This method writes ``obsm["X_scgpcl"]`` (latent vectors), ``obs["scgpcl_cluster"]`` (cluster names, where "0" is
        the largest cluster in training), ``obsm["scgpcl_probability"]``, ``obs["scgpcl_confidence"]`` (probability of
        the cluster of each cell), ``var["scgpcl_selected"]`` and ``uns["scgpcl"]`` (a ``"summary"``, the
        parameters in ``"params"``, and ``"cluster_sizes"``, a table with the ``size`` of each cluster). Nothing else is
        changed.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If an argument is out of range, if ``adata`` is a view, if the model's own columns would be overwritten, or
            if ``uns`` has an entry named ``key_added`` that is not an earlier annotation.
        """
        _ = self.reference  # first, raise an error if the model is not trained
        values = check(min_confidence=min_confidence, key_added=key_added)
        values |= check("get", max_missing=max_missing, max_novelty=max_novelty)
        target = self._target(adata)
        self._check_written(target, values["key_added"])
        self._write(target, transform_batch=transform_batch, **values)

    def _check_written(self, adata: AnnData, key_added: str) -> None:
        """Check that an annotation can be written and replaces only an earlier annotation."""
        _input.check_not_view(adata)
        registered, written = self.registration, names(key_added)
        columns = {name: getattr(registered, name) for name in ("batch_key", "labels_key", "size_factor_key")}
        check_not_overwritten(written, **columns, categorical_covariate_keys=registered.batch_columns)
        if key_added != _keys.STEM:  # the package's own name
            _input.check_not_replaced(adata, written.uns, NOTED)

    def _annotate_registered(self) -> None:
        self._write(cast("AnnData", self.adata), key_added=_keys.STEM, min_confidence=None, transform_batch=None)

    def _write(
        self,
        adata: AnnData,
        *,
        key_added: str,
        min_confidence: float | None,
        transform_batch: str | None,
        max_missing: float = MAX_MISSING,
        max_novelty: float | None = None,
    ) -> None:
        """Compute all results, then write them to the AnnData."""
        selected = self._make_reference().selected
        parameters = {name: value for name, value in self.init_params_["non_kwargs"].items() if value is not None}
        parameters |= {"n_clusters": self.n_clusters_, "seed": self.seed_, "version": version("scgpcl")}
        encoded = self._encode(adata, None, transform_batch, None, max_missing=max_missing, partition=self.level_)
        if adata is self.adata:
            self._count_cells(encoded.z)
        assigned = self._assign(encoded, self.level_)
        annotate(
            adata,
            latent=self._reported(encoded.z),
            assigned=assigned,
            selected=selected,
            parameters=parameters,
            also_stable=self._runners_up(),
            key_added=key_added,
            min_confidence=min_confidence,
            max_novelty=max_novelty,
            novel=self._novel(encoded.z, max_novelty),
        )

    def save(
        self,
        dir_path: str | os.PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        *,
        safe: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model to a folder.

        A file only appears, or replaces an older file, once it is complete. After training with several processes, only
        the first process writes files.

        Parameters
        ----------
        dir_path
            Folder to which the model is saved. Missing parent folders are created.
        prefix
            Prefix of the file names.
        overwrite
            Whether to write into an existing folder. Other files in the folder are kept.
        save_anndata
            Whether to save the registered AnnData as well.
        save_kwargs
            Keyword arguments passed to :func:`torch.save`.
        safe
            Whether to write an HDF5 file, ``model.h5``, with anndata's own writer instead of a pickle file. Reading
            this file does not run any code, so it is safe to load models from other people.
        **anndata_write_kwargs
            Keyword arguments passed to :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        OSError
            If the files cannot be written, for example because of a lack of space or permissions. Existing files are
            then left unchanged.
        ValueError
            If the folder exists and ``overwrite`` is not set, or if the counts or genes of the AnnData to be saved have
            changed in such a way that it could not be loaded again.
        """
        safe = check(safe=safe)["safe"]
        if self.trainer is not None and not self.trainer.is_global_zero:
            return
        if save_anndata:
            self._check_registered()
        more = {"save_anndata": save_anndata, "save_kwargs": save_kwargs, **anndata_write_kwargs}
        save_model(self, super().save, Path(dir_path), prefix or "", overwrite=overwrite, safe=safe, **more)

    @classmethod
    @held()
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | bool | None = None,
        accelerator: str = "auto",
        device: int | str | torch.device = "auto",
        prefix: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model saved with :meth:`scgpcl.SCGPCL.save`.

        ``model.pt`` is a pickle file, which can run arbitrary code when it is read. Only load files that you trust or
        that were written with ``save(..., safe=True)``, which are recognised by their name.

        Parameters
        ----------
        dir_path
            Folder that contains the saved model.
        adata
            AnnData to register with the model; ``None`` uses the saved AnnData, if there is one, and ``False`` loads no
            cells. Its genes must be those of the model, in any order, and it must have the columns with which the model
            was set up. To label other cells, load without cells and pass them to :meth:`predict` or :meth:`annotate`.
        accelerator, device
            Device on which to load the model. ``device`` is the number of a GPU or the name of a device, such as
            ``"cpu"`` or ``"cuda:1"``.
        prefix
            Prefix of the file names.
        **kwargs
            Further keyword arguments passed to :meth:`scvi.model.base.BaseModelClass.load`.

        Returns
        -------
        The loaded model.

        Raises
        ------
        FileNotFoundError
            If no saved model is found.
        KeyError
            If ``adata`` lacks a column with which the model was set up.
        TypeError
            If ``adata`` is not an AnnData.
        ValueError
            If the file is damaged or belongs to another class or another version, or if the genes of ``adata`` are not
            those of the model.
        """
        if adata is not None and adata is not False:
            _input.check_is_adata(adata)
        where = check_device(accelerator, device)
        return load_model(cls, super().load, Path(dir_path), adata, prefix or "", **where, **kwargs)

    @property
    def registered_genes(self) -> pd.Index:
        """Genes of the registered AnnData or data module."""
        return self.adata.var_names if self.adata is not None else pd.Index(self.get_var_names())

    @property
    def registration(self) -> Registration:
        """Where counts, size factors and batches are stored in an AnnData, and the names of the batches."""
        if self._registration is None or self._registration[0] is not self.registry_:
            self._registration = self.registry_, self._read_registry()
        return self._registration[1]

    def _read_registry(self) -> Registration:
        arguments = self.registry_["setup_args"]
        places = {name: arguments.get(name) for name in ("layer", "size_factor_key", "batch_key", "labels_key")}
        batches = self.get_state_registry(REGISTRY_KEYS.BATCH_KEY).categorical_mapping
        types, unlabeled = pd.Index([]), None
        if places["labels_key"] is not None:
            labels = self.get_state_registry(REGISTRY_KEYS.LABELS_KEY)
            names = {batch_name(name) for name in labels.categorical_mapping}
            unlabeled = batch_name(labels.unlabeled_category)
            types = pd.Index(sorted(names - {unlabeled}))
        return Registration(
            **places,
            batches=pd.Index([batch_name(name) for name in batches]),
            batch_columns=batch_columns(arguments),
            types=types,
            unlabeled=unlabeled,
        )

    @property
    def reference(self) -> Reference:
        """Properties of the training data against which new cells are matched; requires a trained model."""
        if self.gene_names_ is None or self.module.centers is None or not self.is_trained_:
            found = "whose training has not finished" if self.history_ else "that has not been trained"
            msg = f"Expected a trained model, found one {found}. Call `model.train()` first."
            raise RuntimeError(msg)
        return self._make_reference()

    def _make_reference(self) -> Reference:
        parts = self.gene_names_, self.selected_genes_, self.unit_size_, self.gene_shares_
        genes, selected, unit_size, shares = cast("tuple[np.ndarray, np.ndarray, float, np.ndarray]", parts)
        return Reference(self.registration, pd.Index(genes), pd.Index(selected), unit_size, shares, seen=self._seen)

    def _names_at_setup(self) -> pd.Index:
        """Return the genes at the time of registration."""
        return pd.Index(self.get_state_registry(REGISTRY_KEYS.X_KEY)[LayerField.COLUMN_NAMES_KEY])

    def _check_registered(self) -> None:
        """Check that the AnnData has counts and the registered genes, which are required for loading."""
        adata = self._target(None)
        check_same_genes(adata.var_names, self._names_at_setup())
        _input.check_counts(_input.counts_of(adata, self.registration.layer), self.registration.layer)

    def _note_counts(self) -> None:
        """Store the fingerprint of the registered counts, which have just been checked."""
        if self.adata is not None:
            self._seen = _input.fingerprint(_input.counts_of(self.adata, self.registration.layer))


def _n_selected(n_top_genes: float | None, n_vars: int) -> int:
    """Return how many of ``n_vars`` genes a model uses; a float up to 1 is a fraction of the genes."""
    if n_top_genes is None:
        return n_vars
    if isinstance(n_top_genes, float) and n_top_genes <= 1:
        return max(2, round(n_top_genes * n_vars))
    return min(int(n_top_genes), n_vars)


def _refuse_moved(moved: dict[str, Any]) -> None:
    for name, place in MOVED.items():
        if name in moved:
            msg = (
                f"Expected `{name}` as an argument of a training stage, found it in `SCGPCL(...)`. "
                f"Pass `model.train({place}={{{name!r}: {moved[name]!r}}})`."
            )
            raise TypeError(msg)
    check_known(moved, (), "SCGPCL")
