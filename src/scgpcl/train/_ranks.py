"""Several processes: what one of them computes for all, and the check that all have the same cells."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgpcl.data import BipartiteSplitter
    from scgpcl.module import SCGPCLModule

T = TypeVar("T")


def from_first(trainer: pl.Trainer | None, module: SCGPCLModule, compute: Callable[[], T]) -> T:
    """Result of a function that is called in the first process only; the others wait for it.

    They also take over the buffers of the module, which such functions set: statistics and gene states of inference.

    A failure in the first process is raised there and reported as a ``RuntimeError`` in the others. Results are tensors
    and plain values in any nesting.
    """
    if trainer is None or trainer.world_size == 1 or not torch.distributed.is_initialized():
        return compute()  # also between the stages where processes live for one stage only
    sent: dict[str, Any] = {}
    failure = None
    if trainer.global_rank == 0:
        try:
            sent["result"] = move_data_to_device(compute(), "cpu")
            sent["buffers"] = {name: buffer.cpu() for name, buffer in module.named_buffers()}
        except Exception as error:  # noqa: BLE001  (it is raised again when the others know)
            failure, sent = error, {"failure": f"{type(error).__name__}: {error}"}
    sent = trainer.strategy.broadcast(sent)
    if failure is not None:
        raise failure
    if "failure" in sent:
        msg = f"Expected a result of the first process, found that it failed there: {sent['failure']}"
        raise RuntimeError(msg)
    for name, buffer in module.named_buffers():
        buffer.copy_(sent["buffers"][name])
    return move_data_to_device(sent["result"], module.gene_mean.device)


class SameCells(pl.Callback):
    """Require the same cells, genes and split in all processes before they train."""

    def __init__(self, splitter: BipartiteSplitter) -> None:
        self.splitter = splitter

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare with the first process."""
        if trainer.world_size == 1:
            return
        own = self._digest()
        same = own == trainer.strategy.broadcast(own)
        if not trainer.strategy.reduce_boolean_decision(same, all=True):
            msg = (
                "Expected the same cells and genes in the same order in every process, found different ones. Each process runs "
                "the whole script: fix the seed of whatever draws or shuffles cells before training."
            )
            raise ValueError(msg)

    def _digest(self) -> str:
        source, splitter = self.splitter.source, self.splitter
        first = source.rows(np.arange(min(len(source), splitter.batch_size)))
        digest = hashlib.blake2b(repr((len(source), first.shape)).encode())
        for values in (source.size_factor, first.indices, first.data, splitter.train_idx, splitter.val_idx):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()
