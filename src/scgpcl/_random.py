"""Sources of randomness that never touch the user's global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(seed: int, *stream: int) -> int:
    """Independent seed for a numbered stream of a seed."""
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1)[0])


def cpu_generator(seed: int, *stream: int) -> torch.Generator:
    """Generator on the CPU for a numbered stream of a seed."""
    return torch.Generator().manual_seed(derived_seed(seed, *stream))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU state inside the block and give the user's state back after it.

    For code that draws from the global state and takes no generator, such as the initialisation of layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
