"""scgpcl with the published configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgpcl import presets
from scgpcl.benchmark import Clustering, register
from scgpcl.benchmark.methods.scgpcl import fit

if TYPE_CHECKING:
    import anndata as ad

#: Data sets with at most this many genes are assumed to be preselected, so that the published share is not selected
#: again.
SELECTED_BEFORE = 2000


@register("scgpcl-paper")
def scgpcl_paper(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    """Run ``presets.PAPER`` with one learning rate for all data sets.

    If there are at most 2000 genes, they are assumed to be preselected, and all of them are used. Batches are
    registered with the model.
    """
    model = presets.PAPER["model"]
    if adata.n_vars <= SELECTED_BEFORE:
        model = {**model, "n_top_genes": None}
    return fit(adata, n_clusters, {**presets.PAPER, "model": model}, seed=seed, batch_key=batch_key)
