from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.optimize import linear_sum_assignment

from scgpcl import _keys
from scgpcl._rules import check, number, one_of
from scgpcl.pl._map import METHODS, latent_map, positions_at
from scgpcl.pl._style import DISTINCT, categories_of, colors_of, shown
from scgpcl.tl._expression import expression_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {"umap": "UMAP", "tsne": "t-SNE"}
_MISSING = "lightgrey"
#: Options for where to write the names of groups.
LEGENDS = ("both", "on data", "right margin", "none")
#: Number of entries in each column of the legend.
_LEGEND_ROWS = 16


@overload
def latent(adata: AnnData, color: str = ..., **kwargs: Any) -> Axes: ...
@overload
def latent(adata: AnnData, color: list[str] | tuple[str, ...], **kwargs: Any) -> list[Axes]: ...
def latent(  # type: ignore[misc]  # keywords as below
    adata: AnnData,
    color: str | list[str] | tuple[str, ...] = _keys.CLUSTER,
    *,
    method: Literal["umap", "tsne"] = "umap",
    basis: str | None = None,
    use_rep: str = _keys.LATENT,
    layer: str | None = None,
    legend_loc: Literal["both", "on data", "right margin", "none"] = "both",
    ncols: int = 3,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes | list[Axes]:
    """Plot a two-dimensional map of the latent vectors, coloured by columns of ``adata.obs`` or by genes.

    The map is computed with scanpy and stored in ``obsm["X_umap"]`` or ``obsm["X_tsne"]``, the same keys that scanpy
    uses. An existing map is reused, except that a map computed by this function is updated if the latent vectors or the
    seed have changed. If ``adata`` is a view, nothing is stored. Note that the sizes of groups and the distances
    between distant groups are not meaningful in such a map.

    Parameters
    ----------
    adata
        Cells with latent vectors.
    color
        One or more columns of ``adata.obs`` or genes in ``adata.var_names``, each of which is plotted in its own panel.
        Text, categories and booleans use the colours in ``uns[f"{color}_colors"]`` if present, numbers are shown on a
        continuous scale, and cells without a value are grey. In subsequent panels, each group takes the colour and the
        number of the group in the first panel with which it shares the most cells. Genes are plotted as
        log(1 + counts per 10,000); values that are not counts are plotted as they are.
    method
        ``"umap"`` or ``"tsne"``.
    basis
        Key in ``adata.obsm`` of existing positions to plot instead, for example ``"X_pca"``. In this case, nothing is
        computed or stored.
    use_rep
        Key of the latent vectors in ``adata.obsm``. If this is not the default key, maps are stored in
        ``obsm[f"{use_rep}_{method}"]``.
    layer
        Layer with the counts used to plot genes. If ``None``, ``X`` is used.
    legend_loc
        Where to show the names of the groups: ``"on data"``, ``"right margin"`` (in a legend), ``"both"`` or
        ``"none"``. If any name has more than three characters, ``"both"`` writes numbers on the map and explains them
        in the legend.
    ncols
        Number of panels per row.
    seed
        Random seed for the map.
    ax
        Axes to draw on, if there is only one panel. By default, a new figure is created.

    Returns
    -------
    The axes with the map, to which a colour bar is added for numbers. If ``color`` is a list, a list of axes is
    returned.

    Raises
    ------
    KeyError
        If ``adata`` lacks a column or gene, the latent vectors or the basis.
    ValueError
        If no cell has a value, if there are fewer than three cells, or if an argument is invalid.

    Examples
    --------
    >>> scgpcl.pl.latent(adata, ["scgpcl_cluster", "scgpcl_confidence", "CD3D"])  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    one_of(*METHODS)(method, "method")
    one_of(*LEGENDS)(legend_loc, "legend_loc")
    ncols = number(1, whole=True)(ncols, "ncols")
    seed = check(seed=seed)["seed"]
    several = isinstance(color, list | tuple)
    names: list[Any] = list(color) if several else [color]
    if not names or (ax is not None and len(names) > 1):
        msg = f"Expected one column or gene for `ax`, found {len(names)}. Leave out `ax`, or draw them one by one."
        raise ValueError(msg)
    panels = [_values_of(adata, name, layer) for name in names]
    first = next((groups for groups in panels if groups.dtype == "category"), None)
    looks = [_look(adata, name, groups, first) for name, groups in zip(names, panels, strict=True)]
    if basis is None:
        positions = latent_map(adata, use_rep=use_rep, method=method, seed=seed)
    else:
        positions = positions_at(adata, basis)
    if ax is None:
        widths = [5.2 if look is None else 4.4 + _legend_width(look, legend_loc) for look in looks]
        n_cols = min(ncols, len(names))
        n_rows = -(-len(names) // n_cols)
        width = max(sum(widths[row * n_cols : (row + 1) * n_cols]) for row in range(n_rows))
        figure, grid = plt.subplots(n_rows, n_cols, figsize=(width, 4.4 * n_rows), layout="constrained", squeeze=False)
        axes = list(grid.flat[: len(names)])
        for unused in grid.flat[len(names) :]:
            unused.remove()
    else:
        axes = [ax]
    axis = _TITLES[method] if basis is None else shown(basis.removeprefix("X_"))
    for one, name, values, look in zip(axes, names, panels, looks, strict=True):
        if look is None:
            _draw_numbers(one, positions, values)
        else:
            _draw_groups(one, positions, values, look, legend_loc)
        one.set(title=shown(name, 60), xticks=[], yticks=[], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
        one.set_box_aspect(1)
        one.set_anchor("W")  # leave the remaining space to the legend
        one.spines[["top", "right"]].set_visible(False)
    return axes if several else axes[0]


class _Look(NamedTuple):
    """Names, colours and marks of the groups in one panel."""

    names: list[object]
    colors: dict[object, str]
    marks: list[str]


def _values_of(adata: AnnData, name: Any, layer: str | None) -> pd.Series:
    """Return the numeric values of a column or gene, or the groups in a column as a categorical."""
    if isinstance(adata, AnnData) and isinstance(name, str) and name not in adata.obs and name in adata.var_names:
        return pd.Series(expression_of(adata, name, layer=layer), index=adata.obs_names)
    groups = categories_of(adata, name)
    column = adata.obs[name]
    continuous = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return column if continuous else groups


def _look(adata: AnnData, name: str, groups: pd.Series, first: pd.Series | None) -> _Look | None:
    """Return the names, colours and marks of groups, or None for numbers.

    If there is a first panel, groups that match one of its groups take the colour and mark of that group.
    """
    if groups.dtype != "category":
        return None
    names, colors = list(groups.cat.categories), colors_of(adata, name)
    marks = _marks(names)
    if first is None or first.name == name:
        return _Look(names, colors, marks)
    matched = _matched(groups, first)
    others = _marks(list(first.cat.categories))
    mine = {own: others[list(first.cat.categories).index(theirs)] for own, theirs in matched.items()}
    free = (str(number) for number in itertools.count(len(first.cat.categories) + 1) if str(number) not in others)
    if max(len(shown(one)) for one in names) > 3:
        marks = [mine[one] if one in mine else next(free) for one in names]
    if f"{name}_colors" not in adata.uns:
        theirs_colors = colors_of(adata, str(first.name))
        taken = set(theirs_colors.values())
        rest = (color for color in (*colors.values(), *DISTINCT) if color not in taken)
        colors = {one: theirs_colors[matched[one]] if one in matched else next(rest, "grey") for one in names}
    return _Look(names, colors, marks)


def _matched(groups: pd.Series, first: pd.Series) -> dict[object, object]:
    """Match groups one-to-one with the groups in ``first`` that share the most cells; drop pairs that share none."""
    table = pd.crosstab(groups.to_numpy(), first.to_numpy())
    rows, cols = linear_sum_assignment(-table.to_numpy())
    return {
        table.index[row]: table.columns[col] for row, col in zip(rows, cols, strict=True) if table.iloc[row, col] > 0
    }


def _point_size(n_cells: int) -> float:
    """Return the area of a point in square typographic points."""
    return min(40.0, max(1.0, 15000 / n_cells))


def _order(n_cells: int) -> np.ndarray:
    """Return a random drawing order, so that no group hides another."""
    return np.random.default_rng(0).permutation(n_cells)


def _draw_numbers(ax: Axes, positions: np.ndarray, column: pd.Series) -> None:
    """Plot points (n_cells, 2) coloured on a continuous scale, with missing values drawn underneath the others."""
    values = column.to_numpy(dtype=float, na_value=np.nan)
    finite = np.isfinite(values)
    size = _point_size(len(values))
    x, y = positions.T
    ax.scatter(x[~finite], y[~finite], c=_MISSING, s=size, lw=0, rasterized=True)
    order = _order(len(values))
    order = order[finite[order]]
    points = ax.scatter(x[order], y[order], c=values[order], cmap="viridis", s=size, lw=0, rasterized=True)
    ax.figure.colorbar(points, ax=ax, fraction=0.05, pad=0.02, shrink=0.8)


def _draw_groups(ax: Axes, positions: np.ndarray, groups: pd.Series, look: _Look, legend_loc: str) -> None:
    """Plot points (n_cells, 2) in random order, coloured by group, with a legend and marks as requested."""
    from matplotlib.lines import Line2D

    point_colors = groups.astype(object).map(look.colors).fillna(_MISSING).to_numpy()
    order = _order(len(groups))
    x, y = positions[order].T
    ax.scatter(x, y, c=point_colors[order], s=_point_size(len(groups)), lw=0, rasterized=True)
    if legend_loc in ("both", "right margin"):
        handles = [Line2D([], [], ls="", marker="o", ms=6, color=look.colors[name]) for name in look.names]
        legend = ax.legend(
            handles,
            ["x"] * len(look.names),
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            ncols=_n_columns(look.names),
            fontsize=9,
            handletextpad=0.2,
            columnspacing=1.0,
        )
        # set afterwards, because matplotlib drops labels with a leading underscore
        for text, entry in zip(legend.get_texts(), _entries(look, legend_loc), strict=True):
            text.set_text(entry)
    if legend_loc in ("both", "on data"):
        codes = groups.cat.codes.to_numpy()
        centers = np.stack([_center(positions[codes == code]) for code in range(len(look.names))])
        marks = look.marks if legend_loc == "both" else [shown(name, 20) for name in look.names]
        _write_marks(ax, centers, marks, extent=np.ptp(positions, axis=0))


def _marks(names: list[object]) -> list[str]:
    """Return the text shown on the map for each group: its name, or its number if any name is long."""
    short = [shown(name) for name in names]
    return short if max(map(len, short)) <= 3 else [str(number + 1) for number in range(len(names))]


def _entries(look: _Look, legend_loc: str) -> list[str]:
    """Return the entries of the legend."""
    short = [shown(name) for name in look.names]
    numbered = legend_loc == "both"
    return [
        f"{mark}  {name}" if numbered and mark != name else name for mark, name in zip(look.marks, short, strict=True)
    ]


def _n_columns(names: list[object]) -> int:
    return math.ceil(len(names) / _LEGEND_ROWS)


def _legend_width(look: _Look, legend_loc: str) -> float:
    """Return the width of the legend in inches."""
    if legend_loc in ("none", "on data"):
        return 0.1
    return _n_columns(look.names) * (0.4 + 0.078 * max(map(len, _entries(look, legend_loc))))


def _center(positions: np.ndarray) -> np.ndarray:
    """Return the position of the cell closest to the median of its group.

    The median itself may lie outside the group.
    """
    distance = np.abs(positions - np.median(positions, axis=0)).sum(1)
    return positions[distance.argmin()]


def _write_marks(ax: Axes, centers: np.ndarray, marks: list[str], *, extent: np.ndarray) -> None:
    """Write the marks at the centres (n_groups, 2), moving them apart vertically where they overlap.

    ``extent`` has shape (2,).
    """
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
