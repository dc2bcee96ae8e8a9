"""Readers of the published files: one function for each source, on top of a few formats.

Each returns a `Table` and knows nothing of downloads; sizes are checked by the caller.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import re
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy import io as scipy_io
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

#: What readers raise at files that are damaged or of another kind.
ReadError = (EOFError, KeyError, OSError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
#: Rows that are parsed at a time where cells are rows.
_CHUNK = 500
#: First bytes of compressed files.
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
#: Names of the groups of Zeisel et al. (2015), which their file numbers from one.
_ZEISEL_GROUPS = (
    "interneurons", "pyramidal SS", "pyramidal CA1", "oligodendrocytes", "microglia", "endothelial", "astrocytes",
    "ependymal", "mural",
)  # fmt: skip
#: Names of the samples of Camp et al. (2017) by the beginning of their codes.
_CAMP_TYPES = {
    "ipsc": "iPSC", "de": "definitive endoderm", "he": "hepatic endoderm", "ih": "immature hepatoblast",
    "mh": "mature hepatocyte", "ec": "endothelial", "mc": "mesenchymal stem cell",
}  # fmt: skip


@dataclass
class Table:
    """Values of cells and genes with published types.

    Parameters
    ----------
    values
        Shape (n_cells, n_genes), CSR.
    genes
        Names of the genes, shape (n_genes,).
    obs
        Index: names of the cells; columns: `cell_type`, perhaps `batch` and others.
    """

    values: sparse.csr_matrix
    genes: np.ndarray
    obs: pd.DataFrame


def camp(*, lineage: Path, liverbud: Path) -> Table:
    """Two tables of cells by genes; cells of both are taken from the second, which has the finer types."""
    first = pd.read_csv(lineage, index_col=0)
    second = pd.read_csv(liverbud, index_col=0)
    samples = [first.iloc[:, 0].astype(str), second.iloc[:, 0].astype(str)]
    types = [samples[0], second.iloc[:, 1].astype(str)]
    tables = [first.iloc[:, 1:], second.iloc[:, 2:]]
    _require_same(tables[0].columns, tables[1].columns)
    alone = ~first.index.isin(second.index)
    values = np.concatenate([tables[0].to_numpy(np.float32)[alone], tables[1].to_numpy(np.float32)])
    obs = pd.DataFrame(
        {"cell_type": pd.concat([types[0][alone], types[1]]), "batch": pd.concat([samples[0][alone], samples[1]])}
    )
    obs["cell_type"] = [_camp_type(code) for code in obs["cell_type"]]
    return Table(sparse.csr_matrix(values), tables[0].columns.to_numpy(), obs)


def mouse_es(*, archive: Path) -> Table:
    """Tables of genes by cells without header, one for each day of differentiation."""
    members = {"day 0": "ES_d0_main", "day 2": "ES_d2_LIFminus", "day 4": "ES_d4_LIFminus", "day 7": "ES_d7_LIFminus"}
    parts = []
    for day, name in members.items():
        with _member(archive, rf"{name}\.csv(\.bz2)?$") as stream:
            genes, _, values = _genes_by_cells(stream, ",", header=False)
        cells = [f"{name}_{i + 1}" for i in range(values.shape[0])]
        parts.append(Table(values, genes, pd.DataFrame({"cell_type": day, "batch": name}, index=cells)))
    return _stacked(parts)


def mouse_bladder(*, archive: Path, cells: Path) -> Table:
    """A table of genes by cells for each tissue of the Mouse Cell Atlas, and one of all its cells."""
    published = pd.read_csv(cells).set_index("Cell.name")
    published = published[published["Tissue"] == "Bladder"]
    with _member(archive, r"(^|/)Bladder_rm\.batch_dge\.txt(\.gz)?$") as stream:
        genes, names, values = _genes_by_cells(stream, " ")
    obs = published[["ClusterID", "Batch", "Annotation"]].set_axis(["cell_type", "batch", "annotation"], axis=1)
    return _labelled(values, genes, names, obs)


def zeisel(*, counts: Path, cells: Path) -> Table:
    """A table of genes by cells, and one that names cells and groups in the rows of its head."""
    with _opened(counts) as stream:
        genes, names, values = _genes_by_cells(stream, "\t")
    head = {}
    with _opened(cells) as stream:
        for line in stream:
            fields = line.rstrip("\r\n").split("\t")
            if not any(fields):
                break
            # The name of a row stands in the second column, before it is nothing.
            head[fields[1].strip()] = fields[2:]
    missing = {"group #", "cell_id", "tissue"} - head.keys()
    if missing:
        msg = f"Expected rows {sorted(missing)} above the counts in {cells.name}, found {sorted(head)}."
        raise ValueError(msg)
    groups = [_ZEISEL_GROUPS[int(group) - 1] for group in head["group #"]]
    obs = pd.DataFrame({"cell_type": groups, "tissue": head["tissue"]}, index=head["cell_id"])
    return _labelled(values, genes, names, obs)


def pbmc4k(*, matrix: Path, analysis: Path) -> Table:
    """The folder `filtered_gene_bc_matrices` of Cell Ranger 2, and the clusters of its analysis."""
    with _member(matrix, r"/matrix\.mtx$") as stream:
        # mmread closes what it is given; the bytes are those of one file of 10x.
        values = sparse.csr_matrix(scipy_io.mmread(io.BytesIO(stream.buffer.read())).T, dtype=np.float32)
    with _member(matrix, r"/genes\.tsv$") as stream:
        genes = pd.read_csv(stream, sep="\t", header=None)[1].astype(str).to_numpy()
    with _member(matrix, r"/barcodes\.tsv$") as stream:
        names = stream.read().split()
    with _member(analysis, r"clustering/graphclust/clusters\.csv$") as stream:
        clusters = pd.read_csv(stream, index_col="Barcode")["Cluster"]
    return _labelled(values, genes, names, pd.DataFrame({"cell_type": "cluster " + clusters.astype(str)}))


def human_kidney(*, matrix: Path) -> Table:
    """The HDF5 layout of the data of scziDesk: CSR parts in `exprs`, types in `obs/cell_type1`."""
    with h5py.File(matrix) as file:
        parts = [np.asarray(file["exprs"][name]) for name in ("data", "indices", "indptr")]
        shape = tuple(int(n) for n in file["exprs"]["shape"])
        cells, genes, types = (
            np.asarray(file[name]).astype(str) for name in ("obs_names", "var_names", "obs/cell_type1")
        )
    values = sparse.csr_matrix(tuple(parts), shape=shape).astype(np.float32)
    return Table(values, genes, pd.DataFrame({"cell_type": types}, index=cells))


def baron_human(*, archive: Path) -> Table:
    """Tables of cells by genes, one for each donor."""
    return _baron(archive, [f"human{i}" for i in range(1, 5)])


def baron_mouse(*, archive: Path) -> Table:
    """Tables of cells by genes, one for each mouse."""
    return _baron(archive, ["mouse1", "mouse2"])


def shekhar(*, counts: Path, cells: Path) -> Table:
    """A table of genes by cells, filtered as by the authors, and one of the cells with their groups."""
    with _opened(counts) as stream:
        genes, names, values = _genes_by_cells(stream, "\t")
    # The rules of the published analysis: less than a tenth mitochondrial, more than 500 genes in a cell, then genes in more
    # than 30 cells and with more than 60 counts.
    mitochondrial = np.array([gene.startswith("mt-") for gene in genes])
    total = np.asarray(values.sum(1)).ravel()
    share = np.asarray(values[:, mitochondrial].sum(1)).ravel() / np.maximum(total, 1)
    good = (share < 0.1) & (values.getnnz(1) > 500)
    values, names = values[good], np.asarray(names)[good]
    seen = (values.getnnz(0) > 30) & (np.asarray(values.sum(0)).ravel() > 60)
    values, genes = values[:, seen], genes[seen]
    # The second row of the file has the kinds of its columns.
    published = pd.read_csv(cells, sep="\t", index_col=0).drop(index="TYPE", errors="ignore")
    obs = pd.DataFrame({"cell_type": published.iloc[:, 0].astype(str)})
    obs["batch"] = [name.split("_")[0] for name in obs.index]
    return _labelled(values, genes, names, obs)


def _baron(archive: Path, individuals: Sequence[str]) -> Table:
    parts = []
    for individual in individuals:
        with _member(archive, rf"_{individual}_umifm_counts\.csv(\.gz)?$") as stream:
            for chunk in pd.read_csv(stream, index_col=0, chunksize=_CHUNK):
                # Before the genes stand the barcode and the type.
                values = sparse.csr_matrix(chunk.iloc[:, 2:].to_numpy(np.float32))
                obs = pd.DataFrame({"cell_type": chunk["assigned_cluster"].astype(str), "batch": individual})
                parts.append(Table(values, chunk.columns[2:].to_numpy(), obs))
    return _stacked(parts)


def _camp_type(code: str) -> str:
    known = [name for start, name in _CAMP_TYPES.items() if code.lower().startswith(start)]
    return known[0] if known else code


def _genes_by_cells(
    stream: IO[str], separator: str, *, header: bool = True
) -> tuple[np.ndarray, list[str], sparse.csr_matrix]:
    """Parse a table of genes by cells line by line, so that no dense array of all is made.

    Parameters
    ----------
    stream
        Lines: the name of a gene, which may be quoted, and a number for each cell.
    separator
        What stands between the fields.
    header
        Whether the first line has the names of the cells, with or without a field above the genes.

    Returns
    -------
    Names of genes, names of cells (none without a header), values of shape (n_cells, n_genes).

    Raises
    ------
    ValueError
        If a line has another number of values than the first, or something else than numbers.
    """
    names = next(csv.reader([next(stream, "").rstrip("\r\n")], delimiter=separator)) if header else []
    genes, indices, data, indptr, n_cells = [], [], [], [0], -1
    for number, line in enumerate(stream, start=1 + header):
        text = line.rstrip("\r\n")
        if not text:
            continue
        gene, _, rest = text[1:].partition(f'"{separator}') if text[0] == '"' else text.partition(separator)
        try:
            row = np.array(rest.split(separator), dtype=np.float32)
        except ValueError as error:
            msg = f"Expected numbers after the gene {gene!r} in line {number}, found other text: {error}."
            raise ValueError(msg) from error
        n_cells = len(row) if n_cells < 0 else n_cells
        if len(row) != n_cells:
            msg = (
                f"Expected {n_cells} values in line {number}, as in the first, found {len(row)}. Is the file complete?"
            )
            raise ValueError(msg)
        (where,) = row.nonzero()
        genes.append(gene)
        indices.append(where.astype(np.int32))
        data.append(row[where])
        indptr.append(indptr[-1] + len(where))
    if not genes:
        msg = "Expected a table of genes by cells, found no line of values."
        raise ValueError(msg)
    if header and len(names) not in (n_cells, n_cells + 1):
        msg = f"Expected the names of {n_cells} cells in the first line, found {len(names)} fields."
        raise ValueError(msg)
    by_gene = sparse.csr_matrix(
        (np.concatenate(data), np.concatenate(indices), np.array(indptr)), shape=(len(genes), n_cells)
    )
    return np.array(genes), names[len(names) - n_cells :] if header else [], by_gene.T.tocsr()


def _labelled(values: sparse.csr_matrix, genes: np.ndarray, names: Sequence[str], obs: pd.DataFrame) -> Table:
    """Rows of the labelled cells, in the order of `obs`."""
    rows = pd.Index(names).get_indexer(obs.index)
    if (rows < 0).any():
        lost = obs.index[rows < 0]
        msg = f"Expected counts of every labelled cell, found none for {len(lost)} of {len(obs)}, such as {lost[0]!r}."
        raise ValueError(msg)
    return Table(values[rows], genes, obs)


def _stacked(parts: Sequence[Table]) -> Table:
    for part in parts[1:]:
        _require_same(parts[0].genes, part.genes)
    values = sparse.vstack([part.values for part in parts], format="csr")
    return Table(values, parts[0].genes, pd.concat([part.obs for part in parts]))


def _require_same(first: Iterable[str], second: Iterable[str]) -> None:
    names, others = list(first), list(second)
    if names != others:
        msg = f"Expected the same genes in all files, found {len(names)} and {len(others)} or another order."
        raise ValueError(msg)


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    with path.open("rb") as raw, _text(raw) as stream:
        yield stream


@contextmanager
def _member(path: Path, pattern: str) -> Iterator[io.TextIOWrapper]:
    """The one file in a tar or zip archive whose name matches, as text."""
    with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path) as archive:
        names = archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames()
        matching = [name for name in names if re.search(pattern, name)]
        if len(matching) != 1:
            msg = f"Expected one file that matches {pattern!r} in {path.name}, found {matching or names[:10]}."
            raise ValueError(msg)
        raw = archive.open(matching[0]) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(matching[0])
        if raw is None:
            msg = f"Expected a file, found a folder at {matching[0]} in {path.name}."
            raise ValueError(msg)
        with raw, _text(raw) as stream:
            yield stream


@contextmanager
def _text(raw: IO[bytes]) -> Iterator[io.TextIOWrapper]:
    """Text of bytes that may be compressed."""
    start = raw.read(2)
    raw.seek(0)
    binary = _OPENERS[start](raw) if start in _OPENERS else raw
    with io.TextIOWrapper(binary, encoding="utf-8") as stream:
        yield stream
