"""Register an AnnData with the fields of scvi-tools, or a data module through a stand-in AnnData."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LabelsWithUnlabeledObsField, LayerField, NumericalObsField

from scgpcl import _input, _keys
from scgpcl._batch_names import ambiguous_names, batch_name, batch_names, combined_names, shared_names
from scgpcl._rules import check, check_known, check_replaced, listed
from scgpcl.cluster import NUMBERED
from scgpcl.model._annotate import Names, names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Arguments that scvi-tools passes to ``setup_anndata`` to register further data in the same way as the first.
TRANSFER_ARGUMENTS = ("source_registry", "extend_categories", "allow_missing_labels")
#: Name that scvi-tools uses for the registration of a data module.
DATAMODULE_SETUP = "setup_datamodule"


#: Names, in lower case, that probably mean that a cell has no label.
UNLABELED = ("unknown", "unlabeled", "unlabelled", "nan", "na", "none", "")


def batch_columns(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns that define the batches, given the arguments of ``setup_anndata``.

    These are ``batch_key``, followed by the covariates.
    """
    key = arguments.get("batch_key")
    covariates = check(categorical_covariate_keys=arguments.get("categorical_covariate_keys"))
    return (() if key is None else (key,)) + covariates["categorical_covariate_keys"]


def place_of(columns: Sequence[str]) -> str:
    """Return the location of the batches as code that a user can run."""
    return f"adata.obs[{columns[0]!r}]" if len(columns) == 1 else f"adata.obs[{list(columns)!r}]"


def unknown_batches(columns: Sequence[str], new: Any, known: pd.Index) -> str:
    """Return the error message for batches that are unknown to the model."""
    return (
        f"Expected batches seen in training in `{place_of(columns)}`, found {listed(new)}; the model knows "
        f"{listed(known)}. To treat the cells as if they came from a known batch, write its name there, or pass "
        f"`transform_batch={known[0]!r}` where available; otherwise, train a model that includes the new batches."
    )


def check_batch_columns(adata: AnnData, columns: Sequence[str], key: str | None) -> None:
    """Check that the columns that define the batches exist and have a value for every cell.

    ``key`` is the value of ``batch_key``.
    """
    for column in columns:
        _input.check_obs_key(adata, column, "batch_key" if column == key else "categorical_covariate_keys")


