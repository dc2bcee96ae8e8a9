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

    import anndata as ad

logger = logging.getLogger(__name__)

#: The command line leaves sparse matrices with more values than this on disk (160 MB in memory).
MANY_VALUES = 20_000_000


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


def is_large(path: Path) -> bool:
    """Return whether a file is an h5ad file with more than ``MANY_VALUES`` values in ``X``, stored sparsely by cell."""
    import h5py

    if path.suffix != ".h5ad":
        return False
    try:
        with h5py.File(path) as file:
            x = file.get("X")
            by_cells = isinstance(x, h5py.Group) and x.attrs.get("encoding-type") == "csr_matrix"
            return by_cells and x["data"].shape[0] > MANY_VALUES
    except (KeyError, OSError):  # `read` reports what is wrong with it
        return False


def write_beside(adata: ad.AnnData, source: Path, path: Path) -> None:
    """Write a copy of a backed AnnData's h5ad file with its current ``obs``, ``var``, ``obsm`` and ``uns``.

    The matrices are copied byte for byte and are neither read nor recompressed. The copy only appears once it is
    complete.
    """
    import anndata as ad
    import h5py

    with writing(path) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for name in ("obs", "var", "obsm", "uns"):
                value = getattr(adata, name)
                ad.io.write_elem(file, name, value if name in ("obs", "var") else dict(value))


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
