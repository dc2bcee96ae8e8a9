"""Arguments of a run that no table can hold: the split of the cells, and the trainer."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from scvi.dataloaders import DataSplitter
from scvi.train import Trainer

from scgpcl._rules import RULES, check_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def check_split(
    train_size: float | None, validation_size: float | None, splitter_kwargs: Any, n_cells: int, *, early_stopping: bool
) -> None:
    """Require shares of the cells that leave at least two to train on, and known arguments of the splitter."""
    share = 0.9 if train_size is None else train_size
    if validation_size is not None and share + validation_size > 1.0 + 1e-9:
        msg = (
            "Expected `train_size` and `validation_size` that sum to 1 at most, "
            f"found {train_size} and {validation_size}. Lower one of them."
        )
        raise ValueError(msg)
    if np.ceil(share * n_cells) < 2:
        msg = f"Expected at least 2 cells to train on, found `train_size={train_size}` of {n_cells} cells. Raise it."
        raise ValueError(msg)
    if early_stopping and (train_size is None or train_size >= 1.0):
        msg = (
            "Expected `train_size` below 1 with `early_stopping=True`, found no cells to validate on. "
            "Pass `train_size=0.9`, or leave early stopping off: the stages stop when their labels have settled."
        )
        raise ValueError(msg)
    known = _names(DataSplitter.__init__) - {"self", "adata_manager", "kwargs", "train_size", "validation_size"}
    known = (known - {"shuffle_set_split"}) | {"num_workers"}
    check_known(splitter_kwargs, known, "datasplitter_kwargs")
    for name, value in (splitter_kwargs or {}).items():
        if name == "num_workers":
            RULES[name](value, f"datasplitter_kwargs[{name!r}]")
        elif name == "external_indexing" and value is not None:
            _check_parts(value, n_cells)


def _check_parts(parts: Any, n_cells: int) -> None:
    """Require three parts that hold each cell once."""
    argument = "datasplitter_kwargs['external_indexing']"
    arrays = [np.asarray(part) for part in parts] if isinstance(parts, tuple | list) else []
    whole = np.concatenate(arrays) if len(arrays) == 3 else np.empty(0)
    if len(arrays) != 3 or not np.array_equal(np.sort(whole), np.arange(n_cells)) or len(arrays[0]) < 2:
        msg = (
            f"Expected `{argument}` to be positions to train on (two or more), to validate on and to test on that "
            f"hold each of the {n_cells} cells once, found {len(arrays)} arrays of {len(whole)} positions in all."
        )
        raise ValueError(msg)


def check_trainer(accelerator: Any, devices: Any, trainer_kwargs: Mapping[str, Any]) -> None:
    """Require a usable device and known arguments of the trainer."""
    if accelerator == "mps":
        msg = (
            'Expected an accelerator with sparse matrices, found "mps", for which PyTorch has none. '
            'Pass `accelerator="cpu"`.'
        )
        raise ValueError(msg)
    known = tuple(name for name in ("auto", "gpu", *AcceleratorRegistry.available_accelerators()) if name != "mps")
    if not isinstance(accelerator, Accelerator) and accelerator not in known:
        msg = f"Expected `accelerator` to be one of {known}, found {accelerator!r}."
        raise ValueError(msg)
    whole = isinstance(devices, int | np.integer) and not isinstance(devices, bool)
    number = whole and (devices > 0 or devices == -1)
    several = isinstance(devices, list | tuple) and len(devices) > 0
    text = isinstance(devices, str) and (devices == "auto" or devices.lstrip("-").replace(",", "").isdigit())
    if not (number or several or text):
        msg = f'Expected `devices` to be "auto", a number of at least 1, -1 for all, or a list, found {devices!r}.'
        raise ValueError(msg)
    check_known(trainer_kwargs, _names(Trainer.__init__) | _names(pl.Trainer.__init__) | {"ckpt_path"}, "train")
    callbacks = trainer_kwargs.get("callbacks", ())
    if not isinstance(callbacks, list | tuple) or not all(isinstance(each, pl.Callback) for each in callbacks):
        msg = f"Expected `callbacks` to be a list of Lightning callbacks, found {callbacks!r}. Pass `callbacks=[...]`."
        raise TypeError(msg)


def _names(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
