from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scgpcl.metrics import MarkerOverlap


def marker_overlap(overlap: MarkerOverlap, *, ax: Axes | None = None) -> Axes:
    """Marker genes that types (rows) and clusters (columns) share, as a heat map; matched pairs have a frame.

    Parameters
    ----------
    overlap
        Result of :func:`scgpcl.metrics.marker_overlap`.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes with the heat map. Row labels carry the number of cells; a type without marker genes is grey.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    share = overlap.pairwise
    values = np.ma.masked_invalid(share.to_numpy())
    n_rows, n_cols = share.shape
    if ax is None:
        _, ax = plt.subplots(figsize=(0.5 * n_cols + 3.0, 0.42 * n_rows + 1.8), layout="constrained")
    colors = plt.get_cmap("viridis").with_extremes(bad="0.85")
    image = ax.imshow(values, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    long_names = max(len(str(name)) for name in share.columns) > 3
    ax.set_xticks(
        range(n_cols),
        [str(name) for name in share.columns],
        rotation=45 if long_names else 0,
        ha="right" if long_names else "center",
        rotation_mode="anchor",
    )
    ax.set_yticks(range(n_rows), [f"{name} ({n})" for name, n in overlap.per_type["n_cells"].items()])
    ax.set(xlabel="cluster", ylabel="type (cells)")
    for row, cluster in enumerate(overlap.per_type["cluster"]):
        if cluster in share.columns:
            col = list(share.columns).index(cluster)
            ax.add_patch(Rectangle((col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="tab:red", lw=1.8))
    if share.size <= 400:
        for row, col in np.argwhere(values.filled(0) > 0):
            value = values[row, col]
            color = "black" if value > 0.6 else "white"
            ax.text(col, row, f"{value:.2g}", ha="center", va="center", fontsize=7, color=color)
    ax.figure.colorbar(image, ax=ax, label="share of marker genes", fraction=0.05, pad=0.02)
    return ax
