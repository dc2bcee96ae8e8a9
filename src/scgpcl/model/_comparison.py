"""The space in which cells and partitions are compared: components of the counts in which the network has no part."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from scgpcl._random import derived_seed
from scgpcl.model._features import feature_offset, fit_axes, scores_along, sparse_features

if TYPE_CHECKING:
    from scgpcl.data import CountSource
    from scgpcl.module import SCGPCLModule

#: Components.
N_AXES = 50
#: Cells that partitions are compared on and axes are computed from; more are sampled.
MAX_COMPARED_CELLS = 10_000


def comparison_sample(n_cells: int, *, seed: int) -> np.ndarray:
    """Cells that partitions are compared on, ascending positions, shape (at most ``MAX_COMPARED_CELLS``,)."""
    if n_cells <= MAX_COMPARED_CELLS:
        return np.arange(n_cells)
    rng = np.random.default_rng(derived_seed(seed, 12))
    return np.sort(rng.choice(n_cells, MAX_COMPARED_CELLS, replace=False))


def comparison_space(module: SCGPCLModule, source: CountSource, *, seed: int) -> np.ndarray:
    """Principal components of log counts that are divided by the square root of each gene's standard deviation.

    Half-way between components of centred and of standardised features: the first are ruled by the genes of largest
    variance, the second give noise of quiet genes the same weight. The network has no part in it. With batches the
    features are corrected for them, and the standard deviation is the mean of the batches' own. The axes are those of the
    cells of :func:`comparison_sample`.

    Parameters
    ----------
    module
        Module whose feature moments are set.
    source
        Counts of all cells.
    seed
        Seed of the sample and of the solver.

    Returns
    -------
    float32, shape (n_cells, at most ``N_AXES``).
    """
    std = module.gene_std.cpu().numpy()
    weight = np.sqrt(std if std.ndim == 1 else std.mean(0))
    index = comparison_sample(len(source), seed=seed)
    features = sparse_features(module, source, index)
    features.data *= weight[features.indices]
    rng = np.random.default_rng(derived_seed(seed, 14))
    axes = fit_axes(features, feature_offset(module) * weight, source, index, N_AXES, rng)
    if axes is None:  # all cells are alike
        return np.zeros((len(source), 1), dtype=np.float32)
    scores = scores_along(module, source, axes, weight)
    return scores - scores[index].mean(0)


class ComparisonSpace:
    """Components of all cells, computed when they are asked for; the rows of the sample are kept.

    Parameters
    ----------
    module, source, seed
        See :func:`comparison_space`.
    """

    def __init__(self, module: SCGPCLModule, source: CountSource, *, seed: int) -> None:
        self.module = module
        self.source = source
        self.seed = seed
        self._sample: torch.Tensor | None = None

    def all(self) -> torch.Tensor:
        """Components of all cells, shape (n_cells, n_components)."""
        components = torch.from_numpy(comparison_space(self.module, self.source, seed=self.seed))
        self._sample = components[torch.from_numpy(comparison_sample(len(self.source), seed=self.seed))]
        return components

    def sample(self) -> torch.Tensor:
        """Components of the cells of :func:`comparison_sample`."""
        if self._sample is None:
            self.all()
        return cast("torch.Tensor", self._sample)
