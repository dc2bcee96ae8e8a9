"""Write files atomically: a file appears, or replaces an older one, only once it is complete."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path, *, writes: bool = True, exclusive: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to ``path``. It replaces ``path`` if the block succeeds and is removed otherwise.

    If several processes enter the block together, only the process with ``writes=True`` changes any files. If
    ``exclusive=False``, the temporary name is the same in every process, so that a new run overwrites what a killed run
    left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if exclusive else f".{path.name}.tmp")
    try:
        yield temporary
        if writes:
            temporary.replace(path)
    finally:
        if writes:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def replacing_files(folder: Path, *, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder. If the block succeeds, move its files to ``folder`` and delete the ``stale`` files.

    The temporary folder is created inside ``folder`` if that exists (it may be the working directory), and next to it
    otherwise.
    """
    folder = folder.resolve()
    there = folder.exists()
    name = f".scgpcl.{os.getpid()}.tmp" if there else f".{folder.name}.{os.getpid()}.tmp"
    temporary = (folder if there else folder.parent) / name
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if there:
            for file in sorted(temporary.iterdir()):
                file.replace(folder / file.name)
            for name in stale:
                (folder / name).unlink(missing_ok=True)
        else:
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


#: Advice to give for each operating-system error number.
_ADVICE = {
    "Free some space, or choose another disk.": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Check the permissions, or choose another place.": (errno.EACCES, errno.EPERM, errno.EROFS),
    "Make the folder around it first.": (errno.ENOENT, errno.ENOTDIR),
    "Choose a shorter name.": (errno.ENAMETOOLONG,),
    "Choose another name.": (errno.EEXIST, errno.EISDIR, errno.EINVAL),
    "Check the disk.": (errno.EIO, errno.ESTALE, errno.ENODEV),
}


def writing_advice(error: BaseException) -> str | None:
    """Return advice on an operating-system error raised while writing, or ``None`` for any other error.

    HDF5 includes the error number only in its message, and torch reports a failed write as a RuntimeError without an
    error number.
    """
    if isinstance(error, RuntimeError):
        failed = "PytorchStreamWriter failed" in str(error)
        return "Free some space, or choose another disk." if failed else None
    if not isinstance(error, OSError):
        return None
    number = error.errno
    if number is None:
        found = re.search(r"errno = (\d+)", str(error))
        number = None if found is None else int(found[1])
    return next((advice for advice, numbers in _ADVICE.items() if number in numbers), None)
