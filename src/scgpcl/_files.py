"""Check input and output files, and write files atomically."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scgpcl._atomic import replacing, writing_advice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

    import anndata as ad

logger = logging.getLogger(__name__)

#: The command line leaves sparse matrices with more values than this on disk (160 MB in memory).
MANY_VALUES = 20_000_000
#: Number of values of a matrix that are copied at a time from one file to another.
COPIED_VALUES = 1 << 22


class InputError(ValueError):
    """Raised if the input cannot be used. The message is meant for the user and is shown without a traceback."""


def check_output_path(path: Path, input_paths: Iterable[Path]) -> None:
    """Check that an h5ad file can be written to a path and that the path is not an input file.

    Raises
    ------
    InputError
        If the path does not meet these requirements.
    """
    _check_place(path, ".h5ad")
    if path.exists() and any(path.samefile(one) for one in input_paths):
        msg = f"Expected another output file than the input, found {path} for both. Choose another name."
        raise InputError(msg)


def check_report_path(path: Path) -> None:
    """Check that an HTML file can be written to a path.

    Raises
    ------
    InputError
        If the path does not meet these requirements.
    """
    _check_place(path, ".html")


def check_folder(path: Path) -> None:
    """Check that a folder exists or can be created.

    Raises
    ------
    InputError
        If a file of this name exists, the parent folder is missing, or the folder is not writable.
    """
    if path.exists() and not path.is_dir():
        msg = f"Expected a folder, found a file at {path}. Choose another name."
        raise InputError(msg)
    if not path.exists() and not path.parent.is_dir():
        msg = f"Expected an existing folder to make {path.name} in, found none at {path.parent}. Make it first."
        raise InputError(msg)
    _check_writable(path if path.exists() else path.parent)


def check_free(paths: Iterable[Path], *, force: bool) -> None:
    """Check that none of the files exists, unless files may be overwritten.

    Raises
    ------
    InputError
        If one of the files exists.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        msg = f"Expected no file at {there[0]}, found one{more}. Pass --force to replace it, or choose another name."
        raise InputError(msg)


def read(path: Path, *, backed: bool = False) -> ad.AnnData:
    """Read an h5ad file. If ``backed``, ``X`` stays on disk.

    Raises
    ------
    InputError
        If the file is damaged or has another format.
    """
    import anndata as ad
    import h5py

    try:
        with h5py.File(path) as file:
            missing = [name for name in ("obs", "var") if name not in file]
    except OSError as error:
        msg = f"Expected an h5ad file, found another or a damaged one at {path}: {error}"
        raise InputError(msg) from error
    if missing:
        msg = f"Expected an AnnData in {path}, found an HDF5 file without {' and '.join(missing)}."
        raise InputError(msg)
    try:
        return ad.read_h5ad(path, backed="r" if backed else None)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        msg = f"Expected an AnnData in {path}, found one that anndata cannot read: {error}"
        raise InputError(msg) from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes ``path`` at the end. System errors are raised as `InputError`."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        msg = f"Expected to write {path}, found: {error}. {writing_advice(error) or 'Choose another place.'}"
        raise InputError(msg) from error
    logger.info("Wrote %s.", path)


def write(adata: ad.AnnData, path: Path) -> None:
    """Write an h5ad file atomically.

    Raises
    ------
    InputError
        If the file cannot be written. In this case, an existing file is left unchanged.
    """
    with writing(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def read_on_disk(path: Path) -> ad.AnnData | None:
    """Read an h5ad file or zarr store whose ``X`` has many values, stored sparsely by cell, and leave ``X`` on disk.

    Returns ``None`` if ``X`` is stored in another way or has no more than ``MANY_VALUES`` values, or if a zarr store has
    ``raw`` or ``layers["counts"]``, which may hold the counts.
    """
    import h5py

    if path.suffix == ".h5ad":
        try:
            with h5py.File(path) as file:
                many = _has_many_counts(file)
        except OSError:  # `read` reports what is wrong with it
            return None
        return read(path, backed=True) if many else None
    return _read_zarr_on_disk(path) if is_zarr(path) else None


def is_zarr(path: Path) -> bool:
    """Return whether a path is a zarr store in a folder."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs"))


def _has_many_counts(store: Any) -> bool:
    """Return whether an open h5ad file or zarr store has more than ``MANY_VALUES`` values in a sparse ``X``."""
    try:
        x = store["X"]
        return x.attrs.get("encoding-type") == "csr_matrix" and x["data"].shape[0] > MANY_VALUES
    except (IndexError, KeyError):
        return False


def _read_zarr_on_disk(path: Path) -> ad.AnnData | None:
    import anndata as ad

    try:
        import zarr

        store = zarr.open_group(path, mode="r")
        if "raw/X" in store or "layers/counts" in store or not _has_many_counts(store):
            return None
        parts = {name: ad.io.read_elem(store[name]) for name in store if name not in ("X", "raw")}
        return ad.AnnData(ad.io.sparse_dataset(store["X"]), **parts)
    except (AttributeError, ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError):
        return None  # `scgpcl._read` reports what is wrong with it


def write_beside(adata: ad.AnnData, source: Path, path: Path) -> None:
    """Write an AnnData whose counts are on disk to an h5ad file.

    The matrices of an h5ad file are copied byte for byte and are neither read nor recompressed; only ``obs``, ``var``,
    ``obsm`` and ``uns`` are written anew. The copy only appears once it is complete.
    """
    import anndata as ad
    import h5py

    with writing(path) as temporary:
        if not adata.isbacked:
            others = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")
            ad.AnnData(**{name: getattr(adata, name) for name in others}).write_h5ad(temporary)
            with h5py.File(temporary, "r+") as file:
                file.pop("X", None)
                _copy_array_by_array(adata.X.group, file.create_group("X"))
            return
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for name in ("obs", "var", "obsm", "uns"):
                value = getattr(adata, name)
                ad.io.write_elem(file, name, value if name in ("obs", "var") else dict(value))


def _copy_array_by_array(source: Any, target: Any) -> None:
    """Copy a sparse matrix from one store to another, with only ``COPIED_VALUES`` values in memory."""
    target.attrs.update(source.attrs)
    for name in ("data", "indices", "indptr"):
        old = source[name]
        new = target.create_dataset(name, shape=old.shape, dtype=old.dtype, chunks=True)
        for start in range(0, old.shape[0], COPIED_VALUES):
            new[start : start + COPIED_VALUES] = old[start : start + COPIED_VALUES]


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file atomically.

    Raises
    ------
    InputError
        If the file cannot be written. In this case, an existing file is left unchanged.
    """
    with writing(path) as temporary:
        # A name may contain half of a surrogate pair, which UTF-8 cannot encode.
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _check_place(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        msg = f"Expected an output file that ends in {suffix}, found {path}."
        raise InputError(msg)
    if path.is_dir():
        msg = f"Expected an output file, found a folder at {path}. Choose another name."
        raise InputError(msg)
    if not path.parent.is_dir():
        msg = f"Expected an existing folder for the output, found none at {path.parent}. Make it first."
        raise InputError(msg)
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        msg = f"Expected a folder that can be written to, found {folder}. Choose another one."
        raise InputError(msg)
