from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scgpcl import _keys
from scgpcl.pl._map import METHODS, latent_map, positions_at
from scgpcl.pl._style import categories_of, colors_of, shown

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_TITLES = {"umap": "UMAP", "tsne": "t-SNE"}
_MISSING = "lightgrey"
#: Entries in a column of the legend.
_LEGEND_ROWS = 16


def latent(
    adata: AnnData,
    key: str = _keys.CLUSTER,
    *,
    method: Literal["umap", "tsne"] = "umap",
    basis: str | None = None,
    use_rep: str = _keys.LATENT,
    label: bool = True,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw a two-dimensional map of the latent vectors, coloured by a column of ``adata.obs``.

    The map is computed with scanpy and stored in ``obsm["X_scgpcl_umap"]`` or ``obsm["X_scgpcl_tsne"]``, with the seed and a
    digest of the latent vectors in ``uns`` under the same name. Later calls reuse it if both are unchanged. Nothing is stored
    in a view. In such a map, the sizes of groups and the distances between distant groups are not meaningful.

    Parameters
    ----------
    adata
        Cells with latent vectors.
    key
        Column of ``adata.obs``. Text, categories and booleans are drawn in the colours of ``uns[f"{key}_colors"]`` if
        present, numbers on a continuous scale, and cells without a value in grey.
    method
        ``"umap"`` or ``"tsne"``.
    basis
        Key of positions in ``adata.obsm`` to draw instead, for example ``"X_umap"``; nothing is computed or stored then.
    use_rep
        Key of the latent vectors in ``adata.obsm``.
    label
        Also write the groups on the map, for readers who cannot tell the colours apart. If a name has more than three
        characters, numbers are written instead and explained in the legend.
    seed
        Seed of the map.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes with the map, with a colour bar for numbers.

    Raises
    ------
    KeyError
        If ``adata`` lacks the column, the latent vectors or the basis.
    ValueError
        If no cell has a value, there are fewer than three cells, or ``method`` or ``seed`` is not valid.
    """
    import matplotlib.pyplot as plt

    if method not in METHODS:
        msg = f"Expected `method` to be one of {METHODS}, found {method!r}."
        raise ValueError(msg)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        msg = f"Expected `seed` to be a whole number from 0 to {2**32 - 1}, found {seed!r}."
        raise ValueError(msg)
    groups = categories_of(adata, key)
    column = adata.obs[key]
    continuous = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if basis is None:
        positions = latent_map(adata, use_rep=use_rep, method=method, seed=seed)
    else:
        positions = positions_at(adata, basis)
    if ax is None:
        width = 5.2 if continuous else 4.4 + _legend_width(groups, label=label)
        _, ax = plt.subplots(figsize=(width, 4.4), layout="constrained")
    if continuous:
        _draw_numbers(ax, positions, column)
    else:
        _draw_groups(ax, positions, groups, colors_of(adata, key), label=label)
    axis = _TITLES[method] if basis is None else shown(basis.removeprefix("X_"))
    ax.set(title=shown(key, 60), xticks=[], yticks=[], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    ax.set_box_aspect(1)
    ax.set_anchor("W")  # leave the remaining space to the legend
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _point_size(n_cells: int) -> float:
    """Area of a point in square typographic points."""
    return min(40.0, max(1.0, 15000 / n_cells))


def _order(n_cells: int) -> np.ndarray:
    """Random order of drawing, so that no group hides another."""
    return np.random.default_rng(0).permutation(n_cells)


def _draw_numbers(ax: Axes, positions: np.ndarray, column: pd.Series) -> None:
    """Points (n_cells, 2) on a continuous colour scale, missing values below the others."""
    values = column.to_numpy(dtype=float, na_value=np.nan)
    finite = np.isfinite(values)
    size = _point_size(len(values))
    x, y = positions.T
    ax.scatter(x[~finite], y[~finite], c=_MISSING, s=size, lw=0, rasterized=True)
    order = _order(len(values))
    order = order[finite[order]]
    points = ax.scatter(x[order], y[order], c=values[order], cmap="viridis", s=size, lw=0, rasterized=True)
    ax.figure.colorbar(points, ax=ax, fraction=0.05, pad=0.02, shrink=0.8)


def _draw_groups(ax: Axes, positions: np.ndarray, groups: pd.Series, colors: dict[object, str], *, label: bool) -> None:
    """Points (n_cells, 2) in the colours of their groups, in random order, with a legend."""
    from matplotlib.lines import Line2D

    names = list(groups.cat.categories)
    point_colors = groups.astype(object).map(colors).fillna(_MISSING).to_numpy()
    order = _order(len(groups))
    x, y = positions[order].T
    ax.scatter(x, y, c=point_colors[order], s=_point_size(len(groups)), lw=0, rasterized=True)
    marks = _marks(names)
    handles = [Line2D([], [], ls="", marker="o", ms=6, color=colors[name]) for name in names]
    legend = ax.legend(
        handles,
        ["x"] * len(names),
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        ncols=_n_columns(names),
        fontsize=9,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    # set afterwards, because matplotlib drops labels with a leading underscore
    for text, entry in zip(legend.get_texts(), _entries(names, label=label), strict=True):
        text.set_text(entry)
    if label:
        codes = groups.cat.codes.to_numpy()
        centers = np.stack([_center(positions[codes == code]) for code in range(len(names))])
        _write_marks(ax, centers, marks, extent=np.ptp(positions, axis=0))


def _marks(names: list[object]) -> list[str]:
    """Text on the map for each group: its name, or its number if any name is long."""
    short = [shown(name) for name in names]
    return short if max(map(len, short)) <= 3 else [str(number + 1) for number in range(len(names))]


def _entries(names: list[object], *, label: bool) -> list[str]:
    """Entries of the legend."""
    short, marks = [shown(name) for name in names], _marks(names)
    return [f"{mark}  {name}" if label and mark != name else name for mark, name in zip(marks, short, strict=True)]


def _n_columns(names: list[object]) -> int:
    return math.ceil(len(names) / _LEGEND_ROWS)


def _legend_width(groups: pd.Series, *, label: bool) -> float:
    """Width of the legend in inches."""
    names = list(groups.cat.categories)
    longest = max(map(len, _entries(names, label=label)))
    return _n_columns(names) * (0.4 + 0.078 * longest)


def _center(positions: np.ndarray) -> np.ndarray:
    """Position of the cell closest to the median of its group; the median itself may lie outside the group."""
    distance = np.abs(positions - np.median(positions, axis=0)).sum(1)
    return positions[distance.argmin()]


def _write_marks(ax: Axes, centers: np.ndarray, marks: list[str], *, extent: np.ndarray) -> None:
    """Write the marks at the centres (n_groups, 2), moved apart vertically where they overlap; ``extent`` is (2,)."""
    from matplotlib.patheffects import withStroke

    at = centers / np.where(extent > 0, extent, 1.0)
    reach = np.array([0.022 * max(map(len, marks)) + 0.01, 0.045])
    for _ in range(50):
        gap = at[:, None] - at[None]
        close = (np.abs(gap) < reach).all(-1) & ~np.eye(len(at), dtype=bool)
        if not close.any():
            break
        # move each mark up or down by half of the overlap; of two at the same height, the first moves up
        up = np.where(gap[..., 1] != 0, np.sign(gap[..., 1]), np.sign(np.arange(len(at)) - np.arange(len(at))[:, None]))
        at[:, 1] += 0.5 * (close * up * (reach[1] - np.abs(gap[..., 1]))).sum(1)
    for (x, y), mark in zip(at * np.where(extent > 0, extent, 1.0), marks, strict=True):
        ax.text(
            x,
            y,
            mark,
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
