"""What the model writes to an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from scgpcl import _keys

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


class Names(NamedTuple):
    """Keys of one annotation."""

    latent: str
    cluster: str
    probability: str
    confidence: str
    selected: str
    uns: str


def names(key_added: str) -> Names:
    """Keys for a stem; the default stem gives the package's own keys."""
    parts = (_keys.LATENT, _keys.CLUSTER, _keys.PROBABILITY, _keys.CONFIDENCE, _keys.SELECTED, _keys.UNS)
    return Names(*(part.replace(_keys.STEM, key_added, 1) for part in parts))


def annotate(
    adata: AnnData,
    *,
    latent: np.ndarray,
    probability: pd.DataFrame,
    selected: pd.Index,
    parameters: dict[str, Any],
    key_added: str,
) -> None:
    """Write everything at once, after everything has been made.

    Parameters
    ----------
    adata
        Cells to annotate.
    latent
        Shape (n_cells, n_latent).
    probability
        Shape (n_cells, n_clusters).
    selected
        Genes that the model uses.
    parameters
        Kept in ``uns``.
    key_added
        Stem of the keys.
    """
    key = names(key_added)
    values = probability.to_numpy()
    categories = probability.columns
    labels = pd.Categorical.from_codes(values.argmax(1), categories=categories).remove_unused_categories()
    # sizes keep their names as text keys, so that the table can be written to h5ad
    sizes = {str(name): int(count) for name, count in labels.value_counts().items()}
    in_model = adata.var_names.isin(selected)
    adata.obsm[key.latent] = latent
    adata.obsm[key.probability] = values
    adata.obs[key.cluster] = labels
    adata.obs[key.confidence] = values.max(1)
    adata.var[key.selected] = in_model
    adata.uns[key.uns] = {"params": parameters, "cluster_sizes": sizes}
