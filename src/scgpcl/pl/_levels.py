"""Figures of the tree of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgpcl._rules import number
from scgpcl.pl._style import node_colors, shown
from scgpcl.tl._expression import log_normalized
from scgpcl.tl._ranking import is_mt_ribo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

#: Minimum support of a split. If the support is lower, the branches are dotted.
SUPPORTED = 0.95
#: Level down to which the tree is drawn, and levels to draw, as multiples of the number of clusters from training.
FINEST, SHARES = 1.5, (0.25, 0.5, 1.0, 1.5, 2.0)
#: Maximum number of cells used to compute the marker genes of splits.
MAX_CELLS = 20_000
#: Half the width of a bar, as a share of the distance between two levels.
BAR = 0.08


def tree(model: SCGPCL, *, n_clusters: int | None = None, n_genes: int = 3, ax: Axes | None = None) -> Axes:
    """Draw the tree of clusters with the height of its splits, and with sizes, stability, support and marker genes.

    Parameters
    ----------
    model
        A trained model.
    n_clusters
        Level down to which the tree is drawn. If ``None``, 1.5 times the number of clusters from training is used.
    n_genes
        Number of marker genes to write at each node. These are the genes whose mean log-normalised counts exceed the
        counts in the sibling by the most standard errors, excluding mitochondrial and ribosomal genes. They describe a
        split and do not test it. If the model has no cells, no genes are written.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes, with the root on the left, and the leaves and their numbers of cells on the right. The area of a node
    represents its number of cells, and the intensity of its colour represents its stability. Branches of splits with a
    support below 0.95 are dotted. The colours are the same as in :func:`levels` and, for the same clusters, in
    :func:`latent`.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If the tree has no such level, or if ``n_genes`` is not a whole number of at least 0.
    """
    import matplotlib.pyplot as plt

    n_genes = number(0, whole=True)(n_genes, "n_genes")
    table = cast("pd.DataFrame", model.get_tree())
    if n_clusters is None:
        n_clusters = _nearest(table, FINEST * (model.n_clusters_ or 1))
    model._known_level(n_clusters, "n_clusters")
    colors = _colors(model, table)
    table = table[table["n_clusters"] <= n_clusters]
    genes = _split_markers(model, table, n_clusters, n_genes) if n_genes and model.adata is not None else {}
    leaves = [name for name in _walk(table) if name not in set(table["parent"])]
    y = {name: float(place) for place, name in enumerate(leaves)}
    for name in reversed(table.index):  # children come after their parent
        if name not in y:
            y[name] = float(np.mean([y[child] for child in table.index[table["parent"] == name]]))
    x = {name: 0.0 if name in leaves else float(table["height"][name]) for name in table.index}
    if ax is None:
        _, ax = plt.subplots(figsize=(8.5 if genes else 6.0, 1.0 + 0.34 * max(len(leaves), 3)), layout="constrained")
    parents = {str(name): str(above) for name, above in table["parent"].items()}
    for name, above in parents.items():
        if above:
            line: dict[str, Any] = {"color": colors[name], "lw": 1.6, "zorder": 1, "solid_capstyle": "round"}
            line["ls"] = "-" if table["support"][above] >= SUPPORTED else (0, (1, 1.6))
            ax.plot([x[above], x[above], x[name]], [y[above], y[name], y[name]], **line)
    sizes = table["size"].fillna(1)
    for name in table.index:
        place: dict[str, Any] = {
            "x": x[name],
            "y": y[name],
            "s": 14 + 190 * sizes[name] / sizes.max(),
            "lw": 1.3,
            "clip_on": False,
        }
        ax.scatter(**place, facecolor="white", edgecolor=colors[name], zorder=2)
        ax.scatter(
            **place,
            facecolor=colors[name],
            edgecolor="none",
            alpha=float(np.nan_to_num(table["stability"][name])),
            zorder=3,
        )
    for name in table.index:
        marked = ", ".join(shown(gene, 12) for gene in genes.get(name, ()))
        if name in leaves:
            count = "" if np.isnan(table["size"][name]) else f" ({table['size'][name]:,.0f})"
            text = ax.annotate(
                shown(name) + count, (0, y[name]), (13, 0), textcoords="offset points", va="center", size=9
            )
            place = {"xycoords": text, "textcoords": "offset points", "va": "center", "size": 7.5, "color": "0.35"}
            ax.annotate(marked, (1, 0.5), (6, 0), **place)
        elif marked:
            place = {"textcoords": "offset points", "va": "bottom", "ha": "right", "size": 6.5, "color": "0.35"}
            place["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
            ax.annotate(marked, (x[name], y[name]), (-9, 2), **place)
    ax.set(
        xlim=(max(x.values()) * 1.08 + 1e-3, 0), ylim=(len(leaves) - 0.4, -0.6), yticks=[], xlabel="height of the split"
    )
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def levels(model: SCGPCL, levels: Sequence[int] | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw how cells flow from coarse to fine levels of the tree.

    The figure is similar to a clustree plot of resolutions (Zappia and Oshlack 2018).

    Parameters
    ----------
    model
        A trained model with its cells.
    levels
        Numbers of clusters. If ``None``, a few levels are drawn, from a quarter of the number of clusters from training
        to twice that number.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes. Each level, from coarse to fine, is drawn as a column of bars whose heights are the cluster sizes. Bars
    that share cells are joined by bands. The colours are the same as in :func:`tree`.

    Raises
    ------
    RuntimeError
        If the model is not trained or has no cells.
    TypeError
        If ``levels`` is not a list of numbers.
    ValueError
        If the tree has no such level.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    table = cast("pd.DataFrame", model.get_tree())
    if levels is None:
        levels = [_nearest(table, share * (model.n_clusters_ or 1)) for share in SHARES]
    found = model.get_levels(sorted(set(model._known_levels(levels))))
    colors = _colors(model, table)
    order, n_cells = _walk(table), len(found)
    gap = 0.015 * n_cells
    if ax is None:
        _, ax = plt.subplots(figsize=(1.2 + 1.3 * found.shape[1], 4.8), layout="constrained")
    bottom: list[dict[str, float]] = []
    for column, level in enumerate(found):
        sizes = found[level].value_counts()
        names = [name for name in order if sizes.get(name, 0)]
        heights = np.array([sizes[name] for name in names], dtype=float)
        start = np.cumsum(np.r_[0, heights[:-1] + gap]) - gap * (len(names) - 1) / 2
        ax.bar(np.full(len(names), column), heights, 2 * BAR, start, color=[colors[name] for name in names], zorder=3)
        for name, height, low in zip(names, heights, start, strict=True):
            if height > 0.025 * n_cells:
                place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": 8, "zorder": 4}
                ax.annotate(shown(name, 14), (column + BAR, low + height / 2), (3, 0), **place)
        bottom.append(dict(zip(names, start.tolist(), strict=True)))
    for column, (coarse, fine) in enumerate(zip(found.columns, found.columns[1:], strict=False)):
        left, right = dict(bottom[column]), dict(bottom[column + 1])
        shared = found.groupby([coarse, fine], observed=True).size()
        for above, name in sorted(shared.index, key=lambda pair: (order.index(pair[0]), order.index(pair[1]))):
            size, middle = float(shared[above, name]), column + 0.5
            ends = [(column + BAR, left[above]), (column + 1 - BAR, right[name])]
            (x0, y0), (x1, y1) = ends
            points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1), (x1, y1 + size)]
            points += [(middle, y1 + size), (middle, y0 + size), (x0, y0 + size), (x0, y0)]
            curve = [Path.CURVE4] * 3
            codes = [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY]
            ax.add_patch(PathPatch(Path(points, codes), facecolor=colors[name], alpha=0.4, lw=0, zorder=1))
            left[above] += size
            right[name] += size
    ax.set_xticks(range(found.shape[1]), [str(level) for level in found])
    ax.set(xlim=(-0.25, found.shape[1] - 0.5), yticks=[], xlabel="number of clusters")
    ax.invert_yaxis()
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(axis="x", length=0)
    return ax


def _colors(model: SCGPCL, table: pd.DataFrame) -> dict[str, str]:
    names = [str(name) for name in table.index]
    clusters = [] if model.cluster_names_ is None else [str(name) for name in model.cluster_names_]
    return dict(zip(names, node_colors(names, clusters), strict=True))


def _nearest(table: pd.DataFrame, n_clusters: float) -> int:
    """Return the level of a tree that is nearest to a number of clusters."""
    return int(min(set(table["n_clusters"]), key=lambda level: (abs(level - n_clusters), level)))


def _walk(table: pd.DataFrame) -> list[str]:
    """Return the nodes in depth-first order from the root, so that related nodes are next to each other."""
    stack, found = [str(table.index[0])], []
    while stack:
        found.append(stack.pop())
        stack.extend(reversed([str(name) for name in table.index[table["parent"] == found[-1]]]))
    return found


def _split_markers(model: SCGPCL, table: pd.DataFrame, n_clusters: int, n_genes: int) -> dict[str, list[str]]:
    """Find genes that are more highly expressed in each node (except the root) than in its siblings, best first."""
    assert model.adata is not None
    rows = np.arange(model.adata.n_obs)
    if len(rows) > MAX_CELLS:
        rows = np.linspace(0, len(rows) - 1, MAX_CELLS).astype(np.int64)
    labels = model.get_levels([n_clusters], indices=rows.tolist())[n_clusters].cat.remove_unused_categories()
    leaves = [str(name) for name in labels.cat.categories]
    if len(leaves) < 2:
        return {}
    part, layer = model.adata[rows], model.registration.layer
    counts = part.X if layer is None else part.layers[layer]
    cells = ad.AnnData(counts, obs=labels.to_frame("leaf"), var=model.adata.var[[]])
    x = log_normalized(cells, "leaf").X
    member = sp.csr_matrix((np.ones(len(labels)), (labels.cat.codes, np.arange(len(labels)))))
    sums = np.stack([(member @ x).toarray(), (member @ x.multiply(x)).toarray()])
    n_cells = np.asarray(member.sum(1)).ravel()
    below = {leaf: {leaf} for leaf in leaves}
    parents = {str(name): str(above) for name, above in table["parent"].items()}
    for name, above in reversed(parents.items()):
        below[above] = below.get(above, set()) | below.get(name, set())
    known = ~is_mt_ribo(pd.Series(cells.var_names)).to_numpy()

    def moments(own: set[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the squared standard error of each gene."""
        places = [leaves.index(leaf) for leaf in own]
        n = n_cells[places].sum()
        mean, square = sums[:, places].sum(1) / n
        return mean, np.maximum(square - mean**2, 0.0) / n

    found = {}
    for name, above in parents.items():
        own, others = below.get(name, set()), below[above] - below.get(name, set())
        if above and own and others:
            (mean, error), (other, other_error) = moments(own), moments(others)
            score = np.where(known, (mean - other) / np.sqrt(error + other_error + 1e-4), -np.inf)
            best = np.argsort(-score, kind="stable")[:n_genes]
            found[name] = [str(cells.var_names[gene]) for gene in best if mean[gene] > other[gene]]
    return found
