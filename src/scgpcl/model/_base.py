"""What training and getters share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from scgpcl.model._batches import batch_code, batch_index
from scgpcl.model._inference import GeneFrame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import lightning.pytorch as pl
    import numpy as np
    from anndata import AnnData

    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import GeneFlavor


class ModelState(BaseModelClass):
    """State of a model; attributes with a trailing underscore are saved.

    Attributes
    ----------
    module
        The network.
    n_clusters_
        Number of clusters, ``None`` until it is estimated.
    n_clusters_curve_
        What the estimate rests on, see :class:`scgpcl.cluster.NClusters`; ``None`` where the number was given.
    seed_
        Seed of everything random.
    gene_names_
        Registered genes, in their order, once training has started.
    selected_genes_
        Genes that the model uses, in its order.
    unit_size_
        Library size (or given size factor) of a cell whose size factor is 1.
    gene_shares_
        Part of each registered gene in the training library, shape (n_vars,).
    """

    module: SCGPCLModule
    n_clusters_: int | None
    n_clusters_curve_: pd.DataFrame | None
    seed_: int
    gene_flavor: GeneFlavor
    feature_total: float | None
    start: str
    shrinkage: float | Literal["auto"]
    gene_names_: np.ndarray | None
    selected_genes_: np.ndarray | None
    unit_size_: float | None
    gene_shares_: np.ndarray | None
    #: Trainer of the last stage.
    trainer: pl.Trainer | None = None

    def _start(self, adata: AnnData | None, registry: dict | None) -> None:
        """Start the base class.

        Raises
        ------
        ValueError
            If the AnnData is not registered.
        """
        try:
            BaseModelClass.__init__(self, adata, registry)
        except ValueError as error:
            msg = (
                f"Expected an AnnData that is registered, found one that is not: {error} "
                "Call `SCGPCL.setup_anndata(adata)` first, on this very object."
            )
            raise ValueError(msg) from error

    @property
    def _frame(self) -> GeneFrame | None:
        names, selected, unit, shares = self.gene_names_, self.selected_genes_, self.unit_size_, self.gene_shares_
        if names is None or selected is None or unit is None or shares is None:
            return None
        return GeneFrame(pd.Index(names), pd.Index(selected), unit, shares)

    def _trained_frame(self) -> GeneFrame:
        """Gene reference of a trained model.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        frame = self._frame
        if frame is None or self.module.centers is None or not self.is_trained_:
            msg = "Expected a trained model, found one that has not been trained. Call `model.train()` first."
            raise RuntimeError(msg)
        return frame

    @contextmanager
    def _kept_on_failure(self) -> Iterator[None]:
        """Give the model its state back if the block fails, and its split into registered cells in any case."""
        model = cast("Any", self)
        state = {name: value.clone() for name, value in self.module.state_dict().items()}
        history, split = model.history_, (model.train_indices, model.validation_indices, model.test_indices)
        try:
            yield
        except BaseException:
            self.module.load_state_dict(state)
            model.history_ = history
            raise
        finally:
            model.train_indices, model.validation_indices, model.test_indices = split

    def _setup_arg(self, name: str) -> Any:
        return self.registry_["setup_args"].get(name)

    def _batch_index(
        self, adata: AnnData, transform_batch: str | None = None, *, unseen: bool = False
    ) -> np.ndarray | None:
        """Position of each cell's batch among the model's, see :func:`scgpcl.model._batches.batch_index`.

        Raises
        ------
        KeyError, ValueError
            If the column is missing or has missing values, or if a batch is not one of the model's.
        """
        return batch_index(adata, self._setup_arg("batch_key"), self._batch_names(), transform_batch, unseen=unseen)

    def _target_batches(self, transform_batch: str | Sequence[str] | None) -> list[int | None]:
        """Positions of the named batches; one ``None`` stands for each cell's own."""
        if transform_batch is None:
            return [None]
        names = [transform_batch] if isinstance(transform_batch, str) else list(transform_batch)
        if not names:
            msg = (
                "Expected at least one batch in `transform_batch`, found an empty list. Pass None for each cell's own."
            )
            raise ValueError(msg)
        return [batch_code(name, self._setup_arg("batch_key"), self._batch_names()) for name in names]

    def _batch_names(self) -> pd.Index:
        return pd.Index([str(n) for n in self.get_state_registry(REGISTRY_KEYS.BATCH_KEY).categorical_mapping])
