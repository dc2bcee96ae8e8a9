"""Data module for both training stages, and its loaders of bipartite mini-batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

from scgpcl._random import cpu_generator
from scgpcl.data._counts import BLOCK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvi.data import AnnDataManager

    from scgpcl.data._cells import BipartiteBatch, Cells


class BipartiteSplitter(DataSplitter):
    """Split the cells once for both stages and yield mini-batches.

    Further arguments are the same as in scvi-tools' ``DataSplitter``.
    """

    def __init__(self, source: Cells, *, seed: int, batch_size: int, **kwargs: Any) -> None:
        num_workers = kwargs.pop("num_workers", 0)
        # the base class asks a manager only for the number of cells, and warns about small last batches; none occur
        manager = cast("AnnDataManager", SimpleNamespace(adata=SimpleNamespace(n_obs=len(source))))
        super().__init__(manager, batch_size=len(source) + 1, **kwargs)
        self.source = source
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._split()

    def _split(self) -> None:
        index = np.arange(len(self.source))
        if self.external_indexing is not None:
            self.train_idx, self.val_idx, self.test_idx = (np.asarray(i, dtype=int) for i in self.external_indexing)
            return
        if self.shuffle_set_split:
            index = np.random.default_rng(self.seed).permutation(index)
        self.val_idx = np.sort(index[: self.n_val])
        self.train_idx = np.sort(index[self.n_val : self.n_val + self.n_train])
        self.test_idx = np.sort(index[self.n_val + self.n_train :])

    def setup(self, stage: str | None = None) -> None:
        """Do nothing, because the cells were already split at construction, once for both stages."""

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches of the training cells. Each process gets its share of the batches."""
        ranks = {} if self.trainer is None else {"rank": self.trainer.global_rank, "n_ranks": self.trainer.world_size}
        return self._loader(self.train_idx, seed=self.seed, **ranks)

    def val_dataloader(self) -> DataLoader | None:
        """Return batches of the validation cells, if there are any. Every process gets all of them."""
        return self._loader(self.val_idx) if len(self.val_idx) else None

    def test_dataloader(self) -> DataLoader | None:
        """Return batches of the test cells, if there are any."""
        return self._loader(self.test_idx) if len(self.test_idx) else None

    def _loader(self, index: np.ndarray, **kwargs: Any) -> DataLoader:
        pin_memory = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return bipartite_loader(
            self.source,
            index,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=pin_memory,
            **kwargs,
        )

    def restricted(self, index: np.ndarray) -> BipartiteSplitter:
        """Return the same split with only those training cells that are in ``index``."""
        part = copy(self)
        part.train_idx = np.intersect1d(self.train_idx, index)
        return part

    def sampled(self, n_cells: int, *, seed: int) -> BipartiteSplitter:
        """Return a splitter with at most ``n_cells`` cells for training and as many for validation.

        The cells are drawn uniformly and kept in memory. Up to half of them are labelled cells, which are taken from
        the types in turn so that every type is represented.
        """
        rng = np.random.default_rng(seed)
        parts = [np.sort(self._drawn(rng.permutation(each), n_cells)) for each in (self.train_idx, self.val_idx)]
        index = np.sort(np.concatenate(parts))
        part = copy(self)
        part.source = self.source.taken(index)
        part.train_idx, part.val_idx = (np.searchsorted(index, each) for each in parts)
        part.test_idx = np.empty(0, dtype=int)
        return part

    def _drawn(self, order: np.ndarray, n_cells: int) -> np.ndarray:
        """Take the first cells of an order, preceded by labelled cells, shape (at most n_cells,)."""
        codes = self.source.label_index
        if codes is None:
            return order[:n_cells]
        labelled = order[codes[order] >= 0]
        turn = pd.Series(codes[labelled]).groupby(codes[labelled]).cumcount()
        labelled = labelled[np.argsort(turn.to_numpy(), kind="stable")][: n_cells // 2]
        return np.concatenate([labelled, order[~np.isin(order, labelled)]])[:n_cells]

    def batches(
        self, index: np.ndarray | None = None, *, device: torch.device | str = "cpu"
    ) -> Iterator[BipartiteBatch]:
        """Yield large batches of some or all cells, in order, for inference on a device."""
        index = np.arange(len(self.source)) if index is None else index
        pin_memory = torch.device(device).type == "cuda"
        for batch in bipartite_loader(self.source, index, batch_size=BLOCK_ROWS, pin_memory=pin_memory):
            yield batch.to(device)


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
