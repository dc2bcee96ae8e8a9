"""Write the results of the model to an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from scgpcl import _keys

if TYPE_CHECKING:
    from anndata import AnnData

    from scgpcl.model._getters import Assigned


#: Entries of ``uns`` that every annotation has.
NOTED = ("summary", "params", _keys.SIZES)


class Names(NamedTuple):
    """Keys under which an annotation is stored."""

    latent: str
    cluster: str
    probability: str
    confidence: str
    selected: str
    uns: str


def names(key_added: str) -> Names:
    """Return the annotation keys for a stem; the default stem gives the package's own keys."""
    parts = (_keys.LATENT, _keys.CLUSTER, _keys.PROBABILITY, _keys.CONFIDENCE, _keys.SELECTED, _keys.UNS)
    return Names(*(part.replace(_keys.STEM, key_added, 1) for part in parts))


def annotate(
    adata: AnnData,
    *,
    latent: np.ndarray,
    assigned: Assigned,
    selected: pd.Index,
    parameters: dict[str, Any],
    also_stable: list[int],
    key_added: str,
    min_confidence: float | None,
    max_novelty: float | None,
    novel: np.ndarray | None,
) -> None:
    """Write all computed results to an AnnData at once; ``key_added`` is the stem of the keys."""
    key = names(key_added)
    labels = assigned.names(min_confidence, novel).remove_unused_categories()
    limits = {"min_confidence": min_confidence, "max_novelty": max_novelty}
    parameters = {**parameters, **{name: float(value) for name, value in limits.items() if value is not None}}
    # a table, since names with a slash cannot be keys in a file
    counts = labels.value_counts()
    sizes = pd.DataFrame(
        {"size": counts.to_numpy()}, index=pd.Index([str(name) for name in counts.index], name="cluster")
    )
    in_model = adata.var_names.isin(selected)
    summary = (
        f"{adata.n_obs} cells in {len(sizes)} clusters: names in obs[{key.cluster!r}], probabilities in "
        f"obsm[{key.probability!r}], the largest in obs[{key.confidence!r}], latent vectors in obsm[{key.latent!r}], the "
        f"{len(selected)} genes in var[{key.selected!r}]"
    )
    noted: dict[str, Any] = {"summary": summary, "params": parameters, _keys.SIZES: sizes}
    if also_stable:
        noted[_keys.ALSO_STABLE] = np.array(also_stable)
    _write_all(
        (adata.obsm, key.latent, latent),
        (adata.obsm, key.probability, assigned.probability.to_numpy()),
        (adata.obs, key.cluster, labels),
        (adata.obs, key.confidence, assigned.confidence),
        (adata.var, key.selected, in_model),
        (adata.uns, key.uns, noted),
    )


def _write_all(*entries: tuple[Any, str, Any]) -> None:
    """Write all entries to their mappings. On any error, the previous values are restored."""
    before = [(place, name, place[name] if name in place else None, name in place) for place, name, _ in entries]
    try:
        for place, name, value in entries:
            place[name] = value
    except BaseException:
        for place, name, value, was_there in before:
            if was_there:
                place[name] = value
            elif name in place:
                del place[name]
        raise
