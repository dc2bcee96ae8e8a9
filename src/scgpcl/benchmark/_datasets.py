"""Find and read labelled data sets, and hide their labels from the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from scgpcl._files import InputError, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd


class Dataset(NamedTuple):
    """Data set with the types, which only the scorer sees, and everything that methods see.

    The counts are a CSR matrix of type float32 (n_cells, n_genes). The gene names (n_genes,), the batches and the types
    (both (n_cells,)) are text. The batches may be ``None``.
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    batch: np.ndarray | None
    types: np.ndarray


def find_datasets(data: Iterable[Path], wanted: Sequence[str] | None) -> dict[str, Path]:
    """Find the files of all data sets in files and folders, by name (the file name without ``.h5ad``).

    If ``wanted`` is given, only the data sets with these names are returned.
    """
    files: list[Path] = []
    for path in data:
        if not path.exists():
            msg = f"Expected an h5ad file or a folder, found nothing at {path}. Check the path."
            raise InputError(msg)
        files += sorted(path.glob("*.h5ad")) if path.is_dir() else [path]
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found and not path.samefile(found[path.stem]):
            msg = f"Expected a different name for each data set, found {found[path.stem]} and {path}. Rename one."
            raise InputError(msg)
        found.setdefault(path.stem, path)
    if not found:
        msg = f"Expected at least one file that ends in .h5ad, found none in {', '.join(map(str, data)) or 'no path'}."
        raise InputError(msg)
    unknown = [name for name in wanted or () if name not in found]
    if unknown:
        msg = f"Expected data sets among {', '.join(found)}, found {', '.join(unknown)}."
        raise InputError(msg)
    return found if wanted is None else {name: found[name] for name in wanted}


def read_dataset(path: Path, *, labels: str, batch_key: str | None) -> Dataset:
    """Read the counts (from ``X``), types and batches (columns of ``obs`` without missing values) of a data set."""
    adata = read(path)
    if adata.X is None:
        msg = f"Expected counts in `X` of {path}, found none."
        raise InputError(msg)
    types = _column(adata.obs, labels, "labels")
    if len(np.unique(types)) < 2:
        msg = f"Expected at least two types in `obs[{labels!r}]`, found one."
        raise InputError(msg)
    batch = None if batch_key is None else _column(adata.obs, batch_key, "batches")
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    return Dataset(counts, adata.var_names.to_numpy(dtype=str), batch, types)


def _column(obs: pd.DataFrame, key: str, what: str) -> np.ndarray:
    """Return a column of ``obs`` as text, shape (n_cells,).

    An error is raised if the column does not exist or has missing values.
    """
    if key not in obs:
        msg = f"Expected {what} in `obs[{key!r}]`, found the columns {list(map(str, obs.columns))}."
        raise InputError(msg)
    n_missing = int(obs[key].isna().sum())
    if n_missing:
        msg = f"Expected every cell to have an entry in `obs[{key!r}]`, found {n_missing} without. Remove these cells first."
        raise InputError(msg)
    return obs[key].to_numpy(dtype=str)


def write_visible(dataset: Dataset, path: Path) -> None:
    """Write the part of a data set that methods may see, for the processes in which they run."""
    x = dataset.counts
    parts = {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": x.shape, "genes": dataset.genes}
    if dataset.batch is not None:
        parts["batch"] = dataset.batch
    np.savez(path, **parts)
