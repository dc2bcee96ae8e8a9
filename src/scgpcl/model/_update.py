"""Training that goes on with new cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgpcl import presets
from scgpcl._random import derived_seed, seeded
from scgpcl.data import BipartiteSplitter, CountSource
from scgpcl.model import _checks
from scgpcl.model._getters import ENCODE_BATCH, Getters
from scgpcl.model._training import TwoStageTraining
from scgpcl.model._training_checks import check_plan_kwargs, check_trainer
from scgpcl.train import ClusterPlan, StageSettings, TargetUpdate, encode_all, fit_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from scgpcl.data import BipartiteBatch

_TRAIN = presets.DEFAULT["train"]


class QueryUpdate(TwoStageTraining, Getters):
    """``update``: the clustering stage goes on with the registered cells and new ones."""

    def update(
        self,
        query: AnnData,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int | None = None,
        label_tol: float | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Go on with the clustering stage on the registered cells and the query together.

        Encoder, decoder and cluster centres learn on, at the low learning rate of the clustering stage; then the
        statistics and gene states of inference are computed again from all these cells. What describes the data stays:
        the model's genes, the moments of their features, the library size of reference, the number of clusters, their
        names, and the length that latent vectors keep. So cluster "3" is the same cluster before and after. A query
        type that the reference lacks gets no cluster of its own: train a new model for that.

        Parameters
        ----------
        query
            New cells, matched and checked as in :meth:`get_latent_representation`; none of the model's genes may be
            missing, since a gene that was not measured cannot be learnt from. Not changed.
        max_epochs
            Largest number of epochs; ``None`` takes the default preset's ``cluster_max_epochs``. 0 only computes the
            statistics and gene states again.
        accelerator, devices
            See :meth:`train`.
        batch_size
            Largest number of cells of a mini-batch.
        label_tol
            Ends when less than this share of the labels changes in an epoch.
        plan_kwargs
            Arguments of :class:`scgpcl.train.ClusterPlan` that differ from the default preset.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`.

        Notes
        -----
        Writes to the registered AnnData, if there is one, what :meth:`train` writes. The query is not kept: save the model to keep what
        it learnt, and call :meth:`annotate` to label the query. The counts of the model's genes of all cells are in
        memory meanwhile. If the update fails, the model is as it was.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If an argument is out of range, if genes are missing, or if the model was loaded without its cells:
            without the reference, batch normalisation and gene states would follow the query alone and the labels of
            the reference with them.
        """
        self._trained_frame()
        values: dict[str, Any] = {"cluster_max_epochs": max_epochs, "batch_size": batch_size, "label_tol": label_tol}
        values = dict(_TRAIN) | {name: value for name, value in values.items() if value is not None}
        self._check_training(values)
        check_trainer(accelerator, devices, trainer_kwargs)
        check_plan_kwargs(ClusterPlan, plan_kwargs, "plan_kwargs")
        if trainer_kwargs.get("early_stopping"):
            msg = (
                "Expected no `early_stopping` in `update`, found it set: no cells are kept to validate on. "
                "Lower `max_epochs`."
            )
            raise ValueError(msg)
        source = _joined(self._query_source(query), self._prepare())
        splitter = BipartiteSplitter(
            source, seed=derived_seed(self.seed_, 30), batch_size=values["batch_size"], train_size=1.0
        )
        plan = {**_TRAIN["cluster_plan_kwargs"], **(plan_kwargs or {})}
        settings = StageSettings(values["cluster_max_epochs"], accelerator, devices, trainer_kwargs)
        with self._kept_on_failure(), seeded(derived_seed(self.seed_, 3)):
            if settings.max_epochs > 0:
                update = TargetUpdate(splitter, tol=values["label_tol"])
                fit_stage(self, ClusterPlan(self.module, seed=self.seed_, **plan), splitter, [update], settings)
            encode_all(self.module, splitter)
        if self.adata is not None:
            self.annotate()

    def _query_source(self, query: AnnData) -> CountSource:
        """Counts of the model's genes and size factors of new cells."""
        _checks.check_is_adata(query, "query")
        match = self._match(query)
        if match.places is not None:
            n_genes = self.module.n_genes
            msg = (
                f"Expected all {n_genes} genes that the model uses in `adata.var_names` to learn from, found "
                f"{n_genes - len(match.places)} missing. Cells that lack some can be mapped, see `model.predict`."
            )
            raise ValueError(msg)
        batches = list(self._batches(query, None, ENCODE_BATCH))
        counts = sp.vstack([_matrix(batch) for batch in batches], format="csr")
        size_factor = np.concatenate([batch.size_factor.numpy() for batch in batches])
        known = [batch.batch_index.numpy() for batch in batches if batch.batch_index is not None]
        return CountSource(counts, size_factor, batch_index=np.concatenate(known) if known else None)


def _matrix(batch: BipartiteBatch) -> sp.csr_matrix:
    graph = batch.graph
    values = (batch.counts.numpy(), graph.indices.numpy(), graph.indptr.numpy())
    return sp.csr_matrix(values, shape=(graph.n_cells, graph.n_genes))


def _joined(query: CountSource, reference: CountSource) -> CountSource:
    """Cells of the reference, then those of the query."""
    parts = (reference, query)
    cells = sp.vstack([part.rows(np.arange(len(part))) for part in parts], format="csr")
    known = [part.batch_index for part in parts if part.batch_index is not None]
    size_factor = np.concatenate([part.size_factor for part in parts])
    return CountSource(cells, size_factor, batch_index=np.concatenate(known) if known else None)
