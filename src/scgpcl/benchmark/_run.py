"""Plan a benchmark, run what is missing, and collect the results."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scgpcl._files import InputError, check_folder
from scgpcl.benchmark._datasets import Dataset, find_datasets, read_dataset, write_visible
from scgpcl.benchmark._plots import write_figures
from scgpcl.benchmark._process import in_run, prepare, run_job
from scgpcl.benchmark._registry import Source, find_source
from scgpcl.benchmark._results import KEYS, Folder
from scgpcl.benchmark._scores import score
from scgpcl.benchmark._tables import write_summary
from scgpcl.benchmark._worker import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

METHODS = ("scgpcl", "scgpcl-paper", "pca-kmeans", "pca-leiden", "scvi-kmeans")


class Plan(NamedTuple):
    """Validated arguments of a benchmark."""

    datasets: dict[str, Path]
    methods: dict[str, Source]
    seeds: list[int]
    labels: str
    batch_key: str | None
    given: bool
    threads: int
    timeout: float | None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that are shared by all runs in a folder."""
        from scgpcl import __version__

        mode = "known" if self.given else "auto"
        settings = {"labels": self.labels, "n_clusters": mode, "batch_key": self.batch_key}
        return {**settings, "threads": self.threads, "scgpcl": __version__}

    def missing(self, done: set[tuple[str, str, int]]) -> dict[str, list[tuple[str, int]]]:
        """Return the methods and seeds of the remaining runs for each data set."""
        left = {
            name: [(method, seed) for method in self.methods for seed in self.seeds if (name, method, seed) not in done]
            for name in self.datasets
        }
        return {name: runs for name, runs in left.items() if runs}


