"""Where the cells of training come from: the registered AnnData, or a data module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS

from scgpcl.data import CountSource
from scgpcl.model import _checks
from scgpcl.model._inference import match_genes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgpcl.model._inference import GeneFrame

#: How scvi-tools names the registration of a data module.
DATAMODULE_SETUP = "setup_datamodule"


class TrainingCells(NamedTuple):
    """What training takes of its cells.

    Parameters
    ----------
    counts
        Counts of all genes in any storage, shape (n_cells, n_vars).
    var_names
        The genes.
    size
        Given size factors, shape (n_cells,); ``None`` counts library sizes.
    batch_index
        Batch of each cell, shape (n_cells,), if the model corrects for batches.
    """

    counts: Any
    var_names: pd.Index
    size: np.ndarray | None
    batch_index: np.ndarray | None

    def selected(self, frame: GeneFrame, size_factor: np.ndarray) -> CountSource:
        """Counts of the model's genes."""
        genes = match_genes(self.var_names, frame).selected
        return CountSource(self.counts, size_factor, genes, batch_index=self.batch_index)


def check_datamodule(datamodule: Any, genes: pd.Index, batches: pd.Index) -> None:
    """Require a data module that can be read more than once, with the genes and batches of the model.

    Raises
    ------
    TypeError
        If it lacks what the data modules of scvi-tools have.
    ValueError
        If its genes or batches are not those of the model.
    """
    lacking = [
        name for name in ("registry", "n_obs", "n_vars", "inference_dataloader") if not hasattr(datamodule, name)
    ]
    if lacking:
        msg = (
            f"Expected a data module with a registry and an inference loader, found {type(datamodule).__name__} without "
            f"{_checks.listed(lacking)}. Those of scvi-tools have them, and `scgpcl.data.CollectionDataModule`."
        )
        raise TypeError(msg)
    found = _content(datamodule.registry)
    if not found.genes.equals(genes):
        msg = (
            f"Expected the {len(genes)} genes of the model in its order in the data module, found others "
            f"({len(found.genes)} genes). Make the model with `SCGPCL(registry=datamodule.registry)`."
        )
        raise ValueError(msg)
    if len(batches) > 1 and not found.batches.equals(batches):
        msg = (
            f"Expected the batches of the model, {_checks.listed(batches)}, in the data module, found "
            f"{_checks.listed(found.batches)}. Make the model with `SCGPCL(registry=datamodule.registry)`."
        )
        raise ValueError(msg)


class _Content(NamedTuple):
    genes: pd.Index
    batches: pd.Index
    batch_key: str | None
    layer: str | None
    n_cells: int


def _content(registry: Mapping[str, Any]) -> _Content:
    """What the registry of a data module says of its cells.

    Raises
    ------
    ValueError
        If it lacks genes or batches.
    """
    try:
        fields, arguments = registry["field_registries"], registry["setup_args"]
        x, batch = (fields[key]["state_registry"] for key in (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY))
        genes = pd.Index([str(name) for name in x["column_names"]])
        batches = pd.Index([str(name) for name in batch["categorical_mapping"]])
        return _Content(genes, batches, arguments.get("batch_key"), arguments.get("layer"), int(x["n_obs"]))
    except (KeyError, TypeError, AttributeError) as error:
        msg = (
            f"Expected the registry of a data module with genes and batches, found one without {error}. "
            "Pass `datamodule.registry` of a data module of scvi-tools, or register an AnnData."
        )
        raise ValueError(msg) from error


def stand_in(registry: Mapping[str, Any]) -> AnnData:
    """Few cells with the genes and batches of a data module, to be registered in its place."""
    content = _content(registry)
    _checks.check_names(content.genes, "var_names")
    n_cells = 3 * max(1, len(content.batches))  # of a batch with fewer, scvi-tools warns
    counts = sp.csr_matrix(np.ones((n_cells, len(content.genes)), dtype=np.float32))
    obs = pd.DataFrame(index=[str(cell) for cell in range(n_cells)])
    if content.batch_key is not None:
        own = np.resize(content.batches, n_cells)
        obs[content.batch_key] = pd.Categorical(own, categories=content.batches)
    layers = {} if content.layer is None else {content.layer: counts}
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=content.genes), layers=layers)
