"""Read count matrices in common file formats, and find the counts in them."""

from __future__ import annotations

import csv
import logging
import re
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scgpcl._files import InputError, is_zarr, read_on_disk
from scgpcl._files import read as read_h5ad

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Description of the supported formats for messages.
FORMATS = "an h5ad, zarr, loom, 10x .h5, csv or tsv file, or a folder with matrix.mtx"
#: Layer that is checked first, and layer that the values of ``X`` are moved to if counts replace them.
COUNTS, FORMER = "counts", "X"
#: Column of ``obs`` with the file that each cell comes from.
BATCH = "batch"
#: Number of rows of a matrix to check.
SAMPLED_ROWS = 1000
#: Number of rows of a table to read at a time.
TABLE_ROWS = 500
#: Names of Cell Ranger files, and of its folders, that do not identify a sample.
CELL_RANGER_FILE = re.compile(r"(sample_)?(filtered|raw)_(feature|gene)_bc_matri(x|ces)(_h5)?", re.IGNORECASE)
CELL_RANGER = re.compile(rf"outs|{CELL_RANGER_FILE.pattern}|count|GRCh38|hg19|mm10", re.IGNORECASE)
#: Endings that are not part of the name of a sample.
ENDING = re.compile(r"\.(h5ad|zarr|loom|h5|hdf5|(csv|tsv|tab|txt)(\.gz|\.bz2|\.xz)?)$", re.IGNORECASE)
TABLE = re.compile(r"\.(csv|tsv|tab|txt)(\.gz|\.bz2|\.xz)?$", re.IGNORECASE)
MATRIX = re.compile(r"^(.*)matrix\.mtx(\.gz)?$")
#: Names that identify genes: accessions, mitochondrial and ribosomal genes, and a few genes found in most cells.
GENE = re.compile(
    r"(ENS[A-Z]*G\d{6,}.*|FBGN\d{7}|WBGENE\d{8}|MT-[A-Z0-9]+|RP[LS]\d+[AXYL]?\d*"
    r"|ACTB|GAPDH|B2M|MALAT1|TMSB4X|EEF1A1|FTL1?|FTH1|UBC|TPT1|HSPA8|CD74|VIM)",
    re.IGNORECASE,
)
BARCODE = re.compile(r"(.*[^A-Za-z])?[ACGT]{8,}([^A-Za-z].*)?")


def read(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    layer: str | None = None,
    raw: bool = False,
    genes: Literal["rows", "columns"] | None = None,
) -> AnnData:
    """Read counts from a file or folder in any common format, and store them in ``X``.

    Supported formats are h5ad, zarr, loom, Cell Ranger HDF5 files and ``matrix.mtx`` folders (version 2 or 3,
    compressed or not), and csv or tsv tables. If a Cell Ranger file says which features are genes, the others are not
    read. Duplicate names of genes or cells are made unique by appending a number.

    Parameters
    ----------
    path
        File or folder. If there are several inputs, or if a folder contains several samples, they are joined on their
        common genes, and ``obs["batch"]`` contains the sample of each cell, or ``obs["sample"]`` if files already have a
        column ``"batch"``.
    layer
        Layer with the counts.
    raw
        Whether to take the counts from ``raw``.
    genes
        Whether the genes of a table are in its ``"rows"`` or its ``"columns"``. If ``None``, this is inferred from the
        names.

    Returns
    -------
    The cells. If neither ``layer`` nor ``raw`` is given, the counts are taken from the first of ``layers["counts"]``,
    ``X`` and ``raw`` that contains non-negative whole numbers, and the choice is logged at level INFO. If ``X``
    contained other values, they are moved to ``layers["X"]``, or dropped if ``raw`` has different genes.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged, has an unsupported format or contains no counts, if it is unclear where its genes are,
        or if ``path`` is an empty list.

    Examples
    --------
    >>> adata = scgpcl.read("filtered_feature_bc_matrix")  # doctest: +SKIP
    >>> adata = scgpcl.read(["patient1.h5", "patient2.h5"])  # doctest: +SKIP
    """
    paths = [Path(path)] if isinstance(path, str | Path) or hasattr(path, "__fspath__") else [Path(one) for one in path]
    if not paths:
        msg = f"Expected {FORMATS}, found an empty list. Pass at least one path."
        raise ValueError(msg)
    for one in paths:
        if not one.exists():
            msg = f"Expected {FORMATS}, found nothing at {one}. Check the path."
            raise FileNotFoundError(msg)
    return with_counts_in_x(read_files(paths, layer=layer, raw=raw, genes=genes).counts)


