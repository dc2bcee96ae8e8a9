"""Training that stops at the first loss that is no number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from scgpcl.train._plans import StagePlan

ADVICE = (
    "The weights are again those from before that epoch. Lower the learning rate, for example with "
    "`pretrain_plan_kwargs` and `cluster_plan_kwargs={'lr': 1e-4}`, or train in full precision."
)


class FiniteLosses(pl.Callback):
    """Stop at a loss that is NaN or infinite, with the weights of the last epoch that ended well.

    Losses are looked at after every step on a CPU, and once per epoch on other devices, where each look would make the
    host wait, and with several processes, which stop together.
    """

    def __init__(self) -> None:
        self._steps: list[dict[str, Tensor]] = []
        self._looked_at = 0
        self._good: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that the epoch starts with."""
        state = cast("StagePlan", pl_module).module.state_dict()
        self._good = {name: value.detach().clone() for name, value in state.items()}
        self._steps, self._looked_at = [], 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the losses of the step."""
        self._steps.append(cast("StagePlan", pl_module).step_losses)
        if pl_module.device.type == "cpu" and trainer.world_size == 1:
            self._look(trainer, cast("StagePlan", pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what is left before the cells are clustered, and at what the last step made of the weights."""
        plan = cast("StagePlan", pl_module)
        self._look(trainer, plan)
        state = {name: value for name, value in plan.module.state_dict().items() if value.is_floating_point()}
        finite = torch.stack([torch.isfinite(value).all() for value in state.values()])
        if not finite.all():
            plan.module.load_state_dict(self._good)
            bad = list(state)[int((~finite).nonzero()[0, 0])]
            msg = (
                f"Expected finite weights, found others in `{bad}` after batch {len(self._steps) - 1} of epoch "
                f"{trainer.current_epoch} of stage {plan.stage}, whose losses are finite. {ADVICE}"
            )
            raise FloatingPointError(msg)

    def _look(self, trainer: pl.Trainer, plan: StagePlan) -> None:
        new = self._steps[self._looked_at :]
        if not new:
            return
        total = torch.stack([torch.stack(list(losses.values())).sum() for losses in new])
        total = cast("Tensor", trainer.strategy.reduce(total, reduce_op="sum"))
        if not torch.isfinite(total).all():
            step = int((~torch.isfinite(total)).nonzero()[0, 0])
            plan.module.load_state_dict(self._good)
            raise FloatingPointError(self._message(trainer, plan, self._looked_at + step))
        self._looked_at = len(self._steps)

    def _message(self, trainer: pl.Trainer, plan: StagePlan, step: int) -> str:
        losses = {name: float(value) for name, value in self._steps[step].items()}
        bad = [f"`{name}` {value}" for name, value in losses.items() if not torch.isfinite(torch.tensor(value))]
        return (
            f"Expected finite losses, found {', '.join(bad) or 'an infinite sum of all'} in batch {step} of epoch "
            f"{trainer.current_epoch} of stage {plan.stage}. {ADVICE}"
        )
