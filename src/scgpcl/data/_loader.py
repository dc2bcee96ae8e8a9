"""Data loaders for bipartite mini-batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from scgpcl._random import cpu_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgpcl.data._cells import BipartiteBatch, Cells


class _Blocks(Dataset):
    """Data set that returns the batch for a list of cells."""

    def __init__(self, source: Cells) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: np.ndarray) -> BipartiteBatch:
        return self.source.batch(index)


class EvenBatchSampler(Sampler[np.ndarray]):
    """Cut the cells into batches of nearly equal size, so that no batch is too small for batch normalisation.

    Parameters
    ----------
    index
        Cells to draw from, shape (n_cells,).
    batch_size
        Maximum batch size, which is exceeded by one if a single cell would otherwise be left over.
    seed
        Random seed. If given, the cells are reshuffled in every epoch. Otherwise, they keep their order.
    rank, n_ranks
        Rank of this process, and number of processes that share the batches. Each process gets the same number of
        batches, and each cell is in one batch of one process.

    Raises
    ------
    ValueError
        If there are several processes and fewer than two cells for each of them.
    """

    def __init__(
        self, index: np.ndarray, batch_size: int, *, seed: int | None = None, rank: int = 0, n_ranks: int = 1
    ) -> None:
        self.index = np.asarray(index)
        n_cells = len(self.index)
        if n_ranks > 1 and n_cells < 2 * n_ranks:
            msg = f"Expected at least 2 cells for each of {n_ranks} processes, found {n_cells}. Use fewer `devices`."
            raise ValueError(msg)
        turns = -(-n_cells // (batch_size * n_ranks))
        self.n_batches = max(1, min(turns, n_cells // (2 * n_ranks)))
        self.seed = seed
        self.rank = rank
        self.n_ranks = n_ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines how the cells are shuffled. This is called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        index = self.index
        if self.seed is not None:
            generator = cpu_generator(self.seed, self.epoch)
            index = index[torch.randperm(len(index), generator=generator).numpy()]
            self.epoch += 1
        yield from np.array_split(index, self.n_batches * self.n_ranks)[self.rank :: self.n_ranks]


class _AheadLoader(DataLoader):
    """Data loader that prepares the next batch in a thread while the caller processes the current one."""

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return batches if self.num_workers or len(self) == 1 else _one_ahead(batches)


def _one_ahead(batches: Iterator[BipartiteBatch]) -> Iterator[BipartiteBatch]:
    with ThreadPoolExecutor(1, thread_name_prefix="scgpcl-batches") as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def bipartite_loader(
    source: Cells,
    index: np.ndarray,
    *,
    batch_size: int,
    seed: int | None = None,
    num_workers: int = 0,
    rank: int = 0,
    n_ranks: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Create a loader for mini-batches of nearly equal size from the cells in ``index``.

    If there are no workers, a thread loads the next batch ahead of time. Pinned memory lets batches be copied to a CUDA
    device without making the host wait.
    """
    return _AheadLoader(
        _Blocks(source),
        sampler=EvenBatchSampler(index, batch_size, seed=seed, rank=rank, n_ranks=n_ranks),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # otherwise the loader draws from the global state
    )