class Found(NamedTuple):
    """Cells of a file, the location of their counts, and the name of their sample.

    Joined samples have no ``name``, but a column of ``obs`` that identifies them, ``batch_key``.
    """

    adata: AnnData
    counts: Counts
    batch_key: str | None
    name: str | None


def read_files(
    paths: Sequence[Path],
    *,
    layer: str | None = None,
    raw: bool = False,
    genes: Literal["rows", "columns"] | None = None,
) -> Found:
    """Read existing files or folders, make names unique, and join the counts if there are several inputs.

    Raises
    ------
    InputError
        If an input cannot be read or contains no counts, or if the inputs have no genes in common.
    """
    import anndata as ad

    parts: dict[str, AnnData] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* names are not unique")  # they are made unique here
        for path in paths:
            for name, adata in _samples(path, genes=genes):
                unique = name if name not in parts else f"{name} ({len(parts) + 1})"
                parts[unique] = _with_unique_names(adata, name)
    if len(parts) == 1:
        name, adata = next(iter(parts.items()))
        counts = find_counts(adata, layer=layer, raw=raw)
        logger.info("Read %d cells and %d genes. %s", adata.n_obs, counts.adata.n_vars, counts.said)
        return Found(adata, counts, None, name)
    for name, part in parts.items():
        counts = find_counts(part, layer=layer, raw=raw)
        logger.info("Read %d cells and %d genes of %s. %s", part.n_obs, counts.adata.n_vars, name, counts.said)
        part = with_counts_in_x(counts)
        parts[name] = ad.AnnData(part.X, obs=part.obs, var=part.var)
    label = next(
        (name for name in (BATCH, "sample", "file") if not any(name in part.obs for part in parts.values())), None
    )
    if label is None:
        msg = "Expected files without one of the columns 'batch', 'sample' and 'file', found all three. Rename one of them."
        raise InputError(msg)
    adata = ad.concat(parts, label=label, index_unique="-", merge="same")
    if adata.n_vars == 0:
        msg = f"Expected samples that share genes, found no gene that occurs in all of {', '.join(parts)}. Check their names."
        raise InputError(msg)
    logger.info("Joined %d samples on %d genes; obs[%r] names the sample.", len(parts), adata.n_vars, label)
    return Found(adata, Counts(adata, None, ""), label, None)


def read_large(path: Path) -> Found | None:
    """Return the cells of a file or zarr store with many counts in ``X``, which stay on disk, or None for any other."""
    adata = read_on_disk(path)
    if adata is None:
        return None
    counts = find_counts(_with_unique_names(adata, path.name))
    if counts.layer is not None or counts.adata is not adata:
        if adata.isbacked:
            adata.file.close()
        return None
    logger.info("Left %d cells and %d genes on disk. %s", adata.n_obs, adata.n_vars, counts.said)
    return Found(adata, counts, None, _name(path.parent, ENDING.sub("", path.name)))


def with_counts_in_x(found: Counts) -> AnnData:
    """Move the counts to ``X``, and the previous ``X`` to ``layers["X"]``."""
    adata = found.adata
    if found.layer is not None:
        counts = adata.layers.pop(found.layer)
        if adata.X is not None:
            adata.layers[FORMER] = adata.X
        adata.X = counts
    return adata


