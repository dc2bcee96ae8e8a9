"""Write a checkpoint after every epoch, and check a checkpoint before a run resumes from it."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

from scgpcl import _keys
from scgpcl._atomic import replacing, writing_advice
from scgpcl.train._fit import History, merge_histories

if TYPE_CHECKING:
    from pathlib import Path

    from scgpcl.train._plans import StagePlan

#: Version of the file format. Files with later versions cannot be read.
FORMAT = 1


class RunState(NamedTuple):
    """Contents of a checkpoint.

    The fields are the path, the stage, its number of completed epochs, whether it ended by itself, the metrics of all
    epochs, plain values that identify the model, and the state of the network.
    """

    path: Path
    stage: int
    epochs: int
    stopped: bool
    history: History
    model: dict[str, Any]
    weights: dict[str, torch.Tensor]


class EpochCheckpoint(pl.Callback):
    """Write the state of the run to one file after every epoch.

    ``history`` holds the metrics of previous stages, and ``model`` holds plain values that identify the model.
    """

    def __init__(self, path: Path, *, history: History | None, model: Mapping[str, Any]) -> None:
        self.path = path
        self.before = dict(history or {})
        self.model = dict(model)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint. This must happen after the callbacks whose state it stores have run."""
        try:
            with replacing(self.path, writes=trainer.is_global_zero, exclusive=False) as temporary:
                trainer.save_checkpoint(temporary)  # called by all processes, of which the first writes
        except (OSError, RuntimeError) as error:
            advice = writing_advice(error)
            if advice is None:
                raise
            msg = f"Expected to write {self.path}, found: {error} The checkpoint of the epoch before is still there. {advice}"
            raise OSError(msg) from error

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state that Lightning does not store."""
        plan: StagePlan = pl_module  # type: ignore[assignment]
        tables = merge_histories(self.before, self._logged(trainer), stage=plan.stage, first_epoch=self._first(trainer))
        checkpoint[_keys.STEM] = {
            "format": FORMAT,
            "stage": plan.stage,
            "epochs": trainer.current_epoch + 1,
            "stopped": bool(trainer.should_stop),
            "history": {
                name: {"epoch": table.index.tolist(), "value": table[name].tolist()} for name, table in tables.items()
            },
            "model": self.model,
        }

    @staticmethod
    def _logged(trainer: pl.Trainer) -> History:
        """Return the metrics of this fit, including metrics of the current epoch that are not in the logger yet."""
        epoch = trainer.current_epoch
        tables = {name: table.copy() for name, table in getattr(trainer.logger, "history", {}).items()}
        for name, value in trainer.callback_metrics.items():
            if name.endswith("_validation") or name == _keys.VALIDATION_LOSS:
                continue  # logged immediately, or left over from a previous epoch
            if name not in tables:
                tables[name] = pd.DataFrame({name: pd.Series(dtype=float)}, index=pd.Index([], name="epoch"))
            tables[name].loc[epoch, name] = float(value)
        return tables

    @staticmethod
    def _first(trainer: pl.Trainer) -> int:
        tables = getattr(trainer.logger, "history", {})
        return min((int(table.index.min()) for table in tables.values() if len(table)), default=trainer.current_epoch)


def read_checkpoint(path: Path) -> RunState:
    """Read a checkpoint, which only contains plain values and tensors and does not run any code."""
    if not path.is_file():
        msg = f"Expected a checkpoint, found no file at {path}. `train(checkpoint=...)` writes one after every epoch."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        own = content[_keys.STEM]
        state = {name: value for name, value in content["state_dict"].items() if name.startswith("module.")}
    except Exception as error:
        msg = (
            f"Expected a checkpoint that `train(checkpoint=...)` has written, found another or a damaged file at {path} "
            f"({type(error).__name__}). Train from the start."
        )
        raise ValueError(msg) from error
    if own["format"] > FORMAT:
        msg = (
            f"Expected a checkpoint of format {FORMAT}, found format {own['format']} at {path}. "
            "Resume with the version of scgpcl that wrote it."
        )
        raise ValueError(msg)
    history = {
        name: pd.DataFrame({name: table["value"]}, index=pd.Index(table["epoch"], name="epoch", dtype="int64"))
        for name, table in own["history"].items()
    }
    weights = {name.removeprefix("module."): value for name, value in state.items()}
    return RunState(path, own["stage"], own["epochs"], own["stopped"], history, own["model"], weights)


def check_checkpoint_path(path: Path) -> Path:
    """Check that a file can be written to the path."""
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


def identity(parameters: Mapping[str, Any], *, seed: int, n_cells: int, genes: pd.Index) -> dict[str, Any]:
    """Return plain values that identify a model, its data and the arguments of its training."""
    plain = {name: _plain(value) for name, value in parameters.items() if name != "n_clusters"}
    return {"parameters": plain, "seed": seed, "n_cells": n_cells, "genes": [str(name) for name in genes]}


def _plain(value: Any) -> Any:
    """Convert a value to one that can be read without running code: lists of values, and text for other objects."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if callable(value):
        value = f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, Iterable) else str(value)


def check_run(state: RunState, values: dict[str, Any], n_clusters: int | None) -> None:
    """Check that the checkpoint belongs to the same model and the same data."""
    wanted, found = (
        dict(each["parameters"]) | {"seed": each["seed"], "number of cells": each["n_cells"]}
        for each in (values, state.model)
    )
    if n_clusters is not None:
        wanted["n_clusters"], found["n_clusters"] = n_clusters, state.model["n_clusters"]
    differ = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if differ:
        expected, other = (
            ", ".join(f"{name} {reprlib.repr(each.get(name))}" for name in differ) for each in (wanted, found)
        )
        if expected == other:  # long lists that differ in a later entry
            expected, other = (", ".join(f"{name} {each.get(name)!r}" for name in differ) for each in (wanted, found))
        msg = (
            f"Expected the checkpoint of a model with {expected}, found one with {other} in {state.path}. "
            "Make the model as it was when the checkpoint was written."
        )
        raise ValueError(msg)
    if state.model["genes"] != values["genes"]:
        msg = (
            f"Expected the checkpoint of a model of the same genes in the same order, found one of "
            f"{len(state.model['genes'])} others in {state.path}. Give the AnnData the genes that it had then."
        )
        raise ValueError(msg)
