"""Code that runs in the process of a single run. It receives the counts but never the labels."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgpcl.benchmark._registry import Clustering, Source, load

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_PROCESS = Path("/proc/self")
_MB = 1e6


class Job(NamedTuple):
    """One run: the method, the file written by ``write_visible``, and the arguments of the method.

    If ``n_clusters=None``, the method chooses the number of clusters. ``threads`` limits the number of threads of
    numerical libraries, and ``log`` is a file for the output and the traceback of the method.
    """

    source: Source
    data: Path
    n_clusters: int | None
    seed: int
    batch_key: str | None
    threads: int
    log: Path


class Outcome(NamedTuple):
    """Result and cost of a method.

    Labels (n_cells,) are whole numbers or text, and latent vectors (n_cells, n_latent) are float32 or ``None``.
    ``seconds`` is the wall time, excluding the time to read the data and to import the method. ``peak_memory_mb`` is
    the increase in resident memory, in units of 1e6 bytes.
    """

    labels: np.ndarray
    latent: np.ndarray | None
    seconds: float
    peak_memory_mb: float


def serve(link: Connection, job: Job) -> None:
    """Run a job and send its ``Outcome``, or one line that describes the failure."""
    with job.log.open("w") as log:
        # redirect the file descriptors, because compiled libraries write to them directly
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            link.send(_run(job))
        except (Exception, SystemExit) as error:  # noqa: BLE001  (any error of a method is recorded in its row)
            traceback.print_exc(file=log)
            link.send(f"{type(error).__name__}: {error}")
    link.close()


def _run(job: Job) -> Outcome:
    """Run the method and measure its elapsed time and memory use."""
    warnings.simplefilter("ignore")
    _limit_threads(job.threads)
    method = load(job.source)
    _limit_threads(job.threads)
    adata = _visible(job)
    n_cells = adata.n_obs
    before = _mark_memory()
    start = time.perf_counter()
    result = method(adata, job.n_clusters, seed=job.seed, batch_key=job.batch_key)
    seconds = time.perf_counter() - start
    peak = (_peak_memory() - before) / _MB
    labels, latent = result if isinstance(result, Clustering) else (result, None)
    return Outcome(_checked_labels(labels, n_cells), _checked_latent(latent, n_cells), seconds, max(peak, 0.0))


def _visible(job: Job) -> ad.AnnData:
    """Read the counts, gene names and batches into an AnnData in which the cells are named by number."""
    with np.load(job.data) as file:
        counts = sparse.csr_matrix((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
        obs = pd.DataFrame(index=[str(i) for i in range(counts.shape[0])])
        if job.batch_key is not None:
            obs[job.batch_key] = pd.Categorical(file["batch"])
        return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=file["genes"]))


def _limit_threads(threads: int) -> None:
    """Limit the threads of libraries that are already loaded and, through the environment, of those loaded later."""
    from threadpoolctl import threadpool_limits

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    threadpool_limits(threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    numba: Any = sys.modules.get("numba")
    if numba is None:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    else:
        # numba reads its variable at import and refuses other values later
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def _mark_memory() -> float:
    """Return the number of bytes in memory now, and reset the kernel's high-water mark if possible."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return _peak_memory()
    return _status("VmRSS")


def _peak_memory() -> float:
    """Return the maximum number of bytes in memory since the mark was reset or since the process started."""
    if (_PROCESS / "status").exists():
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # not available on Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _status(name: str) -> float:
    lines = (_PROCESS / "status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _checked_labels(labels: Any, n_cells: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.shape != (n_cells,):
        msg = f"Expected the method to return one label per cell, shape ({n_cells},), found shape {array.shape}."
        raise ValueError(msg)
    if pd.isna(array).any():
        msg = f"Expected the method to label every cell, found {int(pd.isna(array).sum())} missing."
        raise ValueError(msg)
    return array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else str)


def _checked_latent(latent: Any, n_cells: int) -> np.ndarray | None:
    if latent is None:
        return None
    array = np.asarray(latent, dtype=np.float32)
    if array.ndim != 2 or len(array) != n_cells:
        msg = f"Expected a latent vector per cell, shape ({n_cells}, n_latent), found shape {array.shape}."
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"Expected finite latent vectors, found {int((~np.isfinite(array)).any(axis=1).sum())} cells without."
        raise ValueError(msg)
    return array