def _samples(path: Path, *, genes: Literal["rows", "columns"] | None) -> Iterable[tuple[str, AnnData]]:
    """Yield the name and the cells of each sample in a file or folder."""
    if path.is_file() and (match := MATRIX.match(path.name)):
        yield _name(path.parent, match[1]), _read_mtx(path)
    elif path.is_file():
        yield _name(path.parent, ENDING.sub("", path.name)), _read_file(path, genes=genes)
    elif is_zarr(path):
        yield _name(path.parent, ENDING.sub("", path.name)), _read_zarr(path)
    else:
        files = sorted(file for file in path.glob("**/*matrix.mtx*") if MATRIX.match(file.name))
        # Cell Ranger's folder for a whole run contains the unfiltered matrix beside the filtered one
        files = [file for file in files if "raw" not in file.parent.name.lower()] or files
        if not files:
            msg = f"Expected {FORMATS}, found a folder without any at {path}."
            raise InputError(msg)
        for file in files:
            match = MATRIX.match(file.name)
            assert match is not None
            yield _name(file.parent, match[1]), _read_mtx(file)


def _name(folder: Path, prefix: str) -> str:
    """Return the name of a sample: that of its file or, if Cell Ranger chose it, the innermost folder's of another name."""
    prefix = prefix.strip("_.-")
    if prefix and not CELL_RANGER_FILE.fullmatch(prefix):
        return prefix
    names = [part for part in reversed(folder.resolve().parts) if not CELL_RANGER.fullmatch(part)]
    return names[0] if names else folder.name


def _read_file(path: Path, *, genes: Literal["rows", "columns"] | None) -> AnnData:
    suffix = "".join(path.suffixes[-1:]).lower()
    if suffix == ".h5ad":
        return read_h5ad(path)
    if suffix == ".loom":
        return _read_loom(path)
    if suffix in (".h5", ".hdf5"):
        return _read_h5(path)
    if TABLE.search(path.name):
        return _read_table(path, genes=genes)
    if suffix in (".rds", ".rdata", ".rda", ".h5seurat"):
        msg = (
            f"Expected {FORMATS}, found a file of R at {path}. Write an h5ad file in R first: "
            "zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(object), 'counts.h5ad')."
        )
        raise InputError(msg)
    msg = f"Expected {FORMATS}, found {path}, which ends in {suffix or 'nothing'}."
    raise InputError(msg)


@contextmanager
def _reading(what: str, path: Path) -> Iterator[None]:
    """Convert any error that a reader raises for a damaged or unsupported file to a single error type."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        msg = f"Expected {what}, found another or a damaged one at {path}: {error}"
        raise InputError(msg) from error


def _read_zarr(path: Path) -> AnnData:
    import anndata as ad

    with _reading("a zarr store of an AnnData", path):
        return ad.read_zarr(path)


def _read_loom(path: Path) -> AnnData:
    import anndata as ad

    if find_spec("loompy") is None:
        msg = f"Expected the package loompy to read {path}, found none. Install it: pip install 'scgpcl[loom]'."
        raise InputError(msg)
    with _reading("a loom file", path):
        return ad.io.read_loom(path, X_name="")


def _read_h5(path: Path) -> AnnData:
    import h5py
    import scanpy as sc

    with _reading("a 10x .h5 file", path):
        with h5py.File(path) as file:
            is_anndata = "obs" in file and "var" in file
        return read_h5ad(path) if is_anndata else _only_genes(sc.read_10x_h5(path, gex_only=False))


def _read_mtx(path: Path) -> AnnData:
    """Read a matrix from Cell Ranger 2 (genes.tsv) or 3 (features.tsv). Each file may be compressed."""
    import anndata as ad
    import pandas as pd

    match = MATRIX.match(path.name)
    assert match is not None

    def beside(*names: str) -> Path:
        places = [path.with_name(f"{match[1]}{name}.tsv{end}") for name in names for end in ("", ".gz")]
        there = [place for place in places if place.exists()]
        if not there:
            msg = f"Expected {' or '.join(names)}.tsv beside {path}, found none. Copy the whole folder."
            raise InputError(msg)
        return there[0]

    features, barcodes = beside("features", "genes"), beside("barcodes")
    with _reading("a matrix with its genes and barcodes", path):
        adata = ad.io.read_mtx(path).T
        table = pd.read_csv(features, header=None, sep="\t", dtype=str, keep_default_na=False)
        cells = pd.read_csv(barcodes, header=None, sep="\t", dtype=str, keep_default_na=False)[0]
        adata.obs_names = cells.to_numpy()
        adata.var_names = table[min(1, table.shape[1] - 1)].to_numpy()
    adata.X = adata.X.tocsr()
    adata.var["gene_ids"] = table[0].to_numpy()
    if table.shape[1] > 2:
        adata.var["feature_types"] = table[2].to_numpy()
    return _only_genes(adata)


def _only_genes(adata: AnnData) -> AnnData:
    """Leave out the other features of a file from 10x Genomics, if it says which features are genes."""
    if "feature_types" not in adata.var:
        return adata
    are_genes = adata.var["feature_types"].str.fullmatch("gene expression", case=False, na=False).to_numpy(dtype=bool)
    return adata[:, are_genes].copy() if are_genes.any() and not are_genes.all() else adata


def _read_table(path: Path, *, genes: Literal["rows", "columns"] | None) -> AnnData:
    """Read counts from a text file that has names in the first row and the first column."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    with _reading("a table of counts", path):
        lines = pd.read_csv(path, header=None, sep="\x00", nrows=2, dtype=str, quoting=3, engine="python")[0].tolist()
        separator = _separator(lines, path)
        # R leaves out the corner, which pandas handles if no index column is given
        lengths = [len(fields) for fields in csv.reader(lines, delimiter=separator)]
        corner = len(lines) > 1 and lengths[0] == lengths[1]
        blocks, rows = [], []
        with pd.read_csv(path, sep=separator, index_col=0 if corner else None, chunksize=TABLE_ROWS) as reader:
            for block in reader:
                text = block.columns[[block[name].dtype.kind not in "iufb" for name in block]].tolist()
                if text:
                    msg = (
                        f"Expected a table of counts, found text in the column {str(text[0])!r} of {path}. "
                        "Keep one row and one column of names, and remove the others."
                    )
                    raise InputError(msg)
                rows += [str(name) for name in block.index]
                blocks.append(sp.csr_matrix(block.to_numpy(dtype=np.float32)))
        columns = [str(name) for name in block.columns]
    x = sp.vstack(blocks, format="csr")
    if genes is None:
        genes = _where_genes_are(rows, columns, path)
        logger.info("%s has genes in its %s.", path.name, genes)
    if genes == "rows":
        x, rows, columns = x.T.tocsr(), columns, rows
    return ad.AnnData(x, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=columns))


