"""Peak memory of one call in a process of its own, as Linux counts it."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")


def _resident(name: str) -> int:
    """Bytes in memory: now (``VmRSS``) or at most since the mark was reset (``VmHWM``)."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    msg = f"Expected {name} in {PROCESS / 'status'}, found none."
    raise RuntimeError(msg)


def _child(link: Connection, prepare: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    call = prepare(*arguments)
    start = _resident("VmRSS")
    (PROCESS / "clear_refs").write_text("5")  # sets the high-water mark to what is in memory now
    call()
    link.send(_resident("VmHWM") - start)


def peak_increase(prepare: Callable[..., Callable[[], Any]], *arguments: Any, preload: str) -> int:
    """Bytes by which the resident memory of a process rises above its start while it makes one call.

    The process is new, has imported everything, and has made no such call before. The kernel's own mark is read, so no
    peak is missed. The code of the libraries counts from when it is first run, some 30 MB on either side.

    Parameters
    ----------
    prepare
        Function of a module that loads what the call needs and returns the call.
    *arguments
        Its arguments.
    preload
        Module whose imports all measured processes share.

    Raises
    ------
    RuntimeError
        If the measured process fails.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_child, args=(theirs, prepare, arguments))
    worker.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        msg = "Expected the memory of a call, but its process failed; the reason is above."
        raise RuntimeError(msg) from error
    finally:
        worker.join()
        ours.close()
