"""Data sets by name."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

import anndata as ad
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from ._bundled import pbmc3k, worm_neurons
from ._download import cache_folder, fetch, record
from ._readers import ReadError
from ._sources import SOURCES, Source

if TYPE_CHECKING:
    import os

    from ._readers import Table

_BUNDLED = {"pbmc3k": pbmc3k, "worm_neurons": worm_neurons}


def available() -> pd.DataFrame:
    """Data sets that `load` knows.

    Returns
    -------
    Indexed by name. `n_cells`, `n_genes` and `n_types` are published numbers (`n_genes` is missing where no source says
    how many genes have a count); `bundled` sets come with the package, others are downloaded; `in_paper` marks the nine
    sets of Lee et al. (2023); `accession`, `paper` and `protocol` say where the counts come from, `remarks` what to know.
    """
    rows: dict[str, tuple[object, ...]] = {
        "pbmc3k": (2638, 13713, 9, True, False, "10x Genomics", "labels: tutorial of Seurat", "10x v1", ""),
        "worm_neurons": (
            4186, 13488, 10, True, True, "GSE98561", "Cao et al., Science 357, 661 (2017)", "sci-RNA-seq",
            "codes in place of names",
        ),
    }  # fmt: skip
    for name, s in SOURCES.items():
        rows[name] = (
            s.n_cells, s.n_genes, s.n_types, False, s.in_paper, s.accession, s.paper, s.protocol, s.remarks
        )  # fmt: skip
    columns = "n_cells n_genes n_types bundled in_paper accession paper protocol remarks".split()
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.astype({"n_genes": "Int64"})


def load(name: str, *, cache_dir: str | os.PathLike[str] | None = None) -> ad.AnnData:
    """Load a labelled data set, and download it at the first call.

    Addresses and file formats were taken from the papers' own instructions and from public scripts that read the same
    files. They were not tried against the servers when this was written, and no checksum was known: the checksum of each
    file is recorded at its first download, and later files are compared with it. If the numbers of cells, genes or types are
    not the published ones, a warning says so.

    Parameters
    ----------
    name
        One of the names in `available`.
    cache_dir
        Folder for downloads. `None` takes that of the environment variable `SCGPCL_CACHE`, else the cache folder of the
        system for `scgpcl`. A file that is put there under its name is used and not downloaded.

    Returns
    -------
    AnnData of all labelled cells and all genes that have a count.

    `.X`
        Counts (for `"camp"` log2 values), CSR float32.
    `.layers["counts"]`
        A copy of the counts; not for `"camp"`.
    `.obs["cell_type"]`
        Published types (categorical).
    `.obs["batch"]`
        Individual, library or sample, where known (categorical).
    `.uns["source"]`
        Origin of the data.

    Raises
    ------
    TypeError
        If `name` or `cache_dir` is of another type.
    ValueError
        If there is no such set, or a file has another content than expected.
    DownloadError
        If a file cannot be downloaded, is not the one that was downloaded first, or cannot be stored.

    Examples
    --------
    >>> adata = scgpcl.datasets.load("baron_human")  # doctest: +SKIP
    >>> adata.obs["batch"].cat.categories.tolist()  # doctest: +SKIP
    ['human1', 'human2', 'human3', 'human4']
    >>> scgpcl.datasets.available().query("in_paper").shape[0]
    9
    """
    if not isinstance(cast("object", name), str):
        msg = f"Expected `name` to be one name, found {name!r}. Load the sets of `scgpcl.datasets.available()` one by one."
        raise TypeError(msg)
    if name in _BUNDLED:
        return _BUNDLED[name]()
    if name not in SOURCES:
        msg = f"Expected one of {[*_BUNDLED, *SOURCES]}, found {name!r}. See `scgpcl.datasets.available()`."
        raise ValueError(msg)
    source = SOURCES[name]
    folder = cache_folder(cache_dir)
    paths = {argument: fetch(file, folder) for argument, file in source.files.items()}
    try:
        table = source.reader(**paths)
    except ReadError as error:
        found = ", ".join(str(path) for path in paths.values())
        msg = (
            f"Expected the published format of {name!r} in {found}, found: {error}. Remove damaged files and try again."
        )
        raise ValueError(msg) from error
    adata = _annotated(name, source, table)
    for argument, file in source.files.items():
        record(file, paths[argument])
    return adata


def _annotated(name: str, source: Source, table: Table) -> ad.AnnData:
    values = table.values
    values.eliminate_zeros()
    values.sort_indices()
    if source.counts and ((values.data < 0).any() or (values.data != np.round(values.data)).any()):
        msg = f"Expected whole counts in the files of {name!r}, found other numbers."
        raise ValueError(msg)
    seen = values.getnnz(0) > 0
    genes = make_index_unique(pd.Index(table.genes[seen].astype(str)))
    obs = table.obs.set_axis(make_index_unique(table.obs.index.astype(str)))
    adata = ad.AnnData(values[:, seen], obs=obs, var=pd.DataFrame(index=genes))
    for column in adata.obs:
        adata.obs[column] = adata.obs[column].astype("category")
    if source.counts:
        adata.layers["counts"] = adata.X.copy()
    adata.uns["source"] = {
        "accession": source.accession,
        "paper": source.paper,
        "protocol": source.protocol,
        "remarks": source.remarks,
        "urls": [file.url for file in source.files.values()],
    }
    _check_sizes(name, source, adata)
    return adata


def _check_sizes(name: str, source: Source, adata: ad.AnnData) -> None:
    expected = {"cells": source.n_cells, "genes": source.n_genes, "types": source.n_types}
    found = {"cells": adata.n_obs, "genes": adata.n_vars, "types": adata.obs["cell_type"].nunique()}
    wrong = [f"{found[what]} {what} in place of {n}" for what, n in expected.items() if n not in (None, found[what])]
    if wrong:
        msg = f"Expected the published size of {name!r}, found {', '.join(wrong)}. Results cannot be compared with the paper."
        warnings.warn(msg, UserWarning, stacklevel=4)