def _separator(lines: Sequence[str], path: Path) -> str:
    """Return what separates the values in the first lines of a table: the most frequent sign that all lines have."""
    bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
    number = {sign: [line.count(sign) for line in bare] for sign in ",\t; "}
    # R leaves out the corner, so that the first line has one sign less
    found = [sign for sign, each in number.items() if each[-1]]
    found = [sign for sign in found if abs(number[sign][0] - number[sign][-1]) <= 1] or found
    if found:
        return max(found, key=lambda sign: (number[sign][-1], sign != " "))
    msg = (
        f"Expected a table of counts with commas, tabs, semicolons or spaces between its columns, found none in {path}. "
        "Separate the columns by commas."
    )
    raise InputError(msg)


def _where_genes_are(rows: list[str], columns: list[str], path: Path) -> Literal["rows", "columns"]:
    """Find the side of a table whose names look like genes, or the side opposite names that look like barcodes."""
    signs = {}
    for side, names, others in (("rows", rows, columns), ("columns", columns, rows)):
        known = sum(GENE.fullmatch(name) is not None for name in names) >= min(3, len(names))
        barcodes = sum(BARCODE.fullmatch(name) is not None for name in others) > len(others) / 2
        signs[side] = known or barcodes
    if signs["rows"] == signs["columns"]:
        why = (
            "both sides look like it" if signs["rows"] else "neither side has names of genes or barcodes that it knows"
        )
        msg = (
            f"Expected a table with genes in its rows or in its columns, found {path}, where {why}: rows such as "
            f"{', '.join(rows[:3])}; columns such as {', '.join(columns[:3])}. Pass `genes='rows'` or `genes='columns'`."
        )
        raise InputError(msg)
    return "rows" if signs["rows"] else "columns"


def _with_unique_names(adata: AnnData, name: str) -> AnnData:
    for axis, what in (("var", "genes"), ("obs", "cells")):
        names = getattr(adata, f"{axis}_names")
        if not names.is_unique:
            logger.info(
                "%d names of %s in %s occur more than once and were numbered.", names.duplicated().sum(), what, name
            )
            getattr(adata, f"{axis}_names_make_unique")()
    return adata


