"""Summaries of the table of runs: a table with one row per method, and Markdown tables of data sets x methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl._files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BASELINE = "pca-kmeans"
_TITLES = {"ari": "ARI", "nmi": "NMI", "acc": "ACC"}


def by_set(table: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the mean and standard deviation (n - 1) over seeds of successful runs.

    Returns two tables of data sets x methods. Data sets are sorted by name, and methods by their first run. If there is
    only one seed, the standard deviation is NaN.
    """
    good = table[table["error"] == ""]
    groups = good.groupby(["dataset", "method"], sort=True)[column]
    methods = list(dict.fromkeys(good["method"]))
    mean, std = groups.mean().unstack(), groups.std().unstack()
    return mean.reindex(columns=methods), std.reindex(columns=methods)


def method_table(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise each method in one row, over the data sets for which it has a result.

    Columns: ``sets``; ``ari``, ``nmi``, ``acc`` (means over data sets of the means over seeds); ``seed_sd`` (mean over
    data sets of the standard deviation of ARI over seeds); ``wins`` (number of data sets on which no method has a
    higher mean ARI; all ties count); ``worst`` and ``worst_set`` (lowest difference in mean ARI from ``pca-kmeans`` on
    one data set); ``seconds`` and ``memory_mb`` (means over data sets); ``failed`` (number of runs).
    """
    mean, std = by_set(table, "ari")
    result = pd.DataFrame(index=pd.Index(list(dict.fromkeys(table["method"])), name="method"))
    result["sets"] = mean.notna().sum()
    for column in _TITLES:
        result[column] = by_set(table, column)[0].mean()
    result["seed_sd"] = std.mean()
    result["wins"] = mean.eq(mean.max(axis=1), axis=0).sum()
    if BASELINE in mean:
        difference = mean.sub(mean[BASELINE], axis=0).drop(columns=BASELINE).dropna(axis=1, how="all")
        result["worst"] = difference.min()
        result["worst_set"] = difference.idxmin() if len(difference.columns) else np.nan
    result["seconds"] = by_set(table, "train_seconds")[0].mean()
    result["memory_mb"] = by_set(table, "peak_memory_mb")[0].mean()
    result["failed"] = (table["error"] != "").groupby(table["method"]).sum()
    return result.fillna({"sets": 0, "wins": 0}).astype({"sets": int, "wins": int, "failed": int})


def summary(table: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Return Markdown text that contains the settings, followed by the tables of all scores."""
    seeds = ", ".join(map(str, sorted(set(table["seed"]))))
    lines = ["# Benchmark", "", f"Seeds: {seeds}. " + _settings_line(settings)]
    lines += ["", "## Methods", "", *_method_lines(method_table(table))]
    for column, title in _TITLES.items():
        mean, std = by_set(table, column)
        lines += ["", f"## {title}", "", "Mean ± standard deviation over seeds.", "", *_set_lines(mean, std)]
    failed = table[table["error"] != ""]
    if len(failed):
        lines += ["", "## Failed runs", ""]
        lines += [f"- {row.dataset} / {row.method} / seed {row.seed}: {row.error}" for row in failed.itertuples()]
    return "\n".join(lines) + "\n"


def write_summary(table: pd.DataFrame, settings: Mapping[str, Any], folder: Path) -> None:
    """Write ``summary.md``."""
    write_text(summary(table, settings), folder / "summary.md")


def _settings_line(settings: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in settings.items() if value is not None) + "."


def _method_lines(methods: pd.DataFrame) -> list[str]:
    heads = ["method", "sets", "ARI", "NMI", "ACC", "seed sd", "wins"]
    rows = [_method_cells(row) for row in methods.itertuples()]
    heads += [f"worst against {BASELINE}"] if "worst" in methods else []
    return [
        *markdown([*heads, "seconds", "memory, MB", "failed runs"], rows),
        "",
        "Means over the data sets for which the method has a result. Seed sd: mean over data sets of the standard deviation of ARI. "
        "Wins: data sets on which no method has a higher mean ARI. Seconds and memory are per run.",
    ]


def _set_lines(mean: pd.DataFrame, std: pd.DataFrame) -> list[str]:
    """Return a table of one score (data sets x methods), with the best mean of each data set in bold."""
    rows = [
        [
            str(name),
            *(_spread(m, s, m == mean.loc[name].max()) for m, s in zip(mean.loc[name], std.loc[name], strict=True)),
        ]
        for name in mean.index
    ]
    rows.append(["**mean**", *(_mean_of(mean[method]) for method in mean)])
    return markdown(["data set", *map(str, mean.columns)], rows)


def _method_cells(row: Any) -> list[str]:
    """Return the cells of one row of ``method_table``."""
    cells = [str(row.Index), str(row.sets), *(_number(getattr(row, column)) for column in _TITLES)]
    cells += [_number(row.seed_sd), str(row.wins), *([_worst(row)] if hasattr(row, "worst") else [])]
    return [*cells, _number(row.seconds, 1), _number(row.memory_mb, 0), str(row.failed)]


def _mean_of(values: pd.Series) -> str:
    """Return the mean over data sets, with their number if the method has no result for some of them."""
    known = int(values.notna().sum())
    return (
        _number(values.mean()) if known in (0, len(values)) else f"{values.mean():.3f} ({known} of {len(values)} sets)"
    )


def _worst(row: Any) -> str:
    return "" if pd.isna(row.worst) else f"{row.worst:+.3f} ({row.worst_set})"


def _number(value: float, digits: int = 3) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _spread(mean: float, std: float, best: bool) -> str:
    if np.isnan(mean):
        return ""
    text = _number(mean) if np.isnan(std) else f"{mean:.3f} ± {std:.3f}"
    return f"**{text}**" if best else text


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table in which the first column is left-aligned."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    # a vertical bar would end the cell
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [heads, rule, *rows]]
