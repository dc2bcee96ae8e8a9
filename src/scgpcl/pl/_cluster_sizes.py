from __future__ import annotations

from typing import TYPE_CHECKING

from scgpcl import _keys

from ._obs import categories_of, colors_of
from ._text import name_ticks, shown

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def cluster_sizes(adata: AnnData, *, key: str = _keys.CLUSTER, ax: Axes | None = None) -> Axes:
    """Number of cells in each cluster, as bars in the order of the categories.

    Parameters
    ----------
    adata
        Clustered cells; not changed.
    key
        Column of `adata.obs` with the clusters. Its scanpy colours are used if there are any.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes, one bar per cluster.

    Raises
    ------
    KeyError
        If `adata.obs` has no such column.
    ValueError
        If no cell has a cluster.
    """
    import matplotlib.pyplot as plt

    sizes = categories_of(adata, key).value_counts(sort=False)
    colors = colors_of(adata, key)
    names = list(sizes.index)
    if ax is None:
        _, ax = plt.subplots(
            figsize=(max(3.5, (0.45 if len(names) <= 15 else 0.3) * len(names) + 1.2), 3.2), layout="constrained"
        )
    bars = ax.bar(range(len(names)), sizes.to_numpy(), color=[colors[name] for name in names], width=0.8)
    ax.bar_label(bars, padding=2, fontsize=8, rotation=90 if len(names) > 15 else 0)
    name_ticks(ax, names)
    ax.set(xlabel=shown(key, 60), ylabel="cells")
    ax.margins(x=0.02, y=0.18 if len(names) > 15 else 0.1)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