def run(
    data: str | Path | Sequence[str | Path],
    methods: Sequence[str] = METHODS,
    *,
    out: str | Path,
    labels: str = "cell_type",
    seeds: int | Sequence[int] = 3,
    batch_key: str | None = None,
    n_clusters: Literal["known", "auto"] = "known",
    datasets: Sequence[str] | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    retry_errors: bool = False,
    scib: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Run clustering methods on labelled data sets and score them. The labels are only used for scoring.

    Each run has its own process, which receives the counts, the gene names and, if requested, the batches. If a run
    fails, its error is recorded and the other runs continue. Results are written after each run. If the function is
    called again with the same folder, the benchmark resumes where it stopped.

    Parameters
    ----------
    data
        One or more h5ad files with counts in ``X``, or folders with such files.
    methods
        Names of the methods (see :func:`method_names` and :func:`register`).
    out
        Folder for the results, which is created if missing.
    labels
        Column of ``obs`` with the published types.
    seeds
        Number of seeds, starting from 0, or a list of seeds.
    batch_key
        Column of ``obs`` with the batches, for methods that use them.
    n_clusters
        If ``"known"``, methods are given the number of types. If ``"auto"``, they are given ``None``, and an error is
        recorded for methods that cannot estimate the number.
    datasets
        Names of the data sets to use, which are the file names without ``.h5ad``. If ``None``, all data sets are used.
    threads
        Number of threads per run. If ``None``, all processors are used.
    timeout
        Time in seconds after which a run is stopped and recorded as an error. If ``None``, there is no limit.
    retry_errors
        Whether to repeat runs that failed before.
    scib
        Whether to also score the latent spaces with scib-metrics (``scib.csv``), which is installed by the extra
        ``benchmark``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    All rows of ``results.csv``, including rows from earlier calls. The columns are ``dataset``, ``method``, ``seed``,
    ``n_cells``, ``n_genes``, ``n_types``, ``n_clusters`` (found), ``ari``, ``nmi``, ``acc``, ``macro_f1``,
    ``silhouette`` (of the types in the latent space), ``train_seconds`` (wall time of the method, excluding the time to
    read data and import libraries), ``peak_memory_mb`` (increase in the resident memory of its process while the method
    runs, in units of 1e6 bytes) and ``error`` (one line, empty on success).

    Raises
    ------
    ValueError
        If an argument is invalid, or if the folder contains results with different settings. Nothing is written in that
        case.

    Notes
    -----
    Writes ``results.csv``, ``settings.json``, ``summary.md`` and the figures ``bars.png``, ``box.png`` and
    ``time.png``. The labels and latent space of each run (see :func:`load_run`), or its log if it failed, are written
    to ``runs/``.

    A script must call this function under ``if __name__ == "__main__":``.
    """
    plan = _plan(
        data, methods, seeds, datasets, labels=labels, batch_key=batch_key, n_clusters=n_clusters, threads=threads,
        timeout=timeout,
    )  # fmt: skip
    folder = Folder(Path(out))
    check_folder(folder.path)
    folder.check(plan.settings)
    if scib:
        from scgpcl.benchmark._scores import check_installed

        check_installed()
    folder.open(plan.settings)
    _run_missing(plan, folder, retry_errors=retry_errors, progress=progress)
    table = folder.read()
    write_summary(table, plan.settings, folder.path)
    write_figures(table, folder.path)
    if scib:
        from scgpcl.benchmark._scores import score_all

        score_all(folder, plan.datasets, labels=labels, batch_key=batch_key)
    return table


def _plan(
    data: str | Path | Sequence[str | Path],
    methods: Sequence[str],
    seeds: int | Sequence[int],
    datasets: Sequence[str] | None,
    *,
    labels: str,
    batch_key: str | None,
    n_clusters: str,
    threads: int | None,
    timeout: float | None,
) -> Plan:
    """Validate the arguments of ``run``."""
    if in_run():
        msg = 'Expected a script to call `run` under `if __name__ == "__main__":`, found a call outside of it.'
        raise InputError(msg)
    if n_clusters not in ("known", "auto"):
        msg = f"Expected `n_clusters` to be 'known' or 'auto', found {n_clusters!r}."
        raise InputError(msg)
    if batch_key == labels:
        msg = f"Expected batches in another column than the labels, found {labels!r} for both."
        raise InputError(msg)
    if timeout is not None and not timeout > 0:
        msg = f"Expected a timeout above 0 seconds, found {timeout}."
        raise InputError(msg)
    threads = _n_processors() if threads is None else threads
    if threads < 1:
        msg = f"Expected at least one thread, found {threads}."
        raise InputError(msg)
    if not methods:
        msg = "Expected at least one method, found none."
        raise InputError(msg)
    chosen = {name: find_source(name) for name in methods}
    paths = [Path(path) for path in ([data] if isinstance(data, str | Path) else data)]
    found = find_datasets(paths, datasets)
    return Plan(found, chosen, _seeds(seeds), labels, batch_key, n_clusters == "known", threads, timeout)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds, given either their number or a list."""
    if isinstance(seeds, int):
        if seeds < 1:
            msg = f"Expected at least one seed, found {seeds}."
            raise InputError(msg)
        return list(range(seeds))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        msg = f"Expected one or more different seeds, each 0 or greater, found {list(seeds)}."
        raise InputError(msg)
    return list(seeds)


def _n_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_missing(plan: Plan, folder: Folder, *, retry_errors: bool, progress: bool) -> None:
    """Run everything that is not yet in the folder, with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    table = folder.read()
    finished = table[table["error"] == ""] if retry_errors else table
    left = plan.missing(set(finished[KEYS].itertuples(index=False, name=None)))
    n_left = sum(map(len, left.values()))
    n_all = len(plan.datasets) * len(plan.methods) * len(plan.seeds)
    if n_left < n_all:
        logger.info("%d of %d runs are already done.", n_all - n_left, n_all)
    prepare(source.module for source in plan.methods.values() if source.module)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with (
        tempfile.TemporaryDirectory(prefix="scgpcl-benchmark-") as scratch,
        Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
    ):
        task = bar.add_task("", total=n_all, completed=n_all - n_left)
        for name, runs in left.items():
            _run_dataset(plan, folder, name, runs, Path(scratch), bar, task)


def _run_dataset(
    plan: Plan,
    folder: Folder,
    name: str,
    runs: list[tuple[str, int]],
    scratch: Path,
    bar: Progress,
    task: TaskID,
) -> None:
    """Run all remaining methods and seeds on one data set."""
    visible = scratch / "visible.npz"
    dataset: Dataset | InputError
    try:
        dataset = read_dataset(plan.datasets[name], labels=plan.labels, batch_key=plan.batch_key)
        write_visible(dataset, visible)
    except InputError as error:
        dataset = error
    for method, seed in runs:
        bar.update(task, description=f"{name} / {method} / seed {seed}")
        row: dict[str, Any] = {"dataset": name, "method": method, "seed": seed}
        if isinstance(dataset, InputError):
            row["error"] = f"InputError: {' '.join(str(dataset).split())}"
        else:
            row |= _one_run(plan, folder, dataset, visible, row)
        folder.add(row)
        _log(row)
        bar.advance(task)


def _one_run(plan: Plan, folder: Folder, dataset: Dataset, visible: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Run one method, and return the sizes, scores and cost, or the error."""
    n_cells, n_genes = dataset.counts.shape
    n_types = len(set(dataset.types))
    key = (row["dataset"], row["method"], row["seed"])
    log = folder.run_path(*key, ".log")
    n_clusters = n_types if plan.given else None
    job = Job(plan.methods[key[1]], visible, n_clusters, key[2], plan.batch_key, plan.threads, log)
    outcome = run_job(job, timeout=plan.timeout)
    sizes = {"n_cells": n_cells, "n_genes": n_genes, "n_types": n_types}
    if isinstance(outcome, str):
        return {**sizes, "error": outcome}
    log.unlink(missing_ok=True)
    folder.save_run(*key, outcome)
    cost = {"train_seconds": outcome.seconds, "peak_memory_mb": outcome.peak_memory_mb}
    return {**sizes, **score(dataset.types, outcome), **cost}


def _log(row: dict[str, Any]) -> None:
    name = f"{row['dataset']} / {row['method']} / seed {row['seed']}"
    if row.get("error"):
        logger.info("%s: %s", name, row["error"])
    else:
        logger.info(
            "%s: ARI %.3f, NMI %.3f, ACC %.3f, %.1f s, %.0f MB.",
            name, row["ari"], row["nmi"], row["acc"], row["train_seconds"], row["peak_memory_mb"],
        )  # fmt: skip
