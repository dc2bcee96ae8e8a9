"""Train only the decoder, on fixed latent vectors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from scgpcl import _keys
from scgpcl.train._plans import StagePlan

if TYPE_CHECKING:
    import numpy as np

    from scgpcl.data import BipartiteBatch
    from scgpcl.module import SCGPCLModule


class DecoderPlan(StagePlan):
    """Train the decoder on fixed latent vectors plus noise, which keeps it from memorising individual cells.

    Parameters
    ----------
    module
        The network, of which only the decoder is trained.
    z
        Full-length latent vectors of all cells, shape (n_cells, n_latent).
    batch_index
        Experimental batch of each cell, int64, shape (n_cells,), if the decoder uses batches.
    noise
        Standard deviation of the noise, as a multiple of the standard deviation of each latent dimension.
    lr, weight_decay
        Learning rate and weight decay of the optimiser (AdamW).
    decoded_genes
        See :class:`scgpcl.train.PretrainPlan`.
    """

    stage = 3
    title = "Decoder"

    def __init__(
        self,
        module: SCGPCLModule,
        *,
        seed: int,
        z: Tensor,
        batch_index: Tensor | None,
        noise: float,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        decoded_genes: float = 1.0,
    ) -> None:
        super().__init__(
            module,
            seed=seed,
            optimizer="AdamW",
            lr=lr,
            weight_decay=weight_decay,
            encoder_lr=1.0,
            one_cycle=False,
            decoded_genes=decoded_genes,
        )
        trained = {id(parameter) for parameter in module.decoder.parameters()}
        self.frozen = [parameter for parameter in module.parameters() if id(parameter) not in trained]
        self.z = z
        self.batch_index = batch_index
        self.noise = noise * z.std(0)

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the decoder."""
        return torch.optim.AdamW(self.module.decoder.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def training_step(self, batch: BipartiteBatch, batch_idx: int) -> Tensor:
        """Compute the loss of one mini-batch."""
        z = self.z[batch.cell_index.to(self.z.device)]
        noise = torch.randn(z.shape, generator=self._generator).to(z)
        device = batch.counts.device
        noisy = (z + self.noise * noise).unsqueeze(1).to(device)
        loss = self.module.reconstruction_loss(batch, noisy, genes=self.decoded(device))
        self.log_losses(batch, loss, {_keys.RECONSTRUCTION_LOSS: loss})
        return loss


class BestDecoder(pl.Callback):
    """Keep the decoder from the epoch with the smallest validation loss.

    Training stops after ``patience`` epochs without a smaller validation loss.
    """

    def __init__(self, train_index: np.ndarray, *, patience: int) -> None:
        self.train_index = torch.from_numpy(train_index)
        self.patience = patience
        self.loss = float("inf")
        self.epoch = -1
        self.state: dict[str, Tensor] | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the statistics that the decoder uses in inference."""
        plan = cast("DecoderPlan", pl_module)
        batch_index = None if plan.batch_index is None else plan.batch_index[self.train_index].to(plan.device)
        plan.module.decoder.fit_statistics(plan.z[self.train_index].to(plan.device), batch_index)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch with the best one so far, after validation has run."""
        loss = float(trainer.callback_metrics[_keys.VALIDATION_LOSS])
        if loss < self.loss:
            self.loss, self.epoch = loss, trainer.current_epoch
            self.state = copy.deepcopy(cast("DecoderPlan", pl_module).module.decoder.state_dict())
        elif trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the best decoder."""
        if self.state is not None:
            cast("DecoderPlan", pl_module).module.decoder.load_state_dict(self.state)
