"""Heat maps of two groupings of the same cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from scgpcl.pl._style import categories_of, shown

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from scgpcl.metrics import MarkerOverlap

#: Smallest share that is written into a heat map, and maximum number of entries for which shares are written.
SMALLEST, MAX_ENTRIES = 0.05, 400


def comparison(adata: AnnData, key1: str, key2: str, *, ax: Axes | None = None) -> Axes:
    """Draw a heat map of how the cells in each group of ``key1`` are distributed over the groups of ``key2``.

    Rows sum to one. The grouping with fewer groups keeps the order of its categories, and the other grouping is sorted
    along the diagonal, so that two groupings that agree show a single bright diagonal.

    Parameters
    ----------
    adata
        Cells with both groupings, which are not changed. Cells without a value in one of the groupings are left out.
    key1
        Column of ``adata.obs`` for the rows, for example the clusters.
    key2
        Column of ``adata.obs`` for the columns, for example the published types.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes with the heat map. Row labels include the number of cells.

    Raises
    ------
    KeyError
        If ``adata.obs`` lacks one of the columns.
    ValueError
        If no cell has a value in both columns.
    """
    import matplotlib.pyplot as plt

    counts = pd.crosstab(categories_of(adata, key1).to_numpy(), categories_of(adata, key2).to_numpy())
    if counts.empty:
        msg = f"Expected at least one cell with a value in both `adata.obs[{key1!r}]` and `adata.obs[{key2!r}]`."
        raise ValueError(msg)
    rows, cols = [
        [group for group in categories_of(adata, key).cat.categories if group in present]
        for key, present in ((key1, counts.index), (key2, counts.columns))
    ]
    counts = counts.loc[rows, cols]
    counts = counts.iloc[_diagonal_order(counts.to_numpy())]
    share = counts.div(counts.sum(axis=1), axis=0)

    n_rows, n_cols = share.shape
    if ax is None:
        width, height = (0.5 if n_cols <= 15 else 0.34), (0.42 if n_rows <= 15 else 0.28)
        _, ax = plt.subplots(figsize=(width * n_cols + 2.8, height * n_rows + 1.8), layout="constrained")
    image = ax.imshow(share.to_numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_xticks(
        range(n_cols), [shown(name) for name in share.columns], rotation=45, ha="right", rotation_mode="anchor"
    )
    ax.set_yticks(
        range(n_rows), [f"{shown(name)} ({n})" for name, n in zip(share.index, counts.sum(axis=1), strict=True)]
    )
    ax.set(xlabel=shown(key2, 60), ylabel=f"{shown(key1, 60)} (cells)")
    if share.size <= MAX_ENTRIES:
        values = share.to_numpy()
        for row, col in np.argwhere(values >= SMALLEST):
            value = values[row, col]
            color = "black" if value > 0.6 else "white"
            ax.text(col, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    ax.figure.colorbar(image, ax=ax, label=f"share of {shown(key1)}", fraction=0.05, pad=0.02)
    return ax


def marker_overlap(overlap: MarkerOverlap, *, ax: Axes | None = None) -> Axes:
    """Draw the share of marker genes that types (rows) and clusters (columns) have in common.

    Matched pairs are framed.

    Parameters
    ----------
    overlap
        Result of :func:`scgpcl.metrics.marker_overlap`.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes with the heat map. Row labels include the number of cells. Types without marker genes are grey.
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
    if share.size <= MAX_ENTRIES:
        for row, col in np.argwhere(values.filled(0) > 0):
            value = values[row, col]
            color = "black" if value > 0.6 else "white"
            ax.text(col, row, f"{value:.2g}", ha="center", va="center", fontsize=7, color=color)
    ax.figure.colorbar(image, ax=ax, label="share of marker genes", fraction=0.05, pad=0.02)
    return ax


def _diagonal_order(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of rows (n_rows,) and columns (n_cols,) that puts large counts on the diagonal.

    The shorter axis keeps its order.
    """
    if table.shape[0] > table.shape[1]:
        cols, rows = _diagonal_order(table.T)
        return rows, cols
    # each row is matched to one column; the other columns follow the match of the row in which they are largest
    anchor = table.argmax(axis=0)
    is_own = np.zeros(table.shape[1], dtype=bool)
    matched_rows, matched_cols = linear_sum_assignment(table, maximize=True)
    anchor[matched_cols] = matched_rows
    is_own[matched_cols] = True
    return np.arange(table.shape[0]), np.lexsort((~is_own, anchor))