class BatchField(CategoricalObsField):
    """Field for batches, named by :func:`~scgpcl._batch_names.combined_names` regardless of their column types."""

    def __init__(self, registry_key: str, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        super().__init__(registry_key, self._columns[0] if columns else None)

    def register_field(self, adata: AnnData) -> dict:
        """Store the batch code of each cell. Names follow the order of the categories or values in the columns."""
        if not self._columns:
            return super().register_field(adata)
        return self._store(adata, self._names(adata))

    def transfer_field(
        self, state_registry: dict, adata_target: AnnData, extend_categories: bool = False, **kwargs: Any
    ) -> dict:
        """Store the batch code of each cell, using the codes from an existing registry."""
        if not self._columns:
            return super().transfer_field(state_registry, adata_target, extend_categories, **kwargs)
        own = self._names(adata_target)
        known = pd.Index([batch_name(name) for name in state_registry[self.CATEGORICAL_MAPPING_KEY]], dtype=object)
        new = own.categories.difference(known, sort=False)
        if len(new) and not extend_categories:
            raise ValueError(self._unknown(new, known))
        return self._store(adata_target, own.set_categories(known.append(new)))

    def _names(self, adata: AnnData) -> pd.Categorical[str]:
        return combined_names(adata.obs, self._columns)

    def _unknown(self, new: Any, known: pd.Index) -> str:
        return unknown_batches(self._columns, new, known)

    def _store(self, adata: AnnData, own: pd.Categorical[str]) -> dict:
        adata.obs[self.attr_key] = own.codes
        return {
            self.CATEGORICAL_MAPPING_KEY: own.categories.to_numpy(dtype=object),
            self.ORIGINAL_ATTR_KEY: self._columns[0],
        }


class LabelField(BatchField):
    """Field for types, named in the same way as batches, with the category for unlabelled cells after all others."""

    def __init__(self, registry_key: str, column: str, unlabeled: Any) -> None:
        super().__init__(registry_key, (column,))
        self._unlabeled = batch_name(unlabeled)

    def _names(self, adata: AnnData) -> pd.Categorical[str]:
        own = super()._names(adata)
        return own.set_categories([*own.categories.drop(self._unlabeled, errors="ignore"), self._unlabeled])

    def _unknown(self, new: Any, known: pd.Index) -> str:
        return (
            f"Expected types that the model knows in `{place_of(self._columns)}`, found {listed(new)}; the model knows "
            f"{listed(known.drop(self._unlabeled))}. Write {self._unlabeled!r} for cells of other types, or train a new model."
        )

    def _store(self, adata: AnnData, own: pd.Categorical[str]) -> dict:
        return super()._store(adata, own) | {LabelsWithUnlabeledObsField.UNLABELED_CATEGORY: self._unlabeled}


def checked_manager(adata: AnnData, setup_method_args: dict[str, Any], **kwargs: Any) -> AnnDataManager:
    """Register the fields of an AnnData with a new manager if all checks pass."""
    check_replaced(kwargs, "setup_anndata")
    check_known(kwargs, TRANSFER_ARGUMENTS, "setup_anndata")
    arguments = setup_method_args["setup_args"]
    layer, batch_key, size_factor_key = (arguments[name] for name in ("layer", "batch_key", "size_factor_key"))
    _input.check_is_adata(adata)
    _input.check_not_view(adata)
    _input.check_names(adata.obs_names, "obs_names")
    _input.check_names(adata.var_names, "var_names")
    of_batch, labels_key = batch_columns(arguments), arguments.get("labels_key")
    unlabeled, loaded = arguments.get("unlabeled_category"), kwargs.get("source_registry") is not None
    if loaded:
        _check_columns_of_model(adata, [*of_batch, *filter(None, (labels_key, size_factor_key))])
    check_batch_columns(adata, of_batch, batch_key)
    _check_batch_names(adata, of_batch)
    _check_labels(adata, labels_key, unlabeled, loaded=loaded)
    _input.check_size_factors(adata, size_factor_key)
    columns = {"labels_key": labels_key, "size_factor_key": size_factor_key, "batch_key": batch_key}
    check_not_overwritten(names(_keys.STEM), **columns, categorical_covariate_keys=of_batch)
    _input.check_counts(_input.counts_of(adata, layer), layer)
    _input.warn_of_other_features(adata.var)
    fields = [
        # all counts have been checked, and they can be read in any format
        LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
        BatchField(REGISTRY_KEYS.BATCH_KEY, of_batch),
        NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
    ]
    if labels_key is not None:
        fields.append(LabelField(REGISTRY_KEYS.LABELS_KEY, labels_key, unlabeled))
    manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
    manager.register_fields(adata, **kwargs)
    return manager


def _check_columns_of_model(adata: AnnData, columns: Sequence[str]) -> None:
    """Check that an AnnData that is loaded with a model has the columns with which the model was set up."""
    lacking = [column for column in columns if column not in adata.obs]
    if lacking:
        msg = (
            f"Expected the columns with which the model was set up, {listed(columns)}, in `adata.obs`, found columns "
            f"[{listed(adata.obs.columns)}] without {listed(lacking)}. To label other cells, load with `adata=False` and call "
            "`model.predict(cells)`."
        )
        raise KeyError(msg)


def _check_batch_names(adata: AnnData, columns: tuple[str, ...]) -> None:
    """Check that the columns are distinct and that the batches have distinct names."""
    if len(set(columns)) < len(columns):
        msg = (
            f"Expected covariates beside `batch_key`, found {columns[0]!r} in both. "
            "Leave it out of `categorical_covariate_keys`."
        )
        raise ValueError(msg)
    for column in columns:
        _check_spelling(adata, column)
    twice = ambiguous_names(adata.obs, columns) if len(columns) > 1 else []
    if twice:
        msg = (
            f"Expected combinations of `{place_of(columns)}` whose joined names differ, found {listed(twice)} more than "
            "once. Rename the values that contain a slash between spaces."
        )
        raise ValueError(msg)


def _check_spelling(adata: AnnData, key: str) -> None:
    """Check that the values have distinct names, because batches and types are matched by name."""
    twice = shared_names(adata.obs[key])
    if twice:
        msg = (
            f"Expected values of `adata.obs[{key!r}]` whose names differ as text, found {listed(twice)} as "
            f"values of different types. Make them alike: `adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)`."
        )
        raise ValueError(msg)


def _check_labels(adata: AnnData, key: str | None, unlabeled: Any, *, loaded: bool) -> None:
    """Check that at least one cell is labelled, unless the cells are loaded with a model, and that no name is reserved.

    The names used for new clusters and unassigned cells are reserved.
    """
    if key is None:
        return
    if not isinstance(unlabeled, str | int | float):
        msg = f"Expected `unlabeled_category` to be a single value, found {unlabeled!r}. Pass the name of unlabelled cells."
        raise TypeError(msg)
    fill = f"`adata.obs[{key!r}] = adata.obs[{key!r}].astype(object).fillna({unlabeled!r})`"
    _input.check_obs_key(
        adata, key, "labels_key", missing=f"If these cells have no label, write {unlabeled!r}: {fill}."
    )
    _check_spelling(adata, key)
    found = batch_names(adata.obs[key]).categories
    names = sorted(found.drop(batch_name(unlabeled), errors="ignore"))
    if not names and not loaded:
        msg = (
            f"Expected at least one labelled cell in `adata.obs[{key!r}]`, found {unlabeled!r} in all {adata.n_obs}. "
            "Label some cells, or pass `labels_key=None` to cluster without labels."
        )
        raise ValueError(msg)
    if len(found) == 1 and not loaded:
        msg = (
            f"Expected two types or unlabelled cells in `adata.obs[{key!r}]`, found {names[0]!r} in all {adata.n_obs}. "
            f"Pass `labels_key=None`, or write {unlabeled!r} for cells whose type is not known."
        )
        raise ValueError(msg)
    alike = [name for name in names if name.strip().lower() in {batch_name(unlabeled).strip().lower(), *UNLABELED}]
    if alike:
        msg = (
            f"Expected types in `adata.obs[{key!r}]`, found {listed(alike)} beside `unlabeled_category={unlabeled!r}`. If these cells "
            f"have no label, pass `unlabeled_category={alike[0]!r}`; otherwise, rename the type."
        )
        raise ValueError(msg)
    known = set(names)
    parts = [name for name in names if re.sub(r"(\.\d+)+$", "", name) in known - {name}]
    parts += [name for name in names if " + " in name and known.issuperset(name.split(" + "))]
    numbered = [name for name in names if NUMBERED.fullmatch(name) and re.search("[+-]", name)]
    parts += [name for name in numbered if known.issuperset(re.split("[+-]", name))]
    if parts:
        msg = (
            f"Expected names of types in `adata.obs[{key!r}]` that are not made from other names, found {listed(parts)}: parts of the "
            'cluster "B" are called "B.1" and "B.2", and "A" and "B" merged are called "A + B" (numbers: "1+2"). Rename them.'
        )
        raise ValueError(msg)
    reserved = [name for name in names if name == _keys.UNASSIGNED or re.fullmatch(rf"{_keys.NEW} \d+", name)]
    if reserved:
        msg = (
            f"Expected names of types in `adata.obs[{key!r}]`, found {listed(reserved)}, which name clusters that fit no type "
            f"and cells that were not assigned. Rename them, or pass the name of unlabelled cells as `unlabeled_category`."
        )
        raise ValueError(msg)


def check_not_overwritten(written: Names, **columns: str | Sequence[str] | None) -> None:
    """Check that an annotation under the given names does not overwrite input columns."""
    each = [(argument, (found,) if isinstance(found, str) else found or ()) for argument, found in columns.items()]
    for argument, column in ((argument, column) for argument, found in each for column in found):
        if column in (written.cluster, written.confidence):
            msg = (
                f"Expected `{argument}` to be a column that the results do not overwrite, found {column!r}, which is "
                f"where they are written. Keep a copy under another name: "
                f"`adata.obs['my_{column}'] = adata.obs[{column!r}].copy()`."
            )
            raise ValueError(msg)
        if column.startswith("_scvi"):
            msg = (
                f"Expected `{argument}` to be one of your own columns, found {column!r}, which scvi-tools creates. "
                "Pass the original column instead."
            )
            raise ValueError(msg)


class _Content(NamedTuple):
    genes: pd.Index
    batches: pd.Index
    batch_key: str | None
    layer: str | None
    n_cells: int


def _content(registry: Mapping[str, Any]) -> _Content:
    """Extract the description of the cells from the registry of a data module."""
    try:
        fields, arguments = registry["field_registries"], registry["setup_args"]
        x, batch = (fields[key]["state_registry"] for key in (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY))
        genes = pd.Index([str(name) for name in x["column_names"]])
        batches = pd.Index([batch_name(name) for name in batch["categorical_mapping"]])
        return _Content(genes, batches, arguments.get("batch_key"), arguments.get("layer"), int(x["n_obs"]))
    except (KeyError, TypeError, AttributeError) as error:
        msg = (
            f"Expected the registry of a data module with genes and batches, found one without {error}. "
            "Pass `datamodule.registry` of a data module of scvi-tools, or register an AnnData."
        )
        raise ValueError(msg) from error


def own_registry(cls: type[Any], registry: dict | None) -> dict | None:
    """Convert the registry of a data module to the registry of an AnnData with the same genes and batches.

    Other registries are returned unchanged.
    """
    if registry is None or registry.get("setup_method_name") != DATAMODULE_SETUP:
        return registry
    content = _content(registry)
    _input.check_names(content.genes, "var_names")
    n_cells = 3 * max(1, len(content.batches))  # scvi-tools warns about fewer
    counts = sp.csr_matrix(np.ones((n_cells, len(content.genes)), dtype=np.float32))
    obs = pd.DataFrame(index=[str(cell) for cell in range(n_cells)])
    if content.batch_key is not None:
        own = np.resize(content.batches, n_cells)
        obs[content.batch_key] = pd.Categorical(own, categories=content.batches)
    layers = {} if content.layer is None else {content.layer: counts}
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=content.genes), layers=layers)
    arguments = {"layer": content.layer, "batch_key": content.batch_key, "size_factor_key": None}
    made = checked_manager(adata, cls._get_setup_method_args(cls=cls, adata=adata, **arguments)).registry
    x = made["field_registries"][REGISTRY_KEYS.X_KEY]
    x["state_registry"]["n_obs"] = x["summary_stats"]["n_cells"] = content.n_cells
    return made


def check_datamodule(datamodule: Any, genes: pd.Index, batches: pd.Index) -> None:
    """Check that a data module can be read more than once and has the genes and batches of the model."""
    lacking = [
        name for name in ("registry", "n_obs", "n_vars", "inference_dataloader") if not hasattr(datamodule, name)
    ]
    if lacking:
        msg = (
            f"Expected a data module with a registry and an inference loader, found {type(datamodule).__name__} without "
            f"{listed(lacking)}. Use a data module from scvi-tools, or `scgpcl.data.CollectionDataModule`."
        )
        raise TypeError(msg)
    found = _content(datamodule.registry)
    if not found.genes.equals(genes):
        msg = (
            f"Expected the {len(genes)} genes of the model in its order in the data module, found {len(found.genes)} "
            "genes that differ. Make the model with `SCGPCL(registry=datamodule.registry)`."
        )
        raise ValueError(msg)
    if len(batches) > 1 and not found.batches.equals(batches):
        msg = (
            f"Expected the batches of the model, {listed(batches)}, in the data module, found "
            f"{listed(found.batches)}. Make the model with `SCGPCL(registry=datamodule.registry)`."
        )
        raise ValueError(msg)
