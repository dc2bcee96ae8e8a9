"""Scores of one run; the only place where the published types are compared with anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import silhouette_score

from scgpcl import metrics

if TYPE_CHECKING:
    from ._worker import Outcome

MAX_CELLS = 5000


def score(types: np.ndarray, outcome: Outcome) -> dict[str, float]:
    """Agreement with published types, and the silhouette of the types in the latent space."""
    return {
        "n_clusters": len(np.unique(outcome.labels)),
        "ari": metrics.ari(types, outcome.labels),
        "nmi": metrics.nmi(types, outcome.labels),
        "acc": metrics.accuracy(types, outcome.labels),
        "macro_f1": metrics.macro_f1(types, outcome.labels),
        "silhouette": silhouette(outcome.latent, types),
    }


def silhouette(latent: np.ndarray | None, types: np.ndarray) -> float:
    """Mean Euclidean silhouette of the types, over 5000 random cells (always the same) where there are more.

    Returns
    -------
    Between -1 and 1; NaN without a latent space, and where the cells have one type or each has its own.
    """
    if latent is None:
        return float("nan")
    if len(types) > MAX_CELLS:
        chosen = np.random.default_rng(0).choice(len(types), MAX_CELLS, replace=False)
        latent, types = latent[chosen], types[chosen]
    if not 1 < len(np.unique(types)) < len(types):
        return float("nan")
    return float(silhouette_score(latent, types))
