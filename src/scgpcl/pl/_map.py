"""Two-dimensional maps of the latent space, computed once and stored with the cells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import anndata as ad
import numpy as np

from scgpcl import _keys
from scgpcl._process import held

Method = Literal["umap", "tsne"]
METHODS = ("umap", "tsne")


def map_key(use_rep: str, method: Method) -> str:
    """Return the key of a map in ``adata.obsm``, which is scanpy's own key for the default latent vectors."""
    return {"umap": _keys.UMAP, "tsne": _keys.TSNE}[method] if use_rep == _keys.LATENT else f"{use_rep}_{method}"


@held()
def latent_map(adata: ad.AnnData, *, use_rep: str, method: Method, seed: int) -> np.ndarray:
    """Return the positions of the cells, shape (n_cells, 2), from ``adata`` if they are present and up to date.

    Otherwise, new positions are computed. Unless ``adata`` is a view, they are stored in ``obsm["X_umap"]`` (or
    ``"X_tsne"``). The seed and digests of the latent vectors and of the positions are stored in ``uns`` under the same
    name. Positions that do not match such a record were computed elsewhere. They are used and never overwritten.
    """
    place = map_key(use_rep, method)
    stored = adata.uns.get(place) if place in adata.obsm else None
    if place in adata.obsm and (
        use_rep not in adata.obsm or not isinstance(stored, Mapping) or stored.get("map") != _digest(adata.obsm[place])
    ):
        return positions_at(adata, place)
    if use_rep not in adata.obsm:
        msg = (
            f"Expected latent vectors in `adata.obsm[{use_rep!r}]`, found the keys {list(adata.obsm)}. "
            "Train a model first, or name the key with `use_rep=`."
        )
        raise KeyError(msg)
    if adata.n_obs < 3:
        msg = f"Expected at least 3 cells for a map, found {adata.n_obs}."
        raise ValueError(msg)
    latent = np.ascontiguousarray(adata.obsm[use_rep])
    record = {"seed": seed, "digest": _digest(latent)}
    if stored is not None and _same(stored, record):
        return positions_at(adata, place)
    positions = _make(latent, method=method, seed=seed)
    if not adata.is_view:
        adata.obsm[place] = positions
        adata.uns[place] = record | {"map": _digest(positions)}
    return positions


def _digest(values: Any) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


def positions_at(adata: ad.AnnData, place: str) -> np.ndarray:
    """Return the first two columns of ``adata.obsm[place]``, shape (n_cells, 2)."""
    if place not in adata.obsm:
        msg = f"Expected positions of cells in `adata.obsm[{place!r}]`, found the keys {list(adata.obsm)}."
        raise KeyError(msg)
    positions = np.asarray(adata.obsm[place])
    if positions.ndim != 2 or positions.shape[1] < 2:
        msg = f"Expected at least two columns in `adata.obsm[{place!r}]`, found the shape {positions.shape}."
        raise ValueError(msg)
    return positions[:, :2]


def _same(stored: Any, record: Mapping[str, object]) -> bool:
    """Return whether two records agree, given that numbers and text read from a file have numpy types."""
    return all(str(stored.get(name)) == str(value) for name, value in record.items())


def _make(latent: np.ndarray, *, method: Method, seed: int) -> np.ndarray:
    """Compute positions (n_cells, 2) from latent vectors (n_cells, n_latent)."""
    import scanpy as sc

    cells = ad.AnnData(obsm={"latent": latent}, shape=(len(latent), 0))
    if method == "tsne":
        perplexity = min(30.0, (cells.n_obs - 1) / 3)
        sc.tl.tsne(cells, use_rep="latent", perplexity=perplexity, random_state=seed)
    else:
        sc.pp.neighbors(cells, use_rep="latent", n_neighbors=min(15, cells.n_obs - 1), random_state=seed)
        # spectral initialisation needs more cells than eigenvectors
        sc.tl.umap(cells, random_state=seed, init_pos="spectral" if cells.n_obs > 4 else "random")
    return np.asarray(cells.obsm[f"X_{method}"], dtype=np.float32)
