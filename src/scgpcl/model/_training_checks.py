"""Arguments of training, refused before any work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from scvi.dataloaders import DataSplitter
from scvi.train import Trainer

from scgpcl.model import _checks
from scgpcl.train._plans import Optimizer, PretrainPlan, PrototypeScope, StagePlan

if TYPE_CHECKING:
    from collections.abc import Callable

#: Smallest value of each number in the arguments of a plan.
_PLAN_NUMBERS = {
    "lr": 1e-12,
    "weight_decay": 0.0,
    "encoder_lr": 0.0,
    "lambda_instance": 0.0,
    "lambda_prototype": 0.0,
    "lambda_reconstruction": 0.0,
}
_SET_HERE = {"self", "neighborhood", "module", "seed", "n_clusters", "z", "batch_index", "noise", "kwargs"}


def check_stage_arguments(values: Mapping[str, Any]) -> None:
    """Require epochs, batch size and stopping rules in their ranges.

    Raises
    ------
    ValueError
        If one is out of its range.
    """
    for name in ("pretrain_max_epochs", "cluster_max_epochs"):
        _checks.check_range(values[name], 0, np.inf, name, whole=True)
    _checks.check_range(values["batch_size"], 2, np.inf, "batch_size", whole=True)
    _checks.check_range(values["agreement_patience"], 1, np.inf, "agreement_patience", whole=True)
    _checks.check_range(values["agreement"], 0.0, np.inf, "agreement")
    _checks.check_range(values["label_tol"], 0.0, 1.0, "label_tol")


def check_plan_kwargs(plan: type[StagePlan], kwargs: Any, argument: str) -> None:
    """Require known arguments of a training plan in their ranges.

    Parameters
    ----------
    plan
        Class of the plan.
    kwargs
        Its arguments, by name.
    argument
        Argument of ``train`` that they were given in.

    Raises
    ------
    TypeError
        If it is no mapping, or has an unknown name.
    ValueError
        If a value is out of its range.
    """
    known = (_names(plan.__init__) | _names(StagePlan.__init__)) - _SET_HERE
    if plan is PretrainPlan:
        known |= {"n_neighbors"}
    _check_known(kwargs, known, argument)
    for name, value in (kwargs or {}).items():
        shown = f"{argument}[{name!r}]"
        if name in _PLAN_NUMBERS:
            _checks.check_range(value, _PLAN_NUMBERS[name], np.inf, shown)
        elif name == "optimizer":
            _checks.check_one_of(value, get_args(Optimizer), shown)
        elif name == "prototypes":
            _checks.check_one_of(value, get_args(PrototypeScope), shown)
        elif name in ("warmup_epochs", "n_neighbors"):
            _checks.check_range(value, 0, np.inf, shown, whole=True)
        elif name == "decoded_genes":
            _checks.check_range(value, 1e-9, 1.0, shown)
        elif name == "one_cycle":
            _checks.check_flag(value, shown)
        elif name == "granularity":
            if not isinstance(value, tuple | list) or not value:
                msg = f"Expected `{shown}` to be some numbers above 0, such as (1.0, 1.5, 2.0), found {value!r}."
                raise ValueError(msg)
            for number in value:
                _checks.check_range(number, 1e-3, np.inf, shown)


def check_split(
    train_size: float | None, validation_size: float | None, splitter_kwargs: Any, n_cells: int, *, early_stopping: bool
) -> None:
    """Require shares of the cells that leave at least two to train on, and known arguments of the splitter.

    Raises
    ------
    TypeError
        If the splitter's arguments have an unknown name.
    ValueError
        If a value is out of its range.
    """
    share = 0.9 if train_size is None else train_size
    _checks.check_range(share, 1e-9, 1.0, "train_size")
    if validation_size is not None:
        _checks.check_range(validation_size, 0.0, 1.0, "validation_size")
        if share + validation_size > 1.0 + 1e-9:
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
    _check_known(splitter_kwargs, (known - {"shuffle_set_split"}) | {"num_workers"}, "datasplitter_kwargs")
    for name, value in (splitter_kwargs or {}).items():
        if name == "num_workers":
            _checks.check_range(value, 0, np.inf, "datasplitter_kwargs['num_workers']", whole=True)
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
    """Require a device that can be used and known arguments of the trainer.

    Raises
    ------
    TypeError
        If an argument of the trainer is unknown, or the callbacks are none.
    ValueError
        If there is no such accelerator or number of devices.
    """
    if accelerator == "mps":
        msg = (
            'Expected an accelerator with sparse matrices, found "mps", for which PyTorch has none. '
            'Pass `accelerator="cpu"`.'
        )
        raise ValueError(msg)
    known = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
    if not isinstance(accelerator, Accelerator):
        _checks.check_one_of(accelerator, tuple(name for name in known if name != "mps"), "accelerator")
    number = isinstance(devices, int) and not isinstance(devices, bool) and (devices > 0 or devices == -1)
    several = isinstance(devices, list | tuple) and len(devices) > 0
    text = isinstance(devices, str) and (devices == "auto" or devices.lstrip("-").replace(",", "").isdigit())
    if not (number or several or text):
        msg = f'Expected `devices` to be "auto", a number of at least 1, -1 for all, or a list, found {devices!r}.'
        raise ValueError(msg)
    _check_known(trainer_kwargs, _names(Trainer.__init__) | _names(pl.Trainer.__init__) | {"ckpt_path"}, "train")
    callbacks = trainer_kwargs.get("callbacks", ())
    if not isinstance(callbacks, list | tuple) or not all(isinstance(each, pl.Callback) for each in callbacks):
        msg = f"Expected `callbacks` to be a list of Lightning callbacks, found {callbacks!r}. Pass `callbacks=[...]`."
        raise TypeError(msg)


def _check_known(kwargs: Any, known: set[str], argument: str) -> None:
    if kwargs is not None and not isinstance(kwargs, Mapping):
        msg = f"Expected `{argument}` to be a dictionary of arguments by name, found {kwargs!r}."
        raise TypeError(msg)
    unknown = [name for name in kwargs or {} if name not in known]
    if unknown:
        others = "" if len(known) > 20 else f" It takes {', '.join(sorted(known))}."
        msg = f"Expected known arguments in `{argument}`, found {_checks.listed(unknown)}.{others} Check the spelling."
        raise TypeError(msg)


def _names(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
