"""Counts drawn from the fitted distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi.distributions import ZeroInflatedNegativeBinomial

from scgpcl._random import derived_seed, seeded
from scgpcl.model import _checks
from scgpcl.model._getters import DECODE_BATCH, Getters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from sparse import GCXS


class Samples(Getters):
    """Draws from the model, for checks of its fit."""

    @torch.no_grad()
    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> GCXS:
        """Draw counts from each cell's zero-inflated negative binomial, at the cell's own library size.

        The latent vector of a cell is a point, not a distribution as in scVI, so all the spread of the draws is that
        of the counts.

        Parameters
        ----------
        adata, indices
            See :meth:`get_latent_representation`.
        n_samples
            Draws per cell and gene.
        gene_list
            See :meth:`get_normalized_expression`.
        batch_size
            Cells drawn at a time; the draws are dense until they are stored.
        seed
            Seed of the draws; ``None`` is the model's seed, so that repeated calls agree.

        Returns
        -------
        Sparse array of shape (n_cells, n_genes), or (n_cells, n_genes, n_samples) with more than one draw.

        Raises
        ------
        KeyError
            If ``gene_list`` names genes that the model does not use.
        RuntimeError
            If the model is not trained.
        ValueError
            If the model was made with ``reconstruction="mse"``, or an argument is out of range.
        """
        import sparse

        _checks.check_range(n_samples, 1, np.inf, "n_samples", whole=True)
        if seed is not None:
            _checks.check_seed(seed)
        genes, columns = self._gene_columns(gene_list)
        drawn = []
        with seeded(derived_seed(self.seed_ if seed is None else seed, 40)):
            for batch in self._batches(adata, indices, DECODE_BATCH if batch_size is None else batch_size):
                # drawn on the CPU: the same counts on every device, and the device's random state is the user's
                mu, theta, zi_logits = (value[:, columns].cpu() for value in self._decode(batch))
                px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits)
                counts = px.sample((n_samples,)).permute(1, 2, 0).numpy()
                drawn.append(sparse.GCXS.from_numpy(counts[..., 0] if n_samples == 1 else counts))
        if not drawn:
            shape = (0, len(genes)) if n_samples == 1 else (0, len(genes), n_samples)
            return sparse.GCXS.from_numpy(np.empty(shape, dtype=np.float32))
        return sparse.concatenate(drawn, axis=0)
