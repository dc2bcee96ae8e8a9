from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from ._obs import categories_of
from ._text import shown

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def comparison(adata: AnnData, key1: str, key2: str, *, ax: Axes | None = None) -> Axes:
    """Two groupings of the same cells as a heat map: how each group of `key1` divides over the groups of `key2`.

    Rows sum to one. The grouping with fewer groups keeps its order of categories and the other one is sorted along the
    diagonal, so two groupings that agree show one bright diagonal.

    Parameters
    ----------
    adata
        Cells with both groupings; not changed. Cells without a value in either are left out.
    key1
        Column of `adata.obs` for the rows, for example the clusters.
    key2
        Column of `adata.obs` for the columns, for example the published types.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes with the heat map. Row labels carry the number of cells.

    Raises
    ------
    KeyError
        If `adata.obs` lacks one of the columns.
    ValueError
        If no cell has a value in both.
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
    _write_shares(ax, share.to_numpy())
    ax.figure.colorbar(image, ax=ax, label=f"share of {shown(key1)}", fraction=0.05, pad=0.02)
    return ax


def _write_shares(ax: Axes, share: np.ndarray, *, smallest: float = 0.05, max_cells: int = 400) -> None:
    """Write the shares into the heat map; small ones are left out, and all of them in a large map."""
    if share.size > max_cells:
        return
    for row, col in np.argwhere(share >= smallest):
        value = share[row, col]
        ax.text(
            col, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if value > 0.6 else "white"
        )


def _diagonal_order(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows and columns that puts large entries on the diagonal.

    Parameters
    ----------
    table
        Counts, shape (n_rows, n_cols).

    Returns
    -------
    Row order, shape (n_rows,), and column order, shape (n_cols,). The shorter side keeps its order.
    """
    if table.shape[0] > table.shape[1]:
        cols, rows = _diagonal_order(table.T)
        return rows, cols
    # Each row gets one column of its own; a column left over stands behind the own column of its largest row.
    anchor = table.argmax(axis=0)
    is_own = np.zeros(table.shape[1], dtype=bool)
    matched_rows, matched_cols = linear_sum_assignment(table, maximize=True)
    anchor[matched_cols] = matched_rows
    is_own[matched_cols] = True
    return np.arange(table.shape[0]), np.lexsort((~is_own, anchor))
