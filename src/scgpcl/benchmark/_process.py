"""The process of one run, seen from outside."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from typing import TYPE_CHECKING, Any

from ._worker import Job, Outcome, serve

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "scgpcl-benchmark-run"
#: Seconds that a process has to end by itself once its answer is here.
_FAREWELL = 10.0


def prepare(modules: Iterable[str]) -> None:
    """Import modules once for all runs, where processes can share them.

    On Linux each run is forked from a server that has imported the modules and has done nothing else, so that a run has
    a clean state and memory of its own without the seconds that the imports take. Elsewhere each run starts afresh.
    """
    if sys.platform == "linux":
        multiprocessing.get_context("forkserver").set_forkserver_preload([serve.__module__, *modules])


def run_job(job: Job, *, timeout: float | None) -> Outcome | str:
    """Run a job in a process of its own.

    Parameters
    ----------
    job
        What to run.
    timeout
        Seconds after which the process is killed; `None` waits for ever.

    Returns
    -------
    What the method has done, or one line about what went wrong.
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
    """Whether this is the process of a run, which imports the user's script again."""
    return multiprocessing.current_process().name == NAME


def _death(code: int | None, *, started: bool) -> str:
    if not started:
        rule = 'A script must call `run` under `if __name__ == "__main__":`.'
        return f"ProcessError: The process of the run ended with exit code {code} before the method started. {rule}"
    if code is not None and code < 0:
        return f"ProcessError: The process of the run was killed by {signal.Signals(-code).name}."
    return f"ProcessError: The process of the run ended with exit code {code} before it had a result."
