"""The user's model."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Literal

import rich.pretty  # noqa: F401  (scvi's `view_anndata_setup` uses it without importing it)
from scvi import REGISTRY_KEYS, settings
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField, NumericalObsField
from scvi.utils import setup_anndata_dsp

from scgpcl import _keys
from scgpcl._random import seeded
from scgpcl.model import _checks
from scgpcl.model._annotate import annotate
from scgpcl.model._arguments import check_arguments
from scgpcl.model._batches import check_batch_names
from scgpcl.model._card import HubCard
from scgpcl.model._cells import DATAMODULE_SETUP, stand_in
from scgpcl.model._decoder import DecoderTraining
from scgpcl.model._features import n_selected
from scgpcl.model._query import QueryPreparation
from scgpcl.model._samples import Samples
from scgpcl.model._saving import Persistence
from scgpcl.model._update import QueryUpdate
from scgpcl.module import SCGPCLModule

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


class SCGPCL(Persistence, QueryUpdate, DecoderTraining, QueryPreparation, Samples, HubCard):
    """Clustering of single-cell counts by graph prototypical contrastive learning (Lee et al. 2023).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_clusters
        Number of clusters. ``None`` estimates it from the pre-trained latent space by the stability of clusterings, see
        :func:`scgpcl.cluster.estimate_n_clusters`, and keeps ``n_clusters_`` and ``n_clusters_curve_``.
    n_top_genes
        Number of genes to use, chosen from the registered counts when training starts; a float up to 1 is a share of
        them, ``None`` uses all. Data with fewer genes is used whole. The AnnData is not subset.
    gene_flavor
        ``"seurat"``: normalised dispersion, as in scanpy. ``"variance"``: variance of the raw counts, as published.
    feature_total
        Where the median library size is above this, counts are scaled down to it before the logarithm of the features:
        in deep libraries the logarithm would else turn the noise of small counts into most of the variance. ``None``
        never scales, as published.
    n_hidden
        Width of the hidden layers of encoder and decoder.
    n_latent
        Width of the latent cell vector and of the gene embedding.
    n_layers
        Graph layers of the encoder.
    dispersion
        Inverse dispersion per ``"gene"``, or per ``"gene-cell"`` as published.
    reconstruction
        ``"zinb"`` or ``"mse"``. With ``"mse"`` there is no distribution of counts, so no denoised expression.
    tau
        Temperature of the contrastive losses.
    alpha
        Degrees of freedom of the Student-t assignment (published: 1). More give surer assignments: in many latent
        dimensions all distances are alike, and one degree tells them hardly apart.
    neighbor_keep
        Share of the genes that a view keeps as neighbours.
    feature_drop
        Probability that a view zeroes a feature column.
    shrinkage
        Power by which the length of latent vectors is reduced before they are clustered: 0 leaves it (published), 1
        leaves directions only. ``"auto"`` tries several and keeps the partition with the best cosine silhouette among
        principal components of the counts, see :func:`scgpcl.cluster.select_start`.
    projection
        Compare views by a projection of the latent vector, not by the vector itself (published: itself).
    use_graph
        Without it genes send no messages: an ablation.
    start
        Start the encoder at the leading principal axes of the features and the decoder at the genes' means (``"pca"``),
        or both at random (published).
    seed
        Seed of everything random; ``None`` takes ``scvi.settings.seed``, or 0 where that is not set. The global
        random state is neither used nor changed.
    registry
        ``datamodule.registry`` of the data module to train on, in place of ``adata``.

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

    def __init__(
        self,
        adata: AnnData | None = None,
        n_clusters: int | None = None,
        *,
        n_top_genes: float | None = 2000,
        gene_flavor: Literal["seurat", "variance"] = "seurat",
        feature_total: float | None = 2000.0,
        n_hidden: int = 128,
        n_latent: int = 64,
        n_layers: int = 2,
        dispersion: Literal["gene", "gene-cell"] = "gene",
        reconstruction: Literal["zinb", "mse"] = "zinb",
        tau: float = 0.25,
        alpha: float = 10.0,
        neighbor_keep: float = 0.8,
        feature_drop: float = 0.2,
        shrinkage: float | Literal["auto"] = "auto",
        projection: bool = True,
        use_graph: bool = True,
        start: Literal["pca", "random"] = "pca",
        seed: int | None = None,
        registry: dict | None = None,
    ) -> None:
        check_arguments(locals())
        self._start(adata, self._own_registry(registry))
        n_vars, n_batch = self.summary_stats.n_vars, self.summary_stats.n_batch
        self.n_clusters_ = None if n_clusters is None else int(n_clusters)
        self.n_clusters_curve_ = None
        self.gene_flavor = gene_flavor
        self.feature_total = feature_total
        self.start = start
        self.shrinkage = shrinkage
        self.seed_ = int(seed if seed is not None else settings.seed or 0)
        self.gene_names_ = None
        self.selected_genes_ = None
        self.unit_size_ = None
        self.gene_shares_ = None
        with seeded(self.seed_):
            self.module = SCGPCLModule(
                n_selected(n_top_genes, n_vars),
                self.n_clusters_,
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                dispersion=dispersion,
                reconstruction=reconstruction,
                projection=projection,
                use_graph=use_graph,
                tau=tau,
                alpha=alpha,
                neighbor_keep=neighbor_keep,
                feature_drop=feature_drop,
                n_batch=n_batch if n_batch > 1 else 0,
            )
        self._model_summary_string = (
            f"SCGPCL model with {self.module.n_genes} of {n_vars} genes, n_clusters: {n_clusters or 'estimated'}, "
            f"n_hidden: {n_hidden}, n_latent: {n_latent}, n_layers: {n_layers}, dispersion: {dispersion}, "
            f"reconstruction: {reconstruction}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register counts with the model; nothing is registered unless everything is in order.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
        batch_key
            Column of ``adata.obs`` with the batch of each cell, to be corrected for whatever the preset: features are
            standardised per batch, messages from genes centred per batch, and the decoder is given the batch. New cells
            need the same column; their batches are matched by name.
        size_factor_key
            Column of ``adata.obs`` with size factors, used in place of library sizes; they are divided by their median.

        Raises
        ------
        KeyError
            If the layer or a column does not exist.
        TypeError
            If the counts are stored in a form that is not supported; the message says how to convert them.
        ValueError
            If the counts are not whole numbers of zero or more, if a cell has none, if names are repeated, or if
            ``adata`` is a view.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls.register_manager(cls._checked_manager(adata, setup_method_args, **kwargs))

    @classmethod
    def _checked_manager(cls, adata: AnnData, setup_method_args: dict[str, Any], **kwargs: Any) -> AnnDataManager:
        """Register the fields of an AnnData with a manager of its own."""
        arguments = setup_method_args["setup_args"]
        layer, batch_key, size_factor_key = (arguments[name] for name in ("layer", "batch_key", "size_factor_key"))
        _checks.check_is_adata(adata)
        _checks.check_not_view(adata)
        _checks.check_names(adata.obs_names, "obs_names")
        _checks.check_names(adata.var_names, "var_names")
        _checks.check_obs_key(adata, batch_key, "batch_key")
        check_batch_names(adata, batch_key)
        _checks.check_size_factors(adata, size_factor_key)
        _checks.check_counts(_checks.counts_of(adata, layer), layer)
        fields = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=True),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        with seeded(0), warnings.catch_warnings():  # the field samples values from the global state
            warnings.filterwarnings("ignore", message="Training will be faster")  # columns are taken as CSR anyway
            manager.register_fields(adata, **kwargs)
        return manager

    @classmethod
    def _own_registry(cls, registry: dict | None) -> dict | None:
        """Turn the registry of a data module into that of an AnnData with its genes and batches; leave others."""
        if registry is None or registry.get("setup_method_name") != DATAMODULE_SETUP:
            return registry
        adata = stand_in(registry)
        arguments = {"adata": adata, "size_factor_key": None}
        arguments |= {name: registry["setup_args"].get(name) for name in ("layer", "batch_key")}
        own = cls._checked_manager(adata, cls._get_setup_method_args(cls=cls, **arguments)).registry
        given, x = (each["field_registries"][REGISTRY_KEYS.X_KEY] for each in (registry, own))
        x["state_registry"]["n_obs"] = x["summary_stats"]["n_cells"] = int(given["state_registry"]["n_obs"])
        return own

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str = _keys.STEM,
        min_confidence: float | None = None,
        transform_batch: str | None = None,
    ) -> None:
        """Write the model's results to an AnnData.

        Parameters
        ----------
        adata
            Cells to annotate; ``None`` is the registered AnnData.
        key_added
            Stem of the keys below.
        min_confidence
            Cells whose confidence is below this are named ``"unassigned"``, the last category; ``None`` names all by
            their cluster. Probabilities and confidence stay as they are.
        transform_batch
            See :meth:`get_latent_representation`.

        Notes
        -----
        Writes ``obsm["X_scgpcl"]`` (latent vectors), ``obs["scgpcl_cluster"]`` (names, "0" the largest in training),
        ``obsm["scgpcl_probability"]``, ``obs["scgpcl_confidence"]`` (the probability of the cell's cluster),
        ``var["scgpcl_selected"]`` and ``uns["scgpcl"]``. Nothing else changes.
        """
        frame = self._trained_frame()
        _checks.check_min_confidence(min_confidence)
        _checks.check_key_added(key_added)
        target = self.adata if adata is None else adata
        if target is None:
            msg = "Expected an AnnData, found none: the model is without. Pass `adata=`."
            raise ValueError(msg)
        _checks.check_is_adata(target)
        _checks.check_not_view(target)
        latent = self.get_latent_representation(target, transform_batch=transform_batch)
        parameters = {name: value for name, value in self.init_params_["non_kwargs"].items() if value is not None}
        parameters |= {"n_clusters": self.n_clusters_, "seed": self.seed_, "version": _version()}
        annotate(
            target,
            latent=latent,
            probability=self._probability(latent, target.obs_names),
            selected=frame.selected,
            parameters=parameters,
            key_added=key_added,
            min_confidence=min_confidence,
        )


def _version() -> str:
    from scgpcl import __version__

    return __version__
