"""Sources of randomness that never change the user's global random state."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def derived_seed(seed: int, *stream: int) -> int:
    """Derive an independent seed for a numbered stream of a seed."""
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1)[0])


def cpu_generator(seed: int, *stream: int) -> torch.Generator:
    """Create a CPU generator for a numbered stream of a seed."""
    return torch.Generator().manual_seed(derived_seed(seed, *stream))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global state inside the block, and restore the user's state afterwards.

    Use this for code that draws from the global state and does not accept a generator, such as the initialisation of
    layers, and for libraries that draw random numbers unnecessarily.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
