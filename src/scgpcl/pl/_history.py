from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgpcl import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

# Panels in the order of drawing: title, and the curves (name in the history, legend entry).
_PANELS = (
    ("total loss", ((_keys.TRAIN_LOSS, "training"), (_keys.VALIDATION_LOSS, "validation"))),
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
_COLORS = {"training": "C0", "validation": "C1"}


def history(model: SCGPCL | Mapping[str, pd.DataFrame], *, n_cols: int = 4) -> list[Axes]:
    """Training curves: one panel per loss or stopping criterion, both stages along one axis of epochs.

    Parameters
    ----------
    model
        A trained model, or its `history_`: one table per metric, indexed by epoch.
    n_cols
        Panels per row.

    Returns
    -------
    One axes per metric the history holds, in a new figure. A dashed line marks the epoch with which the clustering
    stage starts, and every further change of stage if training went on.

    Raises
    ------
    ValueError
        If nothing was trained yet, the history holds none of the known metrics, or `n_cols` is below 1.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    if n_cols < 1:
        msg = f"Expected `n_cols` to be at least 1, found {n_cols}."
        raise ValueError(msg)
    tables = _history_of(model)
    panels = [(title, curves) for title, wanted in _PANELS if (curves := _curves(tables, wanted))]
    if not panels:
        msg = f"Expected a training history with at least one loss, found the metrics {sorted(tables)}."
        raise ValueError(msg)

    n_cols = min(n_cols, len(panels))
    n_rows = -(-len(panels) // n_cols)
    figure, grid = plt.subplots(
        n_rows, n_cols, figsize=(3.3 * n_cols, 2.3 * n_rows), sharex=True, squeeze=False, layout="constrained"
    )
    axes = list(grid.flat[: len(panels)])
    for unused in grid.flat[len(panels) :]:
        unused.remove()
    borders = _stage_borders(tables)
    for ax, (title, curves) in zip(axes, panels, strict=True):
        _draw(ax, title, curves, borders=borders)
    for ax in axes[-n_cols:]:
        # Shared axes hide the ticks of a panel that has an empty place below it.
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("epoch")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))  # of all: the axis is shared
    if len(borders) == 1:
        _name_stages(axes[0], borders[0])
    return axes


def _history_of(model: SCGPCL | Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
    tables = getattr(model, "history_", model)
    if not tables:
        msg = "Expected a trained model or its `history_`, found no history. Call `model.train()` first."
        raise ValueError(msg)
    return tables


def _curves(tables: Mapping[str, pd.DataFrame], wanted: tuple[tuple[str, str], ...]) -> dict[str, pd.Series]:
    """The curves of one panel that exist, by legend entry, without epochs that lack a value."""
    found = {label: tables[name].iloc[:, 0].astype(float).dropna() for name, label in wanted if name in tables}
    return {label: curve for label, curve in found.items() if len(curve)}


def _stage_borders(tables: Mapping[str, pd.DataFrame]) -> list[float]:
    """Epochs with which another stage starts, the very first one left out."""
    if _keys.STAGE not in tables:
        return []
    stage = tables[_keys.STAGE].iloc[:, 0].sort_index()
    return stage.index[1:][np.diff(stage.to_numpy()) != 0].astype(float).tolist()


def _draw(ax: Axes, title: str, curves: dict[str, pd.Series], *, borders: list[float]) -> None:
    for label, curve in curves.items():
        curve = curve.sort_index()
        # The loss of the two stages is made of different terms: a line across a border would suggest a jump.
        segments = np.searchsorted(borders, curve.index.to_numpy(dtype=float), side="right")
        for i, (_, part) in enumerate(curve.groupby(segments)):
            # A leading underscore keeps the later parts out of the legend.
            name = label if i == 0 else f"_{label}"
            marker = "." if len(part) < 3 else None
            ax.plot(part.index, part, color=_COLORS[label], lw=1.4, marker=marker, label=name)
    for border in borders:
        # Between the last epoch of one stage and the first of the next.
        ax.axvline(border - 0.5, color="0.4", ls="--", lw=1)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=8)
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _name_stages(ax: Axes, border: float) -> None:
    """Write the two stages along the upper edge of a panel, left and right of the line."""
    for name, side in (("pre-training ", "right"), (" clustering", "left")):
        ax.text(
            border - 0.5, 0.99, name, ha=side, va="top", fontsize=7, color="0.4", transform=ax.get_xaxis_transform()
        )
