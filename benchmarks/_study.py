"""What the studies have in common: the labelled data sets and their families, the command line, and a table that can be resumed."""

import argparse
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from scgpcl.benchmark._results import Table
from scgpcl.metrics._partitions import contingency

REAL = (
    "baron_mouse_pancreas", "human_kidney_young_top2000", "mouse_bladder_2100", "pbmc3k", "pbmc4k_top2000",
    "tian_celseq2_5cl", "tm_kidney_smartseq2", "worm_neuron", "zheng_sorted_2140", "zilionis_mouse_lung_800",
)  # fmt: skip
SORTED = ("zheng_facs8_785", "zheng_facs8_2410", "zheng_facs8_3869", "zheng_facs8_4292")
#: Sets of one tissue or of the same cells: a choice made on some of them is not new to the others.
FAMILIES = {
    "blood": ("pbmc3k", "pbmc4k_top2000", "zheng_sorted_2140", *SORTED),
    "pancreas": ("baron_mouse_pancreas",),
    "bladder": ("mouse_bladder_2100",),
    "kidney": ("human_kidney_young_top2000", "tm_kidney_smartseq2"),
    "neurons": ("worm_neuron",),
    "cell lines": ("tian_celseq2_5cl",),
    "lung": ("zilionis_mouse_lung_800",),
}


def parser_of(doc: str | None, *, datasets: Sequence[str] = REAL, seeds: Sequence[int] = (0, 1, 2)) -> Any:
    """Parser with the folder of the data sets, their names, seeds and threads."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with h5ad files: counts in X, types in obs['cell_type']")
    parser.add_argument("--datasets", nargs="+", default=list(datasets), help="file names without .h5ad")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--threads", type=int, default=1)
    return parser


def best_f1(types: Any, clusters: Any) -> float:
    """F1 of the best cluster for each type, averaged over types."""
    table = contingency(types, clusters).table
    return float((2 * table / (table.sum(1, keepdims=True) + table.sum(0, keepdims=True))).max(1).mean())


def run_study(
    arguments: argparse.Namespace,
    tasks: Iterable[tuple[Any, ...]],
    run: Callable[..., list[dict[str, Any]]],
    *,
    keys: Sequence[str],
    columns: Sequence[str],
    text: Sequence[str],
    failure: str | None = None,
) -> pd.DataFrame:
    """Run all tasks that have no rows in ``arguments.out`` yet; returns all rows.

    A task is a tuple of the values of ``keys``, which is passed to ``run``; only the last part of a path is stored. Errors are
    raised, or recorded in the column ``failure``, so that one failing data set does not end a long study.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    table = Table(arguments.out, keys, columns, text=text)
    done = table.done()
    for task in tasks:
        key = tuple(part.rsplit("/", 1)[-1] if isinstance(part, str) else part for part in task)
        if key in done:
            continue
        row = dict(zip(keys, key, strict=True))
        try:
            rows = run(*task)
        except Exception as error:
            if failure is None:
                raise
            rows = [{failure: f"{type(error).__name__}: {' '.join(str(error).split())}"}]
        table.add([row | found for found in rows])
    return table.read()


def run_on_sets(
    arguments: argparse.Namespace,
    run: Callable[[Path, int], list[dict[str, Any]]],
    *,
    columns: Sequence[str],
    text: Sequence[str] = ("dataset",),
    failure: str | None = None,
) -> pd.DataFrame:
    """:func:`run_study` of ``run(path, seed)`` for each seed and data set that the command line names."""
    return run_study(
        arguments,
        ((name, seed) for seed in arguments.seeds for name in arguments.datasets),
        lambda name, seed: run(arguments.data / f"{name}.h5ad", seed),
        keys=("dataset", "seed"),
        columns=columns,
        text=text,
        failure=failure,
    )
