"""Protect torch settings that other libraries change: the number of threads and the default data type."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def held() -> Iterator[None]:
    """Use single precision and the number of threads set by the user in torch, and hold that number at the end.

    If numba shares torch's OpenMP library, its first parallel loop lets torch use all processors. On a busy machine,
    steps then take several times as long, and sums are rounded differently from one call to the next. A lower limit,
    such as one set by threadpoolctl, is respected. This function can also be used as a decorator.
    """
    threads = min(torch.get_num_threads(), _threads_set())
    dtype = torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _threads_set() -> int:
    """Return the number of threads last set through torch.

    A new thread starts with this number, whatever the setting of the current thread.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(torch.get_num_threads).result()
