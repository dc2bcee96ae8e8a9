"""Clusters described for people: marker genes, a table and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pandas as pd

from scgpcl import _keys, metrics, pl, tl
from scgpcl._files import writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scgpcl.model import SCGPCL


#: Files that `write_figures` and `write_table` may write.
FIGURE_FILES = ("umap.png", "history.png", "markers.png", "clusters.csv")


def rank(adata: ad.AnnData, key: str, *, layer: str | None = None) -> pd.DataFrame | None:
    """`tl.rank_markers`, or nothing where no two groups of cells can be compared."""
    sizes = adata.obs[key].value_counts()
    sizes = sizes[sizes > 0]
    if len(sizes) < 2 or sizes.max() < 2:
        return None
    return tl.rank_markers(adata, key, layer=layer, key_added=None)


def cluster_table(
    adata: ad.AnnData, key: str, label_key: str | None = None, *, genes: Mapping[str, list[str]] | None = None
) -> pd.DataFrame:
    """One row per cluster, in the order of the categories.

    Parameters
    ----------
    adata
        Clustered cells; not changed.
    key
        Column of `adata.obs` with the clusters.
    label_key
        Column of `adata.obs` with published types.
    genes
        Marker genes by cluster, see `tl.top_markers`.

    Returns
    -------
    Columns `cluster`, `size` (cells), with `genes` also `markers` (names, separated by commas), and with `label_key`
    also `closest_type` (the most frequent type in the cluster) and `share` (of the cluster's cells that are of it).
    """
    clusters = adata.obs[key].astype("category").cat.remove_unused_categories()
    sizes = clusters.value_counts(sort=False)
    table = pd.DataFrame({"cluster": sizes.index.astype(str), "size": sizes.to_numpy()})
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


def write_figures(
    adata: ad.AnnData,
    model: SCGPCL,
    folder: Path,
    label_key: str | None = None,
    *,
    markers: pd.DataFrame | None,
    layer: str | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw a UMAP, the training curves and the marker genes.

    Parameters
    ----------
    adata
        Annotated cells. The map is left in `obsm`, see `pl.latent`.
    model
        The trained model.
    folder
        Existing folder for the files.
    label_key
        Column of `adata.obs` with published types, drawn beside the clusters.
    markers
        Result of `rank`.
    layer
        Layer with the counts; `None` is `X`.
    seed
        Seed of the UMAP.

    Returns
    -------
    The files `umap.png`, `history.png` and, if any cluster has markers, `markers.png`.
    """
    import matplotlib.pyplot as plt

    columns = [_keys.CLUSTER] if label_key is None else [_keys.CLUSTER, label_key]
    figure, axes = plt.subplots(1, len(columns), figsize=(6.4 * len(columns), 4.4), squeeze=False, layout="constrained")
    for ax, column in zip(axes.flat, columns, strict=True):
        pl.latent(adata, column, seed=seed, ax=ax)
    files = [_save(figure, folder / "umap.png")]
    if model.history_:
        files.append(_save(_figure_of(pl.history(model)[0]), folder / "history.png"))
    if markers is not None and any(tl.top_markers(markers).values()):
        files.append(_save(_figure_of(pl.markers(adata, markers, layer=layer)), folder / "markers.png"))
    return files


def _figure_of(ax: Axes) -> Figure:
    return cast("Figure", ax.figure)


def _save(figure: Figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    with writing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def write_table(table: pd.DataFrame, folder: Path) -> Path:
    """Write the table of clusters to `clusters.csv`; the file's path."""
    path = folder / "clusters.csv"
    with writing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    return path
