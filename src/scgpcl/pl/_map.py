"""Two-dimensional maps of the latent space, computed once and stored with the cells."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

import anndata as ad
import numpy as np

from scgpcl._process import held

if TYPE_CHECKING:
    from collections.abc import Mapping

Method = Literal["umap", "tsne"]
METHODS = ("umap", "tsne")


@held()
def latent_map(adata: ad.AnnData, *, use_rep: str, method: Method, seed: int) -> np.ndarray:
    """Positions of the cells, shape (n_cells, 2), taken from ``adata`` if present and up to date.

    New positions are stored in ``obsm[f"{use_rep}_{method}"]``, with the seed and a digest of the latent vectors in ``uns``
    under the same name, unless ``adata`` is a view. Positions without such a record come from elsewhere: they are used and
    not overwritten.
    """
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
    place = f"{use_rep}_{method}"
    record = {"seed": seed, "digest": hashlib.blake2b(latent.tobytes(), digest_size=16).hexdigest()}
    if place in adata.obsm and (place not in adata.uns or _same(adata.uns[place], record)):
        return positions_at(adata, place)
    positions = _make(latent, method=method, seed=seed)
    if not adata.is_view:
        adata.obsm[place] = positions
        adata.uns[place] = record
    return positions


def positions_at(adata: ad.AnnData, place: str) -> np.ndarray:
    """First two columns of ``adata.obsm[place]``, shape (n_cells, 2)."""
    if place not in adata.obsm:
        msg = f"Expected positions of cells in `adata.obsm[{place!r}]`, found the keys {list(adata.obsm)}."
        raise KeyError(msg)
    positions = np.asarray(adata.obsm[place])
    if positions.ndim != 2 or positions.shape[1] < 2:
        msg = f"Expected at least two columns in `adata.obsm[{place!r}]`, found the shape {positions.shape}."
        raise ValueError(msg)
    return positions[:, :2]


def _same(stored: Any, record: Mapping[str, object]) -> bool:
    """Whether two records agree; numbers and text read from a file have numpy types."""
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
