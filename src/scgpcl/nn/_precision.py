"""Single precision where mixed precision has no kernels or would overflow."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

HALVES = (torch.bfloat16, torch.float16)


def in_single_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function on tensors run outside autocast, with half-precision tensors as single precision.

    Sparse products have no half-precision kernels on a CPU, and a sum over all genes would lose its digits in them.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*(_single(arg) for arg in args), **{name: _single(arg) for name, arg in kwargs.items()})

    return run


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALVES else value
