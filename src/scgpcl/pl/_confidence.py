from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

from pandas.api.types import is_numeric_dtype

from scgpcl import _keys

from ._obs import categories_of, colors_of
from ._text import name_ticks, shown

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def confidence(
    adata: AnnData,
    *,
    key: str = _keys.CLUSTER,
    confidence_key: str = _keys.CONFIDENCE,
    min_confidence: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Distribution of the confidence in each cluster, as violins in the order of the categories.

    Parameters
    ----------
    adata
        Clustered cells; not changed.
    key
        Column of `adata.obs` with the clusters. Its scanpy colours are used if there are any.
    confidence_key
        Column of `adata.obs` with the probability of each cell's cluster.
    min_confidence
        Draw a dashed line here, and above each violin the share of the cells that are below it.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes, one violin per cluster, with a bar at its median.

    Raises
    ------
    KeyError
        If `adata.obs` lacks one of the columns.
    ValueError
        If no cell has a cluster, a cell with a cluster has no confidence, or `min_confidence` is no probability.
    """
    import matplotlib.pyplot as plt

    clusters = categories_of(adata, key)
    if confidence_key not in adata.obs:
        msg = f"Expected `adata.obs[{confidence_key!r}]`, found the columns {list(adata.obs.columns)}."
        raise KeyError(msg)
    if not is_numeric_dtype(adata.obs[confidence_key]):
        msg = f"Expected numbers in `adata.obs[{confidence_key!r}]`, found values of type {adata.obs[confidence_key].dtype}."
        raise ValueError(msg)
    _check_probability(min_confidence)
    values = adata.obs[confidence_key].astype(float)
    n_missing = int((values.isna() & clusters.notna()).sum())
    if n_missing:
        msg = (
            f"Expected a number for every clustered cell in `adata.obs[{confidence_key!r}]`, found {n_missing} missing."
        )
        raise ValueError(msg)
    names = list(clusters.cat.categories)
    groups = [values[clusters == name].to_numpy() for name in names]
    colors = colors_of(adata, key)
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
    ax.set(xlabel=shown(key, 60), ylabel="confidence", ylim=(0.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _check_probability(value: Any) -> None:
    if value is not None and not (isinstance(value, Real) and 0 <= float(value) <= 1):
        msg = f"Expected `min_confidence` to be a number from 0 to 1, found {value!r}."
        raise ValueError(msg)
