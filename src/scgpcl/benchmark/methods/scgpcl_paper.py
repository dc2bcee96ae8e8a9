"""scgpcl with the published configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpcl import presets
from scgpcl.benchmark import Clustering, register
from scgpcl.benchmark.methods.scgpcl import fit

if TYPE_CHECKING:
    import anndata as ad


@register("scgpcl-paper")
def scgpcl_paper(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """``presets.PAPER``, with one learning rate for all data sets. Batches are registered with the model."""
    return fit(adata, n_clusters, presets.PAPER, seed=seed, batch_key=batch_key)
