"""Pictures of the page, as text."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

import anndata as ad

from scgpcl import _keys, pl
from scgpcl.tl import top_markers

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

#: Dots per inch, and those that a page counts as an inch.
_DPI, _CSS_DPI = 140, 96


class Picture(NamedTuple):
    """A PNG file in base64 and the width to show it at, in pixels of the page."""

    data: str
    width: int


def figures(
    adata: ad.AnnData,
    model: SCGPCL,
    key: str,
    *,
    layer: str | None,
    batch_key: str | None,
    label_key: str | None,
    markers: pd.DataFrame | None,
    seed: int,
) -> dict[str, Picture]:
    """Pictures by name; those that there is nothing to draw for are missing.

    Parameters
    ----------
    adata
        Annotated cells; not changed.
    model
        The trained model.
    key
        Column of `adata.obs` with the clusters.
    layer
        Layer with the counts; `None` is `X`.
    batch_key, label_key
        Columns of `adata.obs`, or `None`.
    markers
        Result of `rank_markers`, or `None`.
    seed
        Seed of the map.
    """
    import matplotlib.pyplot as plt

    wanted = [name for name in (key, batch_key, label_key, _keys.CONFIDENCE) if name is not None]
    columns = [name for name in dict.fromkeys(wanted) if name in adata.obs]
    cells = _drawn_part(adata, columns)
    draw: dict[str, Callable[[], Axes]] = {"clusters": lambda: pl.latent(cells, key, seed=seed)}
    if _keys.CONFIDENCE in columns:
        draw["confidence"] = lambda: pl.latent(cells, _keys.CONFIDENCE, seed=seed)
    if batch_key is not None:
        # Batches that are well mixed have their centres in one place.
        draw["batch"] = lambda: pl.latent(cells, batch_key, label=False, seed=seed)
    if label_key is not None:
        draw["comparison"] = lambda: pl.comparison(cells, key, label_key)
    if markers is not None and any(top_markers(markers).values()):
        draw["markers"] = lambda: pl.markers(adata, markers, key=key, layer=layer)
    draw["history"] = lambda: pl.history(model)[0]
    # The user's own style may be made for dark slides.
    with plt.style.context("default"), plt.ioff():
        return {name: _png(one()) for name, one in draw.items()}


def _drawn_part(adata: ad.AnnData, columns: list[str]) -> ad.AnnData:
    """What the maps need, in an AnnData of its own that they may write to."""
    place = f"{_keys.LATENT}_umap"
    uns = {name: adata.uns[name] for name in (place, *(f"{c}_colors" for c in columns)) if name in adata.uns}
    obsm = {name: adata.obsm[name] for name in (_keys.LATENT, place) if name in adata.obsm}
    return ad.AnnData(obs=adata.obs[columns].reset_index(drop=True).set_index(adata.obs_names), obsm=obsm, uns=uns)


def _png(ax: Axes) -> Picture:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)
    file = buffer.getvalue()
    width = int.from_bytes(file[16:20], "big")  # in the first block of every PNG file
    return Picture(base64.b64encode(file).decode("ascii"), round(width * _CSS_DPI / _DPI))
