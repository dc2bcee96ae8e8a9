"""scgpcl with its default configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scgpcl.benchmark import Clustering, register
from scgpcl.model import SCGPCL

if TYPE_CHECKING:
    import anndata as ad

    from scgpcl import presets


@register("scgpcl")
def scgpcl(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """Run scgpcl with its default configuration. Batches are registered with the model."""
    return fit(adata, n_clusters, {"model": {}, "train": {}}, seed=seed, batch_key=batch_key)


def fit(
    adata: ad.AnnData, n_clusters: int | None, preset: presets.Preset, *, seed: int, batch_key: str | None
) -> Clustering:
    """Train the model with a preset, on a CUDA device if available, and return its clusters and latent space."""
    SCGPCL.setup_anndata(adata, batch_key=batch_key)
    model = SCGPCL(adata, n_clusters, seed=seed, **preset["model"])
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    model.train(accelerator=accelerator, enable_progress_bar=False, **preset["train"])
    return Clustering(model.predict(), model.get_latent_representation())
