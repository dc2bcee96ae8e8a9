"""scgpcl with the published configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpcl import presets
from scgpcl.benchmark import Clustering, register
from scgpcl.benchmark.methods.scgpcl import fit

if TYPE_CHECKING:
    import anndata as ad

#: Data sets with at most this many genes are already a selection, of which the published share must not be taken again.
SELECTED_BEFORE = 2000


@register("scgpcl-paper")
def scgpcl_paper(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """``presets.PAPER``, with one learning rate for all data sets; up to 2000 genes, already selected, are all used.

    Batches are registered with the model.
    """
    model = presets.PAPER["model"]
    if adata.n_vars <= SELECTED_BEFORE:
        model = {**model, "n_top_genes": None}
    return fit(adata, n_clusters, {**presets.PAPER, "model": model}, seed=seed, batch_key=batch_key)
