"""Fit one stage with the scvi-tools trainer, and keep the history of all stages."""

from __future__ import annotations

import hashlib
import logging
import pickle
import signal
import tempfile
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from scvi.train import Trainer

from scgpcl import _keys
from scgpcl.train._callbacks import FiniteLosses
from scgpcl.train._progress import StageProgress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scgpcl.data import BipartiteSplitter
    from scgpcl.train._plans import StagePlan

logger = logging.getLogger(__name__)

History = dict[str, pd.DataFrame]


class Devices(NamedTuple):
    """Devices to run the stages on, arguments of ``scvi.train.Trainer``, and the object that its checkpoints save."""

    accelerator: Any = "auto"
    devices: int | list[int] | str = "auto"
    trainer_kwargs: dict[str, Any] = {}
    saved_by_checkpoints: Any = None


def shows_progress(trainer_kwargs: Mapping[str, Any]) -> bool:
    """Return whether ``scvi.train.Trainer`` is asked for its simple progress bar, which our own bar replaces."""
    wanted = trainer_kwargs.get("enable_progress_bar", True) and trainer_kwargs.get("simple_progress_bar", True)
    return bool(wanted) and trainer_kwargs.get("progress_bar_refresh_rate", 1) > 0


def make_trainer(
    splitter: BipartiteSplitter,
    callbacks: Sequence[pl.Callback],
    max_epochs: int,
    where: Devices,
    log_folder: str,
    *,
    title: str,
) -> Trainer:
    """Create the trainer of one stage, which uses one device unless more are requested.

    ``title`` is the name of the stage in its progress bar.
    """
    kwargs = {"log_every_n_steps": 1, **where.trainer_kwargs}  # small data has fewer steps than Lightning's interval
    kwargs.pop("ckpt_path", None)
    if len(splitter.val_idx) == 0:  # checkpoints and tuners request validation, whose loader must not be None
        kwargs["limit_val_batches"] = 0
    # the trainer appends to this list, so each stage needs a separate one
    kwargs["callbacks"] = [FiniteLosses(), *callbacks, *(kwargs.get("callbacks") or ())]
    if shows_progress(kwargs):
        kwargs["callbacks"].append(StageProgress(title))
        kwargs["simple_progress_bar"] = False  # that of scvi-tools
    kwargs["use_distributed_sampler"] = False  # the splitter distributes the cells itself
    # with several processes scvi-tools passes the history on in a file, by default in the working directory
    if kwargs.get("logger") is None and where.devices not in ("auto", 1, "1"):
        kwargs.setdefault("log_save_dir", log_folder)
    accelerator = where.accelerator
    if accelerator == "auto" and torch.backends.mps.is_available() and not torch.cuda.is_available():
        accelerator = "cpu"  # PyTorch has no sparse matrices on Apple's GPUs
    devices: Any = 1 if where.devices == "auto" else where.devices
    if isinstance(devices, np.integer):
        devices = int(devices)
    trainer = Trainer(max_epochs=max_epochs, accelerator=accelerator, devices=devices, **kwargs)
    if trainer.world_size > 1:
        trainer.callbacks.insert(0, SameCells(splitter))
    trainer._model = where.saved_by_checkpoints  # scvi-tools' SaveCheckpoint saves it
    return trainer


