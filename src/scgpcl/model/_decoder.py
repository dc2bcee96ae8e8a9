"""Training of the decoder for denoised expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgpcl import presets
from scgpcl._random import derived_seed, seeded
from scgpcl.data import BipartiteSplitter
from scgpcl.model import _checks
from scgpcl.model._training import TwoStageTraining
from scgpcl.model._training_checks import check_plan_kwargs, check_trainer
from scgpcl.train import BestDecoder, DecoderPlan, StageSettings, fit_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fewest cells to hold out from.
MIN_CELLS = 20
_TRAIN = presets.DEFAULT["train"]


class DecoderTraining(TwoStageTraining):
    """``train_decoder``: what ``train`` leaves out because clusters do not need it."""

    def train_decoder(
        self,
        max_epochs: int = 60,
        *,
        validation_size: float = 0.1,
        patience: int = 5,
        noise: float = 0.5,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int = 256,
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the decoder on, for denoised expression; latent vectors and labels stay as they are.

        :meth:`train` ends when the clusters have settled, by when the decoder of a small data set has seen too few
        mini-batches to tell much more than the mean of each gene. Here it learns from latent vectors that are fixed,
        with noise, until the likelihood of held-out cells no longer rises, and its best state is kept.

        Parameters
        ----------
        max_epochs
            Largest number of epochs.
        validation_size
            Share of the registered cells to hold out.
        patience
            Epochs without a smaller loss of these cells before training ends.
        noise
            Standard deviation of the noise, as a multiple of that of each latent dimension.
        accelerator, devices
            See :meth:`train`.
        batch_size
            Largest number of cells of a mini-batch.
        plan_kwargs
            Arguments of :class:`scgpcl.train.DecoderPlan`: ``lr`` (0.001) and ``weight_decay`` (0.01).
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`.

        Notes
        -----
        Writes nothing to the AnnData; its epochs are appended to ``history_`` as stage 3. If it fails, the model is as
        it was.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If an argument is out of range, if there are fewer than 20 cells, if the model was loaded without its
            cells, or made with ``reconstruction="mse"``.
        """
        self._trained_frame()
        _checks.check_range(max_epochs, 1, np.inf, "max_epochs", whole=True)
        _checks.check_range(validation_size, 0.01, 0.5, "validation_size")
        _checks.check_range(patience, 1, np.inf, "patience", whole=True)
        _checks.check_range(noise, 0.0, np.inf, "noise")
        n_cells = self._check_training({**_TRAIN, "batch_size": batch_size})
        check_trainer(accelerator, devices, trainer_kwargs)
        check_plan_kwargs(DecoderPlan, plan_kwargs, "plan_kwargs")
        if self.module.decoder.reconstruction != "zinb":
            msg = 'Expected a model with `reconstruction="zinb"`, found one without a distribution of counts.'
            raise ValueError(msg)
        if n_cells < MIN_CELLS:
            msg = f"Expected at least {MIN_CELLS} cells to train on and hold out from, found {n_cells}."
            raise ValueError(msg)
        trainer_kwargs["check_val_every_n_epoch"] = 1
        settings = StageSettings(max_epochs, accelerator, devices, trainer_kwargs)
        source = self._prepare()
        seed = derived_seed(self.seed_, 31)
        splitter = BipartiteSplitter(source, seed=seed, batch_size=batch_size, train_size=1.0 - validation_size)
        plan_kwargs = {"lr": 1e-3, "weight_decay": 1e-2, **(plan_kwargs or {})}
        with self._kept_on_failure(), seeded(derived_seed(self.seed_, 4)):
            z = torch.cat([self.module.encode(batch) for batch in splitter.batches()])
            batch_index = None if source.batch_index is None else torch.from_numpy(source.batch_index)
            plan = DecoderPlan(self.module, seed=self.seed_, z=z, batch_index=batch_index, noise=noise, **plan_kwargs)
            fit_stage(self, plan, splitter, [BestDecoder(splitter.train_idx, patience=patience)], settings)
            device = self.module.device
            known = None if batch_index is None else batch_index.to(device)
            self.module.decoder.fit_statistics(z.to(device), known)
