"""Show the progress of training with one bar per stage, in a terminal, a notebook or a log file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

from scgpcl import _keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import lightning.pytorch as pl

T = TypeVar("T")

#: Seconds between two updates in a log file, where each update is a separate line.
LOG_INTERVAL = 30.0
LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}<{remaining}{postfix}]"
DRAWS_LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
DONE = "{desc} [{elapsed}{postfix}]"


def _bar(sequence: Iterable[T] | None, **kwargs: Any) -> Any:
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(sequence, mininterval=0.1 if watched else LOG_INTERVAL, **kwargs)


def shown(sequence: Iterable[T], title: str, *, total: int, visible: bool) -> Iterator[T]:
    """Iterate over a sequence, and show a progress bar if ``visible``."""
    yield from _bar(sequence, desc=title, total=total, bar_format=DRAWS_LAYOUT, disable=not visible)


class StageProgress(ProgressBar):
    """Progress bar of one stage that shows the epochs, the loss and the time left, and finally why the stage ended."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._visible = True
        self._bar: Any = None

    def disable(self) -> None:
        """Disable the bar in all processes except the first."""
        self._visible = False

    def enable(self) -> None:
        """Show the bar again."""
        self._visible = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar at the first epoch, or at the epoch from which training resumes."""
        self._bar = _bar(
            None,
            desc=self.title,
            total=trainer.max_epochs,
            initial=trainer.current_epoch,
            bar_format=LAYOUT,
            disable=not self._visible,
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Advance the bar by one epoch."""
        loss = trainer.callback_metrics.get(_keys.TRAIN_LOSS)
        if loss is not None:
            self._bar.set_postfix_str(f"loss {float(loss):.4g}", refresh=False)
        self._bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show after how many epochs the stage ended, and whether it ended by itself."""
        n_epochs, most = trainer.current_epoch, trainer.max_epochs or 0
        ended = f"{n_epochs} epoch{'s' if n_epochs != 1 else ''}"
        if n_epochs < most:
            ended = f"converged after {n_epochs} of {most} epochs"
        self._bar.bar_format, self._bar.total = DONE, self._bar.n  # a notebook would draw an incomplete bar in red
        self._bar.set_description_str(f"{self.title}: {ended}", refresh=False)
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar and leave it as it is."""
        if self._bar is not None:
            self._bar.close()
