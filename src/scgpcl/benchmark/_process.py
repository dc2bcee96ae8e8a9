"""Start and supervise the process of one run."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from typing import TYPE_CHECKING, Any

from scgpcl.benchmark._worker import Job, Outcome, serve

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "scgpcl-benchmark-run"
#: Seconds to wait for a process to exit by itself after its result has arrived.
_FAREWELL = 10.0


def prepare(modules: Iterable[str]) -> None:
    """Import modules once for all runs, on platforms where processes can share them.

    On Linux, each run is forked from a server that has imported the modules and done nothing else, so that it starts
    with a clean state and its own memory but without the cost of the imports. On other platforms, each run imports the
    modules again.
    """
    if sys.platform == "linux":
        multiprocessing.get_context("forkserver").set_forkserver_preload([serve.__module__, *modules])


def run_job(job: Job, *, timeout: float | None) -> Outcome | str:
    """Run a job in its own process, which is killed after ``timeout`` seconds.

    Returns the outcome, or one line that describes the failure.
    """
    job.log.unlink(missing_ok=True)
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(theirs, job), name=NAME)
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return f"TimeoutError: Expected the run to end within {timeout:g} s; it was stopped."
        answer: Outcome | str = ours.recv()
        process.join(_FAREWELL)
    except EOFError:
        process.join()
        return _death(process.exitcode, started=job.log.exists())
    finally:
        process.kill()
        process.join()
        ours.close()
    return answer if isinstance(answer, Outcome) else " ".join(answer.split())


def in_run() -> bool:
    """Return whether this is a worker process started by a run, in which the user's script is re-imported."""
    return multiprocessing.current_process().name == NAME


def _death(code: int | None, *, started: bool) -> str:
    """Describe in one line why a process ended without a result."""
    if not started:
        rule = 'A script must call `run` under `if __name__ == "__main__":`.'
        return f"ProcessError: The process of the run ended with exit code {code} before the method started. {rule}"
    if code is not None and code < 0:
        return f"ProcessError: The process of the run was killed by {signal.Signals(-code).name}."
    return f"ProcessError: The process of the run ended with exit code {code} before it had a result."