class Counts(NamedTuple):
    """Cells, the layer with their counts (``None`` for ``X``), and a sentence that says where the counts were found."""

    adata: AnnData
    layer: str | None
    said: str


def find_counts(adata: AnnData, *, layer: str | None = None, raw: bool = False) -> Counts:
    """Find the counts where specified, or in the first of ``layers["counts"]``, ``X`` and ``raw`` with whole numbers.

    If the counts are in ``raw`` and it has the same genes as the AnnData, they are stored in ``layers["counts"]``.
    Otherwise, the genes of the AnnData are replaced by the genes of ``raw``.

    Raises
    ------
    InputError
        If no counts are found, or if the specified location does not exist.
    """
    if layer is not None and raw:
        msg = "Expected `layer` or `raw`, found both. Choose one."
        raise InputError(msg)
    if layer is not None:
        if layer not in adata.layers:
            names = ", ".join(repr(str(name)) for name in adata.layers if name is not None) or "none"
            msg = (
                f"Expected raw counts in layers[{layer!r}], found layers {names}. Pass `layer=None` to have them found."
            )
            raise InputError(msg)
        return Counts(adata, layer, f"Counts are taken from layers[{layer!r}], as requested.")
    if raw:
        if adata.raw is None:
            msg = "Expected counts in raw, found no raw in the file. Leave out `raw`."
            raise InputError(msg)
        return _from_raw(adata, "as requested")
    found: dict[str, str] = {}
    if COUNTS in adata.layers:
        found[f"layers[{COUNTS!r}]"] = seen = _values(adata.layers[COUNTS])
        if not seen:
            return Counts(adata, COUNTS, f"Counts are taken from layers[{COUNTS!r}].")
    if adata.X is not None:
        found["X"] = seen = _values(adata.X)
        if not seen:
            return Counts(adata, None, "Counts are taken from X, which holds whole numbers.")
    if adata.raw is not None:
        found["raw"] = seen = _values(adata.raw.X)
        if not seen:
            return _from_raw(adata, "because X holds " + found.get("X", "nothing"))
    others = [str(name) for name in adata.layers if name not in (None, COUNTS) and not _values(adata.layers[name])]
    hint = (
        f"layers[{others[0]!r}] holds whole numbers: pass `layer={others[0]!r}` if those are the counts."
        if others
        else "Use the counts as they were measured."
    )
    places = "; ".join(f"{place} with {seen}" for place, seen in found.items()) or "no values at all"
    msg = f"Expected whole counts in layers[{COUNTS!r}], X or raw, found {places}. {hint}"
    raise InputError(msg)


def _from_raw(adata: AnnData, why: str) -> Counts:
    """Return the counts in ``raw`` as a layer of the AnnData, or as a new AnnData with the genes of ``raw``."""
    raw = adata.raw
    said = f"Counts are taken from raw, {why}."
    if raw.n_vars == adata.n_vars and set(raw.var_names) == set(adata.var_names):
        adata.layers[COUNTS] = raw[:, adata.var_names].X
        return Counts(adata, COUNTS, said)
    return Counts(raw.to_adata(), None, f"{said} raw has {raw.n_vars} genes, X {adata.n_vars}; those of raw are used.")


def _values(x: Any) -> str:
    """Return the reason why a matrix does not contain counts, with an example, or an empty string if it does.

    Only a sample of the rows is checked.
    """
    import numpy as np

    step = max(1, x.shape[0] // SAMPLED_ROWS)
    rows = x[::step]
    values: np.ndarray = np.asarray(rows.data if hasattr(rows, "tocsr") else rows[:])
    if values.dtype.kind not in "biuf":
        return f"values of type {values.dtype}"
    finite = np.isfinite(values)
    if not finite.all():
        return "NaN or infinite values"
    if values.size and values.min() < 0:
        return f"negative values ({values.min():g})"
    fraction = values != np.floor(values)
    return f"fractions ({values[fraction][0]:g})" if fraction.any() else ""
