"""Write files atomically: each appears, or replaces an older one, when it is complete."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path, *, writes: bool = True, exclusive: bool = True) -> Iterator[Path]:
    """Temporary name beside ``path`` that takes its place if the block succeeds, and is removed otherwise.

    Of several processes that enter the block together, only the one that ``writes`` touches the files; with
    ``exclusive=False`` the name is the same in every process, so that a run replaces what a killed one has left.
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
    """Temporary folder whose files move into ``folder`` if the block succeeds; files named ``stale`` there go then."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            for file in sorted(temporary.iterdir()):
                file.replace(folder / file.name)
            for name in stale:
                (folder / name).unlink(missing_ok=True)
        else:
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