def fit_stage(
    plan: StagePlan,
    splitter: BipartiteSplitter,
    callbacks: Sequence[pl.Callback],
    *,
    max_epochs: int,
    where: Devices,
    history: History,
    resume_from: Path | None = None,
    first_epoch: int = 0,
) -> Trainer:
    """Fit one stage, and add its metrics to the history even if it is interrupted.

    Parameters
    ----------
    plan
        Losses and optimiser of the stage.
    splitter
        Source of the cells, the same for all stages.
    callbacks
        Callbacks that run between the epochs of the stage.
    max_epochs
        Maximum number of epochs.
    where
        Devices and arguments of the trainer.
    history
        Metrics of previous epochs, updated in place.
    resume_from, first_epoch
        Checkpoint of the stage to resume from, and the number of epochs completed before it.

    Raises
    ------
    FloatingPointError
        If a loss is NaN or infinite. The weights from before that epoch are restored.
    """
    module = plan.module
    early_stopping = where.trainer_kwargs.get("early_stopping", False)
    module.train()
    frozen = [parameter for parameter in plan.frozen if parameter.requires_grad]
    for parameter in frozen:  # otherwise DDP would wait for their gradients
        parameter.requires_grad_(False)
    found: History | None = None
    try:
        with (
            _quiet(early_stopping=early_stopping),
            _interruptible(),
            tempfile.TemporaryDirectory() as folder,
        ):
            trainer = make_trainer(splitter, callbacks, max_epochs, where, folder, title=plan.title)
            device = trainer.strategy.root_device
            if getattr(trainer.strategy.launcher, "is_interactive_compatible", False):
                device = torch.device("cpu")  # a process that has used a GPU cannot be forked for the next stage
            logger.info("%s on %s for at most %d epochs.", plan.title, device, max_epochs)
            try:
                checkpoint = where.trainer_kwargs.get("ckpt_path") if resume_from is None else str(resume_from)
                trainer.fit(plan, splitter, ckpt_path=checkpoint)
            finally:
                found = _logged(trainer)
            module.to(device)
            found = trainer.strategy.broadcast(found)
    finally:
        history.update(merge_histories(history, found, stage=plan.stage, first_epoch=first_epoch))
        for parameter in frozen:
            parameter.requires_grad_(True)
        module.eval()
    return trainer


def _logged(trainer: Trainer) -> History:
    """Return the metrics of a fit in the first process. Forked processes have written them to a file."""
    if not trainer.is_global_zero:
        return {}
    tables = getattr(trainer.logger, "history", None)
    path = getattr(trainer.logger, "history_path", None)
    if not tables and path and Path(path).exists():
        with Path(path).open("rb") as file:
            tables = pickle.load(file)
    return {name: table.copy() for name, table in (tables or {}).items()}


@contextmanager
def _interruptible() -> Iterator[None]:
    """Re-raise KeyboardInterrupt, which Lightning turns into an exit, and restore the signal handler."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet(*, early_stopping: bool = False) -> Iterator[None]:
    """Silence messages that Lightning prints in every fit: devices, advertising, and an internal deprecation."""
    logs = [logging.getLogger(f"lightning.{part}.utilities.rank_zero") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
            if not early_stopping:  # scvi-tools warns about early stopping even if nobody asked for it
                warnings.filterwarnings("ignore", message="early_stopping was automatically disabled")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def merge_histories(before: History | None, after: History | None, *, stage: int, first_epoch: int = 0) -> History:
    """Append the metrics of a stage to previous metrics, and number the epochs consecutively.

    The stage of each epoch is stored under ``"stage"``. Each table has the index ``epoch`` and one column named after
    the metric. ``first_epoch`` is the number of the first epoch in ``after``, which is not 0 if the stage resumed from
    a checkpoint.
    """
    before, after = dict(before or {}), dict(after or {})
    start = 1 + max((int(table.index.max()) for table in before.values() if len(table)), default=-1) - first_epoch
    epochs = sorted({int(epoch) for table in after.values() for epoch in table.index})
    after[_keys.STAGE] = pd.DataFrame({_keys.STAGE: stage}, index=pd.Index(epochs, name="epoch", dtype="int64"))
    for name, table in after.items():
        moved = table.set_axis(pd.Index(table.index.astype("int64") + start, name="epoch"))
        moved = moved.astype("int64" if name == _keys.STAGE else "float64")
        before[name] = pd.concat([before[name], moved]) if name in before else moved
    return before


class SameCells(pl.Callback):
    """Check that all processes have the same cells, genes and split before they train."""

    def __init__(self, splitter: BipartiteSplitter) -> None:
        self.splitter = splitter

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare the data of this process with the data of the first process."""
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
