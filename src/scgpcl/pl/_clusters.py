"""Figures with one bar or violin per cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pandas.api.types import is_numeric_dtype

from scgpcl import _keys
from scgpcl._rules import check, number
from scgpcl.pl._style import DISTINCT, categories_of, colors_of, name_ticks, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes


def cluster_sizes(adata: AnnData, *, groupby: str = _keys.CLUSTER, ax: Axes | None = None) -> Axes:
    """Draw a bar plot of the number of cells in each cluster, in the order of the categories.

    Parameters
    ----------
    adata
        Clustered cells, which are not changed.
    groupby
        Column of ``adata.obs`` with the clusters. Its scanpy colours are used if available.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes, with one bar per cluster.

    Raises
    ------
    KeyError
        If ``adata.obs`` has no such column.
    ValueError
        If no cell has a cluster.
    """
    import matplotlib.pyplot as plt

    sizes = categories_of(adata, groupby).value_counts(sort=False)
    colors = colors_of(adata, groupby)
    names = list(sizes.index)
    if ax is None:
        _, ax = plt.subplots(
            figsize=(max(3.5, (0.45 if len(names) <= 15 else 0.3) * len(names) + 1.2), 3.2), layout="constrained"
        )
    bars = ax.bar(range(len(names)), sizes.to_numpy(), color=[colors[name] for name in names], width=0.8)
    ax.bar_label(bars, padding=2, fontsize=8, rotation=90 if len(names) > 15 else 0)
    name_ticks(ax, names)
    ax.set(xlabel=shown(groupby, 60), ylabel="cells")
    ax.margins(x=0.02, y=0.18 if len(names) > 15 else 0.1)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def gene_attributions(
    table: pd.DataFrame, markers: Iterable[str] = (), *, n_genes: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the genes that separate a cluster from its neighbour.

    Genes that are also marker genes are drawn in another colour.

    Parameters
    ----------
    table
        Result of :meth:`scgpcl.SCGPCL.get_gene_attributions`.
    markers
        Marker genes of the cluster from another method, such as the top genes of a Wilcoxon test
        (:func:`scanpy.tl.rank_genes_groups`).
    n_genes
        Number of genes to draw, starting with the largest contributions.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes, with one horizontal bar per gene and the largest bar at the top.

    Raises
    ------
    TypeError
        If ``table`` is not such a result.
    ValueError
        If ``n_genes`` is not a whole number of at least 1.
    """
    import matplotlib.pyplot as plt

    n_genes = number(1, whole=True)(n_genes, "n_genes")
    if "contribution" not in getattr(table, "columns", ()) or "neighbor" not in table.attrs:
        msg = f"Expected the table of `model.get_gene_attributions(cluster)`, found {type(table).__name__}."
        raise TypeError(msg)
    marked = {str(gene) for gene in markers}
    top = table["contribution"].iloc[:n_genes][::-1]
    if ax is None:
        _, ax = plt.subplots(figsize=(4.5, 0.22 * len(top) + 1.0), layout="constrained")
    own = [str(gene) in marked for gene in top.index]
    ax.barh(range(len(top)), top.to_numpy(), color=[DISTINCT[1] if each else DISTINCT[0] for each in own], height=0.8)
    ax.set_yticks(range(len(top)), [shown(str(gene), 20) for gene in top.index], fontsize=8)
    ax.set(xlabel=f"part of the distance to {shown(table.attrs['neighbor'], 30)}", ylim=(-0.6, len(top) - 0.4))
    title = f"cluster {shown(table.attrs['cluster'], 30)}"
    ax.set_title(title + (f": {sum(own)} of {len(top)} are markers" if marked else ""), fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def confidence(
    adata: AnnData,
    *,
    groupby: str = _keys.CLUSTER,
    confidence_key: str = _keys.CONFIDENCE,
    min_confidence: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw violin plots of the confidence in each cluster, in the order of the categories.

    Parameters
    ----------
    adata
        Clustered cells, which are not changed.
    groupby
        Column of ``adata.obs`` with the clusters. Its scanpy colours are used if available.
    confidence_key
        Column of ``adata.obs`` with the probability of each cell's cluster.
    min_confidence
        If given, draw a dashed line at this value, and write the share of cells below the line above each violin.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes, with one violin per cluster and a bar at the median.

    Raises
    ------
    KeyError
        If ``adata.obs`` lacks one of the columns.
    ValueError
        If no cell has a cluster, if a cell with a cluster has no confidence, or if ``min_confidence`` is outside
        [0, 1].
    """
    import matplotlib.pyplot as plt

    clusters = categories_of(adata, groupby)
    if confidence_key not in adata.obs:
        msg = f"Expected `adata.obs[{confidence_key!r}]`, found the columns {list(adata.obs.columns)}."
        raise KeyError(msg)
    if not is_numeric_dtype(adata.obs[confidence_key]):
        msg = f"Expected numbers in `adata.obs[{confidence_key!r}]`, found values of type {adata.obs[confidence_key].dtype}."
        raise ValueError(msg)
    min_confidence = check(min_confidence=min_confidence)["min_confidence"]
    values = adata.obs[confidence_key].astype(float)
    n_missing = int((values.isna() & clusters.notna()).sum())
    if n_missing:
        msg = (
            f"Expected a number for every clustered cell in `adata.obs[{confidence_key!r}]`, found {n_missing} missing."
        )
        raise ValueError(msg)
    names = list(clusters.cat.categories)
    groups = [values[clusters == name].to_numpy() for name in names]
    colors = colors_of(adata, groupby)
    if ax is None:
        _, ax = plt.subplots(figsize=(max(3.5, 0.45 * len(names) + 1.2), 3.2), layout="constrained")
    positions = list(range(len(names)))
    parts: dict[str, Any] = ax.violinplot(groups, positions, widths=0.85, showextrema=False, showmedians=True)
    for body, name in zip(parts["bodies"], names, strict=True):
        body.set(facecolor=colors[name], edgecolor="none", alpha=0.9)
    parts["cmedians"].set(color="0.2", lw=1.2)
    if min_confidence is not None:
        ax.axhline(min_confidence, color="0.4", ls="--", lw=1)
        for x, group in zip(positions, groups, strict=True):
            share = f"{(group < min_confidence).mean():.0%}"
            ax.text(x, 1.01, share, ha="center", va="bottom", fontsize=7, transform=ax.get_xaxis_transform())
    name_ticks(ax, names)
    ax.set(xlabel=shown(groupby, 60), ylabel="confidence", ylim=(0.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return ax
