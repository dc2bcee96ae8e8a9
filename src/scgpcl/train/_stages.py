"""Run one stage and keep the history of both."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from scvi.train import TrainRunner

from scgpcl import _keys
from scgpcl.train._guard import FiniteLosses
from scgpcl.train._ranks import SameCells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import lightning.pytorch as pl
    from scvi.model.base import BaseModelClass

    from scgpcl.data import BipartiteSplitter
    from scgpcl.train._plans import StagePlan

logger = logging.getLogger(__name__)

History = dict[str, pd.DataFrame]


class StageSettings(NamedTuple):
    """Where and how long a stage runs.

    Parameters
    ----------
    max_epochs
        Largest number of epochs.
    accelerator, devices
        See :class:`lightning.pytorch.Trainer`.
    trainer_kwargs
        Further arguments of :class:`scvi.train.Trainer`.
    resume_from
        Checkpoint of the stage to go on from.
    first_epoch
        Epochs of the stage that are done by then.
    """

    max_epochs: int
    accelerator: str
    devices: int | list[int] | str
    trainer_kwargs: dict[str, Any]
    resume_from: Path | None = None
    first_epoch: int = 0


def fit_stage(
    model: BaseModelClass,
    plan: StagePlan,
    splitter: BipartiteSplitter,
    callbacks: Sequence[pl.Callback],
    settings: StageSettings,
) -> None:
    """Fit one stage; its metrics are appended to those that the model already has, also when it is interrupted.

    Parameters
    ----------
    model
        The model whose module is trained; its history and state of training are updated.
    plan
        Losses and optimiser of the stage.
    splitter
        Source of the cells, the same for both stages.
    callbacks
        What the stage does between its epochs.
    settings
        Where and how long it runs.

    Raises
    ------
    FloatingPointError
        If a loss is NaN or infinite; the weights are those from before that epoch then.
    """
    before = model.history_
    model.history_, model.is_trained_ = None, False
    # metrics are logged per epoch; small data has fewer steps in one than Lightning's interval, of which it would warn
    trainer_kwargs = {"log_every_n_steps": 1, **settings.trainer_kwargs}
    if len(splitter.val_idx) == 0:  # checkpoints and tuners ask for validation, whose loader may not be None
        trainer_kwargs["limit_val_batches"] = 0
    # the trainer appends to the list it is given, so each stage gets a list of its own
    trainer_kwargs["callbacks"] = [
        SameCells(splitter),
        FiniteLosses(),
        *callbacks,
        *trainer_kwargs.get("callbacks", ()),
    ]
    trainer_kwargs["use_distributed_sampler"] = False  # the splitter shares the cells out itself
    if settings.resume_from is not None:
        trainer_kwargs["ckpt_path"] = str(settings.resume_from)
    model.module.train()
    try:
        with (
            _quiet(early_stopping=trainer_kwargs.get("early_stopping", False)),
            _interruptible(),
            _frozen(plan),
            tempfile.TemporaryDirectory() as folder,
        ):
            # with several processes scvi-tools passes the history on in a file, by default in the working directory
            if trainer_kwargs.get("logger") is None and settings.devices not in ("auto", 1, "1"):
                trainer_kwargs.setdefault("log_save_dir", folder)
            runner = TrainRunner(
                model,
                training_plan=plan,
                data_splitter=splitter,
                max_epochs=settings.max_epochs,
                accelerator=settings.accelerator,
                devices=settings.devices,
                **trainer_kwargs,
            )
            if getattr(runner.trainer.strategy.launcher, "is_interactive_compatible", False):
                runner.device = torch.device("cpu")  # a process that has used a GPU cannot be forked for the next stage
            elif runner.trainer.world_size > 1:
                runner.device = runner.trainer.strategy.root_device  # not all of them on the first one
            logger.info("Stage %d runs on %s for at most %d epochs.", plan.stage, runner.device, settings.max_epochs)
            runner()
            model.history_ = runner.trainer.strategy.broadcast(model.history_)
    finally:
        model.history_ = merge_histories(before, model.history_, stage=plan.stage, first_epoch=settings.first_epoch)
        model.is_trained_ = model.is_trained_ or before is not None
        model.module.eval()


@contextmanager
def _frozen(plan: StagePlan) -> Iterator[None]:
    """Leave out the parameters that have no part in the losses: several processes would wait for their gradients."""
    idle = [parameter for parameter in plan.idle if parameter.requires_grad]
    for parameter in idle:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in idle:
            parameter.requires_grad_(True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C reach the caller as what it is: Lightning ends the process instead, and ignores Ctrl-C from then on."""
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
    """Leave out what Lightning says at every fit: its banner of devices, its advertising, a deprecation of its own."""
    logs = [logging.getLogger(f"lightning.{part}.utilities.rank_zero") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
            if not early_stopping:  # which scvi-tools says that it leaves out, asked for or not
                warnings.filterwarnings("ignore", message="early_stopping was automatically disabled")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def merge_histories(before: History | None, after: History | None, *, stage: int, first_epoch: int = 0) -> History:
    """Append a stage's metrics to those before, with epochs counted on.

    Parameters
    ----------
    before, after
        Metric name -> table with index ``epoch`` and one column of the metric's name; ``None`` is empty.
    stage
        Number of the appended stage, kept per epoch under ``"stage"``.
    first_epoch
        Number of the first epoch in ``after``: not 0 where the stage went on from a checkpoint.

    Returns
    -------
    All metrics of both, each at the epochs at which it was logged.
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
