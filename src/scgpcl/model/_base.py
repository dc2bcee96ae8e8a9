"""What training and getters share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from scgpcl.data import DataModuleCounts
from scgpcl.model import _checks
from scgpcl.model._batches import batch_code, batch_index
from scgpcl.model._cells import TrainingCells
from scgpcl.model._inference import GeneFrame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import lightning.pytorch as pl
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
    #: Data module of the last training, of a model without an AnnData.
    _datamodule: Any = None
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

    def _registered_genes(self) -> pd.Index:
        return self.adata.var_names if self.adata is not None else pd.Index(self.get_var_names())

    def _training_cells(self) -> TrainingCells:
        """Cells of the registered AnnData, or of the data module, whose counts are checked.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they are no counts, or if a column is missing.
        """
        if self.adata is None:
            counts = DataModuleCounts(self._datamodule)
            _checks.check_counts(counts, None, place="the data module")
            return TrainingCells(counts, self._registered_genes(), None, self._known_codes(counts.batch_index))
        layer, size_key = self._setup_arg("layer"), self._setup_arg("size_factor_key")
        counts = _checks.counts_of(self.adata, layer)
        _checks.check_counts(counts, layer)  # again: counts are often normalised in place after they were registered
        size = None if size_key is None else self.adata.obs[size_key].to_numpy(dtype=np.float64)
        return TrainingCells(counts, self.adata.var_names, size, self._batch_index(self.adata))

    def _known_codes(self, codes: Any) -> np.ndarray | None:
        """Batch codes of a data module, shape (n_cells,); ``None`` where the model knows fewer than two batches.

        Raises
        ------
        ValueError
            If a code is not one of the model's.
        """
        n_batch = len(self._batch_names())
        if n_batch < 2:
            return None
        if len(codes) and (codes.min() < 0 or codes.max() >= n_batch):
            msg = (
                f"Expected batch codes from 0 to {n_batch - 1} from the data module, found {codes.min()} to "
                f"{codes.max()}. Use one with the batches of the model, {_checks.listed(self._batch_names())}."
            )
            raise ValueError(msg)
        return codes

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
