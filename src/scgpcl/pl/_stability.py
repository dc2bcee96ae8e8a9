"""Figure of cluster stability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anndata import AnnData

from scgpcl import _keys
from scgpcl._rules import listed
from scgpcl.pl._style import colors_of, node_colors, shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

#: Columns of the table to draw, with their markers and descriptions.
MARKS = {
    "thinned": ("o", "70 % of the molecules"),
    "halves": ("D", "halves of the molecules"),
    "subsampled": ("s", "80 % of the cells"),
}
#: Another cluster is named if at least this share of a cluster's cells moves to it.
CONFUSED = 0.01
#: Distance of the legend from the axes, in points.
LEGEND_GAP = 34


def stability(model: SCGPCL | AnnData, *, ax: Axes | None = None) -> Axes:
    """Plot the stability of each cluster when molecules or cells are left out, and the cluster it is most often confused with.

    Parameters
    ----------
    model
        A trained model that has its cells, or an AnnData with the result of
        :meth:`scgpcl.SCGPCL.get_cluster_stability` in ``uns["scgpcl"]``. If a model is given, this method is called if
        necessary. The clusters are not changed.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes, with one row per cluster. The Jaccard indices of each cluster are plotted as circles (70 % of the
    molecules), diamonds (halves of the molecules) and squares (k-means on 80 % of the cells). The neighbour to which
    the cluster loses the most cells is named on the right, provided that it receives at least 1 % of the cluster's
    cells. The colours are the same as in :func:`latent`.

    Raises
    ------
    KeyError
        If an AnnData does not contain the result.
    TypeError
        If ``model`` is neither a model nor an AnnData.
    ValueError
        If the result stored with the cells of a model belongs to clusters other than its current ones.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    adata: Any = model if isinstance(model, AnnData) else getattr(model, "adata", None)
    if not isinstance(model, AnnData) and not hasattr(model, "get_cluster_stability"):
        msg = f"Expected a trained model or an AnnData, found {type(model).__name__}. Pass the model."
        raise TypeError(msg)
    stored = None if adata is None else adata.uns.get(_keys.UNS, {}).get(_keys.STABILITY)
    if stored is None and isinstance(model, AnnData):
        msg = (
            f"Expected the stability of clusters in `adata.uns[{_keys.UNS!r}]`, found none. Call "
            "`model.get_cluster_stability()` on the annotated cells first, or pass the model."
        )
        raise KeyError(msg)
    if stored is not None and not isinstance(model, AnnData):
        current = model._current_clusters()
        if set(map(str, stored.index)) != set(current):
            msg = (
                f"Expected the stability of the current clusters of the model, {listed(current)}, in "
                f"`model.adata.uns[{_keys.UNS!r}]`, found that of {listed(stored.index)}. Call `model.annotate()` to write "
                "the current clusters."
            )
            raise ValueError(msg)
    table: pd.DataFrame = model.get_cluster_stability() if stored is None else stored
    names = [str(name) for name in table.index]
    known = {} if adata is None or _keys.CLUSTER not in adata.obs else colors_of(adata, _keys.CLUSTER)
    colors = dict(zip(names, node_colors(names, names), strict=True)) | {str(name): c for name, c in known.items()}
    if ax is None:
        _, ax = plt.subplots(figsize=(5.8, 1.1 + 0.3 * max(len(names), 3)), layout="constrained")
    for place, (name, row) in enumerate(table.iterrows()):
        color = colors[str(name)]
        values = row[list(MARKS)].astype(float)
        if values.isna().all():
            continue
        ax.plot([values.min(), values.max()], [place, place], color=color, lw=1.5, alpha=0.5, zorder=1)
        for measure, (marker, _) in MARKS.items():
            ax.scatter(values[measure], place, marker=marker, color=color, s=34, lw=0, zorder=2, clip_on=False)
        if row["confused"] >= CONFUSED:
            text = f"{shown(row['neighbor'], 16)} ({row['confused']:.0%})"
            ax.annotate(
                text, (1.0, place), (12, 0), textcoords="offset points", va="center", size=8, annotation_clip=False
            )
    ax.set_yticks(
        range(len(names)), [f"{shown(name)} ({size:,})" for name, size in zip(names, table["size"], strict=True)]
    )
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="Jaccard index", ylabel="cluster (cells)")
    ax.set_title("confused with", fontsize=8, loc="right")
    marks = [Line2D([], [], marker=marker, color="0.4", lw=0, label=label) for marker, label in MARKS.values()]
    below = ax.transAxes + ScaledTranslation(0, -LEGEND_GAP / 72, ax.figure.dpi_scale_trans)
    ax.legend(
        handles=marks,
        frameon=False,
        fontsize=8,
        loc="upper center",
        ncols=3,
        bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
    )
    ax.grid(axis="x", color="0.9", lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
