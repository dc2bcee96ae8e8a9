"""Folder of a benchmark, with its table, its settings and the result of each run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl._files import InputError, replacing
from scgpcl.benchmark._registry import Clustering

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scgpcl.benchmark._worker import Outcome

KEYS = ["dataset", "method", "seed"]
SIZES = ["n_cells", "n_genes", "n_types"]
SCORES = ["ari", "nmi", "acc", "macro_f1", "silhouette"]
COLUMNS = [*KEYS, *SIZES, "n_clusters", *SCORES, "train_seconds", "peak_memory_mb", "error"]
_WHOLE = [*SIZES, "n_clusters"]
_TEXT = ["dataset", "method", "error"]
_SETTINGS = "settings.json"


class Table:
    """CSV file that is complete after each addition, so that an interrupted study resumes where it stopped.

    ``keys`` are the columns that identify a task. All rows of a task are added together. Columns in ``text`` have no
    missing values. Columns in ``whole`` and the other keys are whole numbers, and all remaining columns are float64.
    """

    def __init__(
        self, path: Path, keys: Sequence[str], columns: Sequence[str], *, text: Iterable[str], whole: Iterable[str] = ()
    ) -> None:
        self.path, self.keys, self.columns, self.text = path, list(keys), list(columns), set(text)
        self.types = dict.fromkeys(columns, "float64") | dict.fromkeys(keys, "int64")
        self.types |= dict.fromkeys(whole, "Int64") | dict.fromkeys(self.text, "str")

    def read(self) -> pd.DataFrame:
        """Read all rows in the order in which they were added. Any other file is rejected."""
        if not self.path.exists():
            return self._typed(pd.DataFrame(columns=self.columns))
        try:
            # a data set may be called "NA"
            table = pd.read_csv(
                self.path,
                dtype=dict.fromkeys(self.text, str),
                keep_default_na=False,
                na_values={name: [""] for name in self.columns if name not in self.text},
            )
            return self._typed(table[self.columns])
        except (KeyError, OSError, TypeError, ValueError) as error:
            msg = f"Expected the table of an earlier benchmark in {self.path}, found another file: {error}"
            raise InputError(msg) from error

    def done(self) -> set[tuple[Any, ...]]:
        """Return the keys of all tasks that have rows."""
        return set(self.read()[self.keys].itertuples(index=False, name=None))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of one task, replacing its earlier rows."""
        table = self.read()
        same = np.logical_and.reduce([table[name] == rows[0][name] for name in self.keys])
        new = self._typed(pd.DataFrame(list(rows), columns=self.columns))
        table = new if same.all() else pd.concat([table[~same], new], ignore_index=True)
        with replacing(self.path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")

    def _typed(self, table: pd.DataFrame) -> pd.DataFrame:
        """Convert each column to its type. Missing text becomes an empty string."""
        text = table[list(self.text)].astype(object)
        return table.assign(**text.where(text.notna(), "")).astype(self.types)


class Folder:
    """Results on disk, which are complete after each run. ``path`` is created by ``open``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = Table(path / "results.csv", KEYS, COLUMNS, text=_TEXT, whole=_WHOLE)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that earlier results, if any, have the same settings."""
        results = self.table.path
        if not results.exists():
            return
        self.read()
        path = self.path / _SETTINGS
        try:
            earlier = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            msg = f"Expected the settings of {results} in {path}, found none: {error}. Choose another folder."
            raise InputError(msg) from error
        other = [f"{k}={earlier.get(k)!r}, not {v!r}" for k, v in settings.items() if earlier.get(k) != v]
        if other:
            msg = (
                f"Expected {results} to have the same settings, found {'; '.join(other)}. "
                "Choose another folder, or the same settings."
            )
            raise InputError(msg)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Create the folder and write the settings."""
        (self.path / "runs").mkdir(parents=True, exist_ok=True)
        with replacing(self.path / _SETTINGS) as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=2) + "\n")

    def read(self) -> pd.DataFrame:
        """Read the table of runs in the order in which they finished. Any other file is rejected."""
        return self.table.read()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a run to the table, replacing any earlier run with the same data set, method and seed."""
        self.table.add([row])

    def run_path(self, dataset: str, method: str, seed: int, suffix: str) -> Path:
        """Return the path of the file for one run."""
        return self.path / "runs" / f"{dataset}__{method}__{seed}{suffix}"

    def save_run(self, dataset: str, method: str, seed: int, outcome: Outcome) -> None:
        """Write the labels and the latent space of a run."""
        parts = {"labels": outcome.labels}
        if outcome.latent is not None:
            parts["latent"] = outcome.latent
        with (
            replacing(self.run_path(dataset, method, seed, ".npz")) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(file, **parts)  # type: ignore[arg-type]


def load_run(out: str | Path, dataset: str, method: str, seed: int) -> Clustering:
    """Load the labels and latent space of one run for further analysis.

    Parameters
    ----------
    out
        Folder of the benchmark.
    dataset, method, seed
        Data set, method and seed of the run, as in ``results.csv``.

    Returns
    -------
    ``labels`` of shape (n_cells,), in the order of the cells in the data set's file, and ``latent`` of type float32 and
    shape (n_cells, n_latent), which is ``None`` if the method has no latent space.

    Raises
    ------
    ValueError
        If the folder does not contain the run.
    """
    path = Folder(Path(out)).run_path(dataset, method, seed, ".npz")
    if not path.is_file():
        msg = f"Expected the run of {method!r} on {dataset!r} with seed {seed} in {path.parent}, found none."
        raise InputError(msg)
    with np.load(path) as file:
        return Clustering(file["labels"], file["latent"] if "latent" in file else None)
