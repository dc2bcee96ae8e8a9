"""What a checkpoint must have in common with the model that goes on from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

    from scgpcl.model._base import ModelState
    from scgpcl.train import RunState


def check_checkpoint_path(path: Path) -> Path:
    """Require a place where a file can be written.

    Raises
    ------
    FileNotFoundError
        If its folder does not exist.
    ValueError
        If it is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        msg = f"Expected `checkpoint` to be a file, found a folder at {path}. Name a file in it, such as `run.ckpt`."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"Expected an existing folder for the checkpoint, found none at {path.parent}. Make it first."
        raise FileNotFoundError(msg)
    if not os.access(path.parent, os.W_OK):
        msg = f"Expected a folder that can be written to, found {path.parent}. Choose another one."
        raise ValueError(msg)
    return path


def run_values(model: ModelState, n_cells: int) -> dict[str, Any]:
    """Plain values by which a run of so many cells and its model are known."""
    parameters = {name: value for name, value in model.init_params_["non_kwargs"].items() if name != "n_clusters"}
    curve = model.n_clusters_curve_
    return {
        "parameters": {name: value for name, value in parameters.items() if _is_plain(value)},
        "seed": model.seed_,
        "n_cells": n_cells,
        "genes": [str(name) for name in model._registered_genes()],
        "n_clusters": model.n_clusters_,
        "curve": None if curve is None else {name: curve[name].tolist() for name in curve},
    }


def table_of(columns: dict[str, list[Any]] | None) -> pd.DataFrame | None:
    """Table of columns that were written as lists."""
    return None if columns is None else pd.DataFrame(columns)


def check_run(state: RunState, values: dict[str, Any]) -> None:
    """Require a checkpoint of the same model on the same data.

    Raises
    ------
    ValueError
        If something differs; the message says what.
    """
    wanted = dict(values["parameters"]) | {"seed": values["seed"], "number of cells": values["n_cells"]}
    found = dict(state.model["parameters"]) | {"seed": state.model["seed"], "number of cells": state.model["n_cells"]}
    n_clusters = values["n_clusters"], state.model["n_clusters"]
    if n_clusters[0] is not None:
        wanted["n_clusters"], found["n_clusters"] = n_clusters
    differ = [f"{name} {found.get(name)!r}" for name, value in wanted.items() if found.get(name) != value]
    if differ:
        expected = ", ".join(f"{name} {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name])
        msg = (
            f"Expected the checkpoint of a model with {expected}, found one with {', '.join(differ)} in {state.path}. "
            "Make the model as it was made then."
        )
        raise ValueError(msg)
    if state.model["genes"] != values["genes"]:
        msg = (
            f"Expected the checkpoint of a model of the same genes in the same order, found one of "
            f"{len(state.model['genes'])} others in {state.path}. Give the AnnData the genes that it had then."
        )
        raise ValueError(msg)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
