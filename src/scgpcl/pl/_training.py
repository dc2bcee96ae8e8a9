"""Figures of the training of a model: the losses and the estimate of the number of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgpcl import _keys
from scgpcl._rules import number
from scgpcl.cluster import MAJORITY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

#: Panels in drawing order, each with its title and its curves (name in the history and legend entry).
_PANELS = (
    *(
        (title, ((f"{metric}_train", "training"), (f"{metric}_validation", "validation")))
        for title, metric in (
            ("reconstruction (ZINB)", _keys.RECONSTRUCTION_LOSS),
            ("instance contrast", _keys.INSTANCE_LOSS),
            ("prototype contrast", _keys.PROTOTYPE_LOSS),
            ("clustering (KL)", _keys.CLUSTERING_LOSS),
        )
    ),
    ("agreement of clusterings (ARI)", ((_keys.LABEL_AGREEMENT, "training"),)),
    ("share of cells changing cluster", ((_keys.LABEL_CHANGE, "training"),)),
)
_TOTAL = ((_keys.TRAIN_LOSS, "training"), (_keys.VALIDATION_LOSS, "validation"))
_STAGES = {1: "pre-training", 2: "clustering", 3: "decoder"}
_COLORS = {"training": "C0", "validation": "C1"}
#: Columns of the curve from which the number of clusters is estimated.
_COLUMNS = ("K", "share", "holds")


def history(model: SCGPCL | Mapping[str, pd.DataFrame], *, n_cols: int = 4) -> list[Axes]:
    """Draw the training curves, with one panel per loss or stopping criterion for the epochs that have it.

    Parameters
    ----------
    model
        A trained model or its ``history_``, which contains one table per metric, indexed by epoch.
    n_cols
        Number of panels per row.

    Returns
    -------
    One axes for each metric in the history, in a new figure. Dashed lines mark changes of stage within a panel, for
    example if training was continued.

    Raises
    ------
    ValueError
        If the model is not trained, if the history contains none of the known metrics, or if ``n_cols`` is not a whole
        number of at least 1.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    n_cols = number(1, whole=True)(n_cols, "n_cols")
    tables = getattr(model, "history_", model)
    if not tables:
        msg = "Expected a trained model or its `history_`, found no history. Call `model.train()` first."
        raise ValueError(msg)
    panels = [*_total_losses(tables)]
    panels += [(title, curves) for title, wanted in _PANELS if (curves := _curves(tables, wanted))]
    if not panels:
        msg = f"Expected a training history with at least one loss, found the metrics {sorted(tables)}."
        raise ValueError(msg)

    n_cols = min(n_cols, len(panels))
    n_rows = -(-len(panels) // n_cols)
    figure, grid = plt.subplots(
        n_rows, n_cols, figsize=(3.3 * n_cols, 2.3 * n_rows), squeeze=False, layout="constrained"
    )
    axes = list(grid.flat[: len(panels)])
    for unused in grid.flat[len(panels) :]:
        unused.remove()
    borders = _stage_borders(tables)
    for ax, (title, curves) in zip(axes, panels, strict=True):
        _draw(ax, title, curves, borders=borders)
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for ax in axes[-n_cols:]:
        ax.set_xlabel("epoch")
    return axes


def _total_losses(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, dict[str, pd.Series]]]:
    """Yield a panel of the total loss for each stage.

    The stages minimise different sums, which could not be shown on one axis.
    """
    curves = _curves(tables, _TOTAL)
    if curves and _keys.STAGE not in tables:
        yield "total loss", curves
    elif curves:
        stage = tables[_keys.STAGE].iloc[:, 0]
        for number in sorted(stage.unique()):
            epochs = stage.index[stage == number]
            yield (
                f"total loss, {_STAGES[int(number)]}",
                {label: curve[curve.index.isin(epochs)] for label, curve in curves.items()},
            )


def _curves(tables: Mapping[str, pd.DataFrame], wanted: tuple[tuple[str, str], ...]) -> dict[str, pd.Series]:
    """Return the existing curves of one panel by legend entry, without missing values."""
    found = {label: tables[name].iloc[:, 0].astype(float).dropna() for name, label in wanted if name in tables}
    return {label: curve for label, curve in found.items() if len(curve)}


