"""The folder of a benchmark: its table, the settings it was made with, and the result of each run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl._files import InputError, replacing

from ._registry import Clustering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._worker import Outcome

KEYS = ["dataset", "method", "seed"]
SIZES = ["n_cells", "n_genes", "n_types"]
SCORES = ["ari", "nmi", "acc", "macro_f1", "silhouette"]
COLUMNS = [*KEYS, *SIZES, "n_clusters", *SCORES, "train_seconds", "peak_memory_mb", "error"]
_WHOLE = [*SIZES, "n_clusters"]
_TEXT = ["dataset", "method", "error"]
_RESULTS = "results.csv"
_SETTINGS = "settings.json"


class Folder:
    """Results on disk, complete after every run.

    Parameters
    ----------
    path
        The folder. It is made by `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def results_path(self) -> Path:
        """The table of runs."""
        return self.path / _RESULTS

    def check(self, settings: Mapping[str, Any]) -> None:
        """Require that earlier results, if any, are of the same settings.

        Raises
        ------
        InputError
            If they are of other ones, or cannot be read.
        """
        if not self.results_path.exists():
            return
        self.read()
        path = self.path / _SETTINGS
        try:
            earlier = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            msg = f"Expected the settings of {self.results_path} in {path}, found none: {error}. Choose another folder."
            raise InputError(msg) from error
        other = [f"{k}={earlier.get(k)!r}, not {v!r}" for k, v in settings.items() if earlier.get(k) != v]
        if other:
            msg = (
                f"Expected {self.results_path} to be of the same settings, found one of {'; '.join(other)}. "
                "Choose another folder, or the same settings."
            )
            raise InputError(msg)

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder and write down the settings."""
        (self.path / "runs").mkdir(parents=True, exist_ok=True)
        with replacing(self.path / _SETTINGS) as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=2) + "\n")

    def read(self) -> pd.DataFrame:
        """The table of runs, in the order they were made.

        Raises
        ------
        InputError
            If the file is not such a table.
        """
        if not self.results_path.exists():
            return _typed(pd.DataFrame(columns=COLUMNS))
        try:
            # A set may be called "NA".
            table = pd.read_csv(
                self.results_path,
                dtype=dict.fromkeys(_TEXT, str),
                keep_default_na=False,
                na_values={name: [""] for name in COLUMNS if name not in _TEXT},
            )
            return _typed(table[COLUMNS])
        except (KeyError, OSError, TypeError, ValueError) as error:
            msg = f"Expected the table of an earlier benchmark in {self.results_path}, found another file: {error}"
            raise InputError(msg) from error

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a run to the table, in place of an earlier one of the same set, method and seed."""
        table = self.read()
        same = np.logical_and.reduce([table[name] == row[name] for name in KEYS])
        new = _typed(pd.DataFrame([row], columns=COLUMNS))
        table = new if same.all() else pd.concat([table[~same], new], ignore_index=True)
        with replacing(self.results_path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")

    def run_path(self, dataset: str, method: str, seed: int, suffix: str) -> Path:
        """File of one run."""
        return self.path / "runs" / f"{dataset}__{method}__{seed}{suffix}"

    def save_run(self, dataset: str, method: str, seed: int, outcome: Outcome) -> None:
        """Keep labels and latent space of a run."""
        parts = {"labels": outcome.labels}
        if outcome.latent is not None:
            parts["latent"] = outcome.latent
        with (
            replacing(self.run_path(dataset, method, seed, ".npz")) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(file, **parts)  # type: ignore[arg-type]


def load_run(out: str | Path, dataset: str, method: str, seed: int) -> Clustering:
    """Labels and latent space of one run, for further analysis.

    Parameters
    ----------
    out
        Folder of the benchmark.
    dataset, method, seed
        Which run, as in `results.csv`.

    Returns
    -------
    `labels`, shape (n_cells,), in the order of the cells in the file of the set, and `latent`, float32 of shape
    (n_cells, n_latent), or `None` if the method has none.

    Raises
    ------
    ValueError
        If the folder has no such run.
    """
    path = Folder(Path(out)).run_path(dataset, method, seed, ".npz")
    if not path.is_file():
        msg = f"Expected the run of {method!r} on {dataset!r} with seed {seed} in {path.parent}, found none."
        raise InputError(msg)
    with np.load(path) as file:
        return Clustering(file["labels"], file["latent"] if "latent" in file else None)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    types = dict.fromkeys(_WHOLE, "Int64") | dict.fromkeys(_TEXT, "str") | {"seed": "int64"}
    types |= {name: "float64" for name in COLUMNS if name not in types}
    return table.astype({"error": object}).fillna({"error": ""}).astype(types)
