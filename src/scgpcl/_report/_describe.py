"""Content shared by the HTML page and the figure folder: marker genes, the cluster table and the figures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from scgpcl import _keys, metrics, pl, tl
from scgpcl._files import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

#: Names of all figures. Figures that do not apply are left out.
FIGURES = ("umap", "confidence", "batch", "comparison", "markers", "history")
#: Files that :func:`write_folder` may write.
FOLDER_FILES = (*(f"{name}.png" for name in FIGURES), "clusters.csv")
#: Resolution of the figures.
DPI = 150


def rank(adata: ad.AnnData, key: str, *, layer: str | None = None) -> pd.DataFrame | None:
    """Rank genes with ``tl.rank_markers``, or return ``None`` if no two groups of cells can be compared."""
    sizes = adata.obs[key].value_counts()
    sizes = sizes[sizes > 0]
    if len(sizes) < 2 or sizes.max() < 2:
        return None
    return tl.rank_markers(adata, key, layer=layer, key_added=None)


def stability_of(adata: ad.AnnData, key: str) -> pd.DataFrame | None:
    """Return the stored stability of the non-empty clusters, in category order.

    Return None if it is not stored for all of them.
    """
    stability = adata.uns.get(_keys.UNS, {}).get(_keys.STABILITY) if key == _keys.CLUSTER else None
    clusters = adata.obs[key].astype("category").cat.remove_unused_categories().cat.categories.astype(str)
    return None if stability is None or not clusters.isin(stability.index).all() else stability.loc[clusters]


def cluster_table(
    adata: ad.AnnData, key: str, label_key: str | None = None, *, genes: Mapping[str, list[str]] | None = None
) -> pd.DataFrame:
    """Return a table with one row per cluster, in category order, and the columns ``cluster`` and ``size``.

    If the stability of the clusters is stored in ``uns`` (see :meth:`scgpcl.SCGPCL.get_cluster_stability`), its columns
    are added after these. If ``genes`` is given (see :func:`scgpcl.tl.top_markers`), the column ``markers`` lists them,
    separated by commas. If ``label_key`` is given, ``closest_type`` is the most frequent type in the cluster, and
    ``share`` is the share of the cluster's cells that are of this type.
    """
    clusters = adata.obs[key].astype("category").cat.remove_unused_categories()
    sizes = clusters.value_counts(sort=False)
    table = pd.DataFrame({"cluster": sizes.index.astype(str), "size": sizes.to_numpy()})
    own = stability_of(adata, key)
    if own is not None:
        for name in _keys.STABILITIES:
            table[name] = own[name].to_numpy()
        share = (100 * own["confused"].fillna(0)).round().astype(int).astype(str) + " %"
        table["confused_with"] = np.where(own["neighbor"] == "", "", own["neighbor"] + " (" + share + ")")
    if genes is not None:
        table["markers"] = [", ".join(genes.get(str(name), [])) for name in sizes.index]
    if label_key is not None:
        labels = adata.obs[label_key]
        known = labels.notna()
        closest = metrics.match_clusters(labels[known], clusters[known], method="majority") if known.any() else {}
        table["closest_type"] = pd.Series([closest.get(name) for name in sizes.index], dtype=object)
        table["share"] = [
            float((labels[clusters == name] == closest[name]).mean()) if name in closest else 0.0
            for name in sizes.index
        ]
    return table


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
    names: Collection[str] = FIGURES,
    positions: np.ndarray | None = None,
) -> dict[str, bytes]:
    """Draw all figures in ``names`` that apply, and return them as PNG files.

    ``adata`` and the user's matplotlib state are not changed. If the map already exists, ``positions`` (n_cells, 2)
    contains the positions of the cells on it.
    """
    import matplotlib.pyplot as plt

    wanted = [name for name in (key, batch_key, label_key, _keys.CONFIDENCE) if name is not None]
    columns = [name for name in dict.fromkeys(wanted) if name in adata.obs]
    cells = drawn_part(adata, columns)
    if positions is not None:
        cells.obsm[_keys.UMAP] = positions
    draw: dict[str, Callable[[], Axes]] = {}
    if cells.n_obs > 2:  # a map needs three cells
        draw["umap"] = lambda: pl.latent(cells, key, seed=seed)
        if _keys.CONFIDENCE in columns:
            draw["confidence"] = lambda: pl.latent(cells, _keys.CONFIDENCE, seed=seed)
        if batch_key is not None:
            # labels would overlap: the centres of well-mixed batches coincide
            draw["batch"] = lambda: pl.latent(cells, batch_key, legend_loc="right margin", seed=seed)
    if label_key is not None:
        draw["comparison"] = lambda: pl.comparison(cells, key, label_key)
    if markers is not None and any(tl.top_markers(markers, skip_mt_ribo=True).values()):
        draw["markers"] = lambda: pl.markers(adata, markers, groupby=key, layer=layer)
    if model.history_:
        draw["history"] = lambda: pl.history(model)[0]
    # the user's own style may be meant for dark slides
    with plt.style.context("default"), plt.ioff():
        return {name: _png(one()) for name, one in draw.items() if name in names}


def drawn_part(adata: ad.AnnData, columns: list[str]) -> ad.AnnData:
    """Copy the data needed for the maps to a new AnnData, so that storing a map leaves the user's AnnData unchanged."""
    place = _keys.UMAP
    uns = {name: adata.uns[name] for name in (place, *(f"{c}_colors" for c in columns)) if name in adata.uns}
    obsm = {name: adata.obsm[name] for name in (_keys.LATENT, place) if name in adata.obsm}
    return ad.AnnData(obs=adata.obs[columns].reset_index(drop=True).set_index(adata.obs_names), obsm=obsm, uns=uns)


def _png(ax: Axes) -> bytes:
    """Return the figure that contains the axes as a PNG file, and close it."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def write_folder(pictures: Mapping[str, bytes], table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the figures and ``clusters.csv`` to an existing folder, and return the paths."""
    paths = [folder / f"{name}.png" for name in pictures]
    for path, picture in zip(paths, pictures.values(), strict=True):
        with writing(path) as temporary:
            temporary.write_bytes(picture)
    return [*paths, write_table(table, folder)]


def write_table(table: pd.DataFrame, folder: Path) -> Path:
    """Write the cluster table to ``clusters.csv``, and return the path."""
    path = folder / "clusters.csv"
    with writing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    return path