def _stage_borders(tables: Mapping[str, pd.DataFrame]) -> list[float]:
    """Return the first epoch of each stage except the first stage."""
    if _keys.STAGE not in tables:
        return []
    stage = tables[_keys.STAGE].iloc[:, 0].sort_index()
    return stage.index[1:][np.diff(stage.to_numpy()) != 0].astype(float).tolist()


def _draw(ax: Axes, title: str, curves: dict[str, pd.Series], *, borders: list[float]) -> None:
    """Draw the curves of one panel, with dashed lines between stages."""
    for label, curve in curves.items():
        curve = curve.sort_index()
        # the stages have different losses, so a line across a border would suggest a jump
        segments = np.searchsorted(borders, curve.index.to_numpy(dtype=float), side="right")
        for i, (_, part) in enumerate(curve.groupby(segments)):
            # a leading underscore keeps the later segments out of the legend
            name = label if i == 0 else f"_{label}"
            marker = "." if len(part) < 3 else None
            ax.plot(part.index, part, color=_COLORS[label], lw=1.4, marker=marker, label=name)
    first, last = (limit([limit(curve.index) for curve in curves.values() if len(curve)]) for limit in (min, max))
    for border in [border for border in borders if first < border <= last]:
        # between the last epoch of one stage and the first of the next
        ax.axvline(border - 0.5, color="0.4", ls="--", lw=1)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=8)
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def n_clusters(model: SCGPCL | pd.DataFrame, *, n_clusters: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the share of partitions that make each split of the tree, and mark the chosen number of clusters.

    Parameters
    ----------
    model
        A model that estimated its number of clusters, or its ``n_clusters_curve_``. It is not changed.
    n_clusters
        Number of clusters to mark. If ``None``, the number of the model is marked. If a curve is given, nothing is
        marked.
    ax
        Axes to draw on. By default, a new figure is created.

    Returns
    -------
    The axes. For each number of clusters, a point shows the share of the partitions that make its split. The point is
    filled if the split holds. There is a dotted line at one half and a dashed line at the chosen number.

    Raises
    ------
    ValueError
        If the model did not estimate its number of clusters, or if the curve lacks columns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    curve: Any = getattr(model, "n_clusters_curve_", model if hasattr(model, "columns") else None)
    if curve is None:
        msg = (
            "Expected a model that has estimated its number of clusters, found none. Make it with `n_clusters=None` "
            "and train it."
        )
        raise ValueError(msg)
    missing = [name for name in _COLUMNS if name not in curve]
    if missing:
        msg = f"Expected a curve with the columns {list(_COLUMNS)}, found one that lacks {missing}."
        raise ValueError(msg)
    number = n_clusters if n_clusters is not None else getattr(model, "n_clusters_", None)
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    k, share = (curve[name].to_numpy(dtype=float) for name in ("K", "share"))
    holds = curve["holds"].to_numpy(dtype=bool)
    ax.plot(k, share, color="C0", lw=1, zorder=1)
    ax.scatter(k[holds], share[holds], s=28, color="C0", zorder=3, label="holds on held-out molecules")
    ax.scatter(
        k[~holds], share[~holds], s=28, facecolor="white", edgecolor="C0", zorder=2, label="does not, or not tested"
    )
    if number is not None:
        ax.axvline(number, color="0.4", ls="--", lw=1, zorder=0)
        ax.text(number, 1.01, f"{number}", ha="center", va="bottom", transform=ax.get_xaxis_transform(), fontsize=9)
    ax.axhline(MAJORITY, color="C0", ls=":", lw=1)
    ax.set(xlabel="number of clusters", ylabel="share of the partitions that make the split", ylim=(0.0, 1.02))
    ax.set_title(
        "Each point is the split that makes this number from the one before. Splits above the\n"
        "dotted line are tested. The chosen number is one more than the number that hold.",
        fontsize=8,
        loc="left",
        pad=16,
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
