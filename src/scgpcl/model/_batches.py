"""Experimental batches of cells, matched to the model by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpcl.model import _checks

if TYPE_CHECKING:
    from anndata import AnnData


def batch_index(
    adata: AnnData, key: str | None, names: pd.Index, transform_batch: str | None = None, *, unseen: bool = False
) -> np.ndarray | None:
    """Position of each cell's batch among the model's.

    Parameters
    ----------
    adata
        Cells, whose column ``key`` may hold the names in any order and as any type.
    key
        Column of ``adata.obs``; ``None`` is a model without batches.
    names
        Batches of the model, as text.
    transform_batch
        Batch that all cells are taken to be of instead; then the column is not read.
    unseen
        Let batches that the model does not know, or a missing column, be -1.

    Returns
    -------
    int64, shape (n_cells,), or ``None`` where the model knows fewer than two batches.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it has missing values, or if a batch is not one of the model's.
    """
    if transform_batch is not None:
        code = batch_code(transform_batch, key, names)
        return np.full(adata.n_obs, code, dtype=np.int64) if len(names) > 1 else None
    if unseen and key is not None and key not in adata.obs:
        return np.full(adata.n_obs, -1, dtype=np.int64) if len(names) > 1 else None
    _checks.check_obs_key(adata, key, "batch_key")
    if key is None:
        return None
    values = adata.obs[key].astype(str)
    index = names.get_indexer(values)
    new = sorted(set(values[index < 0]))
    if new and not unseen:
        msg = (
            f"Expected batches seen in training in `adata.obs[{key!r}]`, found {_checks.listed(new)}; "
            f"the model knows {_checks.listed(names)}. Pass `transform_batch={names[0]!r}` to treat the cells as of "
            "a batch that the model knows, or train a model that includes the new batches."
        )
        raise ValueError(msg)
    return index.astype(np.int64) if len(names) > 1 else None


def check_batch_names(adata: AnnData, key: str | None) -> None:
    """Require batches whose names differ as text, by which those of new cells are matched.

    Raises
    ------
    ValueError
        If two are the same, such as 1 and "1".
    """
    if key is None:
        return
    names = [str(value) for value in adata.obs[key].unique()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = (
            f"Expected batches in `adata.obs[{key!r}]` whose names differ as text, found {_checks.listed(twice)} as "
            f"values of different types. Make them alike: `adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)`."
        )
        raise ValueError(msg)


def batch_code(name: str, key: str | None, names: pd.Index) -> int:
    """Position of a named batch among the model's.

    Raises
    ------
    ValueError
        If the model knows no batches or not this one.
    """
    if key is None:
        msg = (
            "Expected no `transform_batch` for a model without batches, "
            f"found {name!r}. Name the column of batches with `setup_anndata(adata, batch_key=...)` and train."
        )
        raise ValueError(msg)
    code = names.get_indexer(pd.Index([str(name)]))[0]
    if code < 0:
        msg = f"Expected `transform_batch` to name batches of the model, {_checks.listed(names)}, found {name!r}."
        raise ValueError(msg)
    return int(code)
