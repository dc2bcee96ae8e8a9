"""Figures of a benchmark: scores for each data set, scores over all data sets, and time against ARI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgpcl._files import writing
from scgpcl.benchmark._tables import by_set

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

#: Colours of Okabe and Ito, which most colour-blind readers can distinguish. Further methods are grey.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
_SCORES = {"ari": "ARI", "nmi": "NMI", "acc": "ACC"}
_GRID: dict[str, Any] = {"color": "0.9", "lw": 0.8, "zorder": 0}


def write_figures(table: pd.DataFrame, folder: Path) -> None:
    """Write ``bars.png``, ``box.png`` and ``time.png``, or nothing if no run succeeded."""
    if not (table["error"] == "").any():
        return
    for name, figure in (("bars", draw_bars(table)), ("box", draw_box(table)), ("time", draw_time(table))):
        with writing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def draw_bars(table: pd.DataFrame) -> Figure:
    """Draw the mean ARI for each data set, with one bar per method and the standard deviation over seeds.

    Missing results have no bar.
    """
    mean, std = by_set(table, "ari")
    n_sets, n_methods = mean.shape
    figure = _figure(max(5.0, 1.5 + n_sets * (0.35 + 0.17 * n_methods)), 4.8)
    ax = figure.subplots()
    width = 0.84 / n_methods
    for i, (method, color) in enumerate(_colors(mean).items()):
        here = mean[method].notna().to_numpy()
        x = np.arange(n_sets)[here] + (i - (n_methods - 1) / 2) * width
        ax.bar(x, mean.loc[here, method], width * 0.92, color=color, label=method, zorder=2)
        known = std.loc[here, method].notna().to_numpy()
        ax.errorbar(
            x[known], mean.loc[here, method][known], std.loc[here, method][known], fmt="none", ecolor="0.25",
            elinewidth=0.9, capsize=min(2.0, 12 * width), zorder=3,
        )  # fmt: skip
    long_names = max(len(str(name)) for name in mean.index) > 8
    ax.set_xticks(
        range(n_sets), [str(name) for name in mean.index], rotation=30 if long_names else 0,
        ha="right" if long_names else "center", rotation_mode="anchor",
    )  # fmt: skip
    ax.set(ylabel="ARI (mean ± sd over seeds)", xlim=(-0.6, n_sets - 0.4), ylim=(min(0, ax.get_ylim()[0]), 1.02))
    ax.yaxis.grid(**_GRID)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(n_methods, 6), frameon=False)
    return figure


def draw_box(table: pd.DataFrame) -> Figure:
    """Draw the distribution of mean ARI, NMI and ACC over data sets: one box per method, one point per data set."""
    methods = list(by_set(table, "ari")[0])
    figure = _figure(1.5 + 3 * max(1.6, 0.62 * len(methods)), 4.2)
    axes = figure.subplots(1, len(_SCORES), sharey=True, squeeze=False)[0]
    for ax, (column, title) in zip(axes, _SCORES.items(), strict=True):
        mean = by_set(table, column)[0]
        shift = np.linspace(-0.16, 0.16, len(mean)) if len(mean) > 1 else np.zeros(1)
        for i, (method, color) in enumerate(_colors(mean).items()):
            values = mean[method]
            box = ax.boxplot(
                [values.dropna()], positions=[i], widths=0.62, showfliers=False, patch_artist=True,
                medianprops={"color": "0.1"}, whiskerprops={"color": color}, capprops={"color": color},
            )  # fmt: skip
            box["boxes"][0].set(facecolor=(color, 0.3), edgecolor=color)
            ax.scatter(i + shift, values, s=14, color=color, lw=0, zorder=3)
        ax.set_xticks(range(len(methods)), methods, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_title(f"{title} over sets", fontsize=10)
        ax.yaxis.grid(**_GRID)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean over seeds")
    return figure


def draw_time(table: pd.DataFrame) -> Figure:
    """Draw the time in seconds against the ARI.

    Small points represent each data set and method, and large points represent the mean of a method.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ari, seconds = by_set(table, "ari")[0], by_set(table, "train_seconds")[0].clip(lower=1e-3)
    figure = _figure(6.2, 4.2)
    ax = figure.subplots()
    for method, color in _colors(ari).items():
        ax.scatter(seconds[method], ari[method], s=22, color=color, alpha=0.45, lw=0, zorder=2)
        ax.scatter(
            [seconds[method].mean()], [ari[method].mean()], s=120, marker="D", color=color, edgecolor="white", lw=1.2,
            label=method, zorder=3,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="seconds to train (points: data sets, diamonds: means)", ylabel="ARI (mean over seeds)")
    ax.grid(**_GRID)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    # created without pyplot, so there is nothing to close and no display is needed
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _colors(mean: pd.DataFrame) -> Mapping[str, str]:
    """Return the colour of each method, which depends on its position."""
    return {str(m): _PALETTE[i] if i < len(_PALETTE) else "0.6" for i, m in enumerate(mean.columns)}
