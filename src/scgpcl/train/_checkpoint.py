"""Checkpoints of a training run: written after every epoch, and read to go on."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import pandas as pd
import torch

from scgpcl import _keys
from scgpcl.train._stages import History, merge_histories

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scgpcl.train._plans import StagePlan

logger = logging.getLogger(__name__)

#: Version of the format; a file of a later one cannot be read.
FORMAT = 1


class RunState(NamedTuple):
    """What a checkpoint says of the run.

    Parameters
    ----------
    path
        The file.
    stage
        1 or 2.
    epochs
        Epochs of the stage that are done.
    stopped
        Whether the stage has ended by itself.
    history
        Metrics of all epochs, those of this stage included.
    model
        Plain values that the model wrote, see :class:`EpochCheckpoint`.
    weights
        State of the network.
    """

    path: Path
    stage: int
    epochs: int
    stopped: bool
    history: History
    model: dict[str, Any]
    weights: dict[str, torch.Tensor]


class EpochCheckpoint(pl.Callback):
    """Write the state of the run after every epoch to one file, which is whole at any time.

    Parameters
    ----------
    path
        The file.
    history
        Metrics of the epochs before this stage.
    model
        Plain values (text, numbers, lists) that the model needs to go on.
    """

    def __init__(self, path: Path, *, history: History | None, model: Mapping[str, Any]) -> None:
        self.path = path
        self.before = history
        self.model = dict(model)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it; it must come after the callbacks whose state it keeps."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            trainer.save_checkpoint(temporary)  # by all processes, of which the first writes
            if trainer.is_global_zero:
                temporary.replace(self.path)
        except (OSError, RuntimeError) as error:
            msg = (
                f"Expected to write {self.path}, found: {error} The checkpoint of the epoch before is still there. "
                "Check the free space and the permissions."
            )
            raise OSError(msg) from error
        finally:
            if trainer.is_global_zero:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not know."""
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
        """Metrics of this fit; those of the epoch that ends now are not in the logger yet."""
        epoch = trainer.current_epoch
        tables = {name: table.copy() for name, table in getattr(trainer.logger, "history", {}).items()}
        for name, value in trainer.callback_metrics.items():
            if name.endswith("_validation") or name == _keys.VALIDATION_LOSS:
                continue  # logged at once, or left from an epoch before
            if name not in tables:
                tables[name] = pd.DataFrame({name: pd.Series(dtype=float)}, index=pd.Index([], name="epoch"))
            tables[name].loc[epoch, name] = float(value)
        return tables

    @staticmethod
    def _first(trainer: pl.Trainer) -> int:
        tables = getattr(trainer.logger, "history", {})
        return min((int(table.index.min()) for table in tables.values() if len(table)), default=trainer.current_epoch)


def read_checkpoint(path: Path) -> RunState:
    """Read a checkpoint, which holds plain values and tensors only and runs no code.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another kind or of a later version.
    """
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
            "Go on with the version of scgpcl that wrote it."
        )
        raise ValueError(msg)
    history = {
        name: pd.DataFrame({name: table["value"]}, index=pd.Index(table["epoch"], name="epoch", dtype="int64"))
        for name, table in own["history"].items()
    }
    weights = {name.removeprefix("module."): value for name, value in state.items()}
    return RunState(path, own["stage"], own["epochs"], own["stopped"], history, own["model"], weights)
