"""Check arguments that do not fit into a table of rules: the split of the cells and the trainer."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from scvi.dataloaders import DataSplitter
from scvi.train import Trainer

from scgpcl._rules import RULES, check_known, check_replaced
from scgpcl.train._plans import DistillationPlan, PretrainPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


#: Training plan for each argument that holds the keyword arguments of a plan.
PLANS = {"pretrain_plan_kwargs": PretrainPlan, "cluster_plan_kwargs": DistillationPlan}
#: Trainer precisions that keep the weights in single precision.
PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed", "16")


def check_split(
    train_size: float | None, validation_size: float | None, splitter_kwargs: Any, n_cells: int, *, early_stopping: bool
) -> None:
    """Check that the split leaves at least two cells to train on and that the splitter arguments are known."""
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
            "Pass `train_size=0.9`, or leave early stopping off: clustering stops by itself when the labels have settled."
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
    """Check that there are three parts and that together they contain each cell once."""
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
    """Check that the device is usable and that the trainer arguments are known and result in a trained model."""
    _check_accelerator(accelerator)
    whole = isinstance(devices, int | np.integer) and not isinstance(devices, bool)
    number = whole and (devices > 0 or devices == -1)
    several = isinstance(devices, list | tuple) and len(devices) > 0
    text = isinstance(devices, str) and (devices == "auto" or devices.lstrip("-").replace(",", "").isdigit())
    if not (number or several or text):
        msg = f'Expected `devices` to be "auto", a number of at least 1, -1 for all, or a list, found {devices!r}.'
        raise ValueError(msg)
    lightning = inspect.signature(pl.Trainer.__init__).parameters
    defaults = {
        name for name, value in trainer_kwargs.items() if name in lightning and value == lightning[name].default
    }
    check_replaced([name for name in trainer_kwargs if name not in defaults], "train")
    known = _names(Trainer.__init__) | set(lightning) | {"ckpt_path"}
    for name in trainer_kwargs:
        plans = [place for place, plan in PLANS.items() if name not in known and name in _names(plan)]
        if plans:
            hint = " or ".join(f"`{place}={{{name!r}: ...}}`" for place in plans)
            msg = f"Expected known arguments of `train`, found {name!r}, which is one of its plans. Pass {hint}."
            raise TypeError(msg)
    check_known(trainer_kwargs, known, "train")
    precision = trainer_kwargs.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        msg = (
            f"Expected `precision` to be one of {PRECISIONS}, found {precision!r}: weights are kept and sparse products are "
            "taken in single precision. Leave it out."
        )
        raise ValueError(msg)
    if trainer_kwargs.get("accumulate_grad_batches") is not None:
        RULES["accumulate_grad_batches"](trainer_kwargs["accumulate_grad_batches"], "accumulate_grad_batches")
    callbacks = trainer_kwargs.get("callbacks")
    callbacks = () if callbacks is None else callbacks
    if not isinstance(callbacks, list | tuple) or not all(isinstance(each, pl.Callback) for each in callbacks):
        msg = f"Expected `callbacks` to be a list of Lightning callbacks, found {callbacks!r}. Pass `callbacks=[...]`."
        raise TypeError(msg)


def check_device(accelerator: Any, device: Any) -> dict[str, Any]:
    """Return the arguments of scvi-tools' ``load`` for one device, which may be given by its PyTorch name."""
    named = device
    if isinstance(device, str | torch.device) and device != "auto":
        name, _, number = str(device).partition(":")
        if name in ("cpu", "cuda", "gpu") and (number.isdigit() or not number):
            of_name = "cpu" if name == "cpu" else "gpu"
            if accelerator not in ("auto", of_name, name):
                msg = f"Expected `accelerator` and `device` that agree, found {accelerator!r} and {device!r}."
                raise ValueError(msg)
            accelerator, device = of_name, int(number) if number and of_name == "gpu" else "auto"
        elif str(device).isdigit():
            device = int(str(device))
    _check_accelerator(accelerator)
    if isinstance(device, np.integer):
        device = int(device)
    if device != "auto" and (isinstance(device, bool) or not isinstance(device, int) or device < 0):
        msg = f'Expected `device` to be "auto", the number of a GPU, or a name such as "cpu" or "cuda:0", found {named!r}.'
        raise ValueError(msg)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return {"accelerator": accelerator, "device": "auto"}
    n_devices = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and (n_devices == 0 or (device != "auto" and device >= n_devices)):
        msg = f"Expected a GPU for `device={named!r}`, found {n_devices} GPUs. Pass `device='cpu'`."
        raise ValueError(msg)
    return {"accelerator": accelerator, "device": device if device == "auto" else [device]}


def _check_accelerator(accelerator: Any) -> None:
    """Check that PyTorch supports sparse matrices on the accelerator."""
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


def _names(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
