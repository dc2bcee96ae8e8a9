"""Peak memory of one call, measured in its own process as in ``scgpcl benchmark``."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from scgpcl.benchmark._worker import _mark_memory, _peak_memory


def _child(link: Connection, prepare: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    call = prepare(*arguments)
    start = _mark_memory()
    call()
    link.send(int(_peak_memory() - start))


def peak_increase(prepare: Callable[..., Callable[[], Any]], *arguments: Any, preload: str) -> int:
    """Bytes by which the resident memory of a new process rises above its start during one call.

    ``prepare`` is a function of a module; it loads what the call needs and returns the call. ``preload`` is a module whose
    imports all measured processes share. The kernel's high-water mark is read, so no peak is missed; library code that runs for
    the first time counts, about 30 MB.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload, "scgpcl.benchmark._worker"])
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_child, args=(theirs, prepare, arguments))
    worker.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        msg = "Expected the memory of a call, but its process failed; see the messages above."
        raise RuntimeError(msg) from error
    finally:
        worker.join()
        ours.close()
