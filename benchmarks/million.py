"""How long does `scgpcl cluster` take from a file to labels in a file, with how much memory, and are the types found?

    python -m benchmarks.million FOLDER --cells 100000 300000 1000000 --threads 2 --out million.csv

The counts are those of ``benchmarks.rare`` (2000 genes, about 7 % nonzero, types from 30 % down to .1 %), written to FOLDER block
by block; files that exist are used again. The command runs in a process of its own; its time on the clock and on the processors
and its peak memory include the start of Python. Linux only. ``--source annbatch`` trains on an annbatch collection of the same cells
instead and predicts their labels; the collection is made beforehand and not timed (needs scvi-tools 1.5 and ``annbatch[zarrs]``).
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from benchmarks._study import run_study
from benchmarks.rare import SHARES, found_types, simulated_blocks

from scgpcl import metrics

KEYS = ("cells", "threads", "seed", "source")
COLUMNS = (*KEYS, "seconds", "cpu_seconds", "peak_mb", "written_mb", "ari", "found")


def write_simulated(path: Path, n_cells: int) -> None:
    """Write simulated cells to an h5ad file, with one block of them in memory."""
    new, types = path.with_suffix(".part"), []
    with h5py.File(new, "w") as file:
        for i, block in enumerate(simulated_blocks(n_cells)):
            if i == 0:
                block[:0].copy().write_h5ad(new.with_suffix(".first"))
                write_elem(file, "/", ad.read_h5ad(new.with_suffix(".first")))
                write_elem(file, "X", block.X)
            else:
                sparse_dataset(file["X"]).append(block.X)
            types.append(block.obs)
        file.pop("raw", None)  # stored as empty, which scvi-tools cannot read
        write_elem(file, "obs", pd.concat(types).astype({"cell_type": "category"}))
    new.with_suffix(".first").unlink()
    new.rename(path)


def run(folder: Path, n_cells: int, n_threads: int, seed: int, kind: str) -> list[dict[str, Any]]:
    """Cluster a file or a collection; one row."""
    source, result = (
        folder / f"simulated_{n_cells}.h5ad",
        folder / ("clustered.h5ad" if kind == "h5ad" else "labels.npy"),
    )
    if not source.exists():
        write_simulated(source, n_cells)
    command = [sys.executable, "-m", "scgpcl", "cluster", str(source), "-o", str(result), "--quiet", "--force"]
    command += ["--n-clusters", str(len(SHARES)), "--seed", str(seed)]
    if kind == "annbatch":
        collection = source.with_suffix(".annbatch")
        command = [
            sys.executable,
            "-m",
            "benchmarks._annbatch",
            *map(str, (source, collection, result, len(SHARES), seed)),
        ]
        if not collection.exists():
            subprocess.run(command, check=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        msg = f"`{' '.join(command)}` ended with status {os.waitstatus_to_exitcode(status)}."
        raise RuntimeError(msg)
    with h5py.File(source) as file:
        types = _codes(file["obs"]["cell_type"])
    if kind == "h5ad":
        with h5py.File(result) as file:
            clusters = _codes(file["obs"]["scgpcl_cluster"])
    else:
        clusters = np.load(result).astype(int)
    names = np.array([f"{i:02}" for i in range(len(SHARES))])
    row = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": usage.ru_maxrss // 1024,
        "written_mb": result.stat().st_size // 2**20,
        "ari": round(metrics.ari(types, clusters), 4),
        "found": " ".join(names[found_types(types, clusters)]),
    }
    result.unlink()
    return [row]


def _codes(column: h5py.Group) -> np.ndarray:
    """Codes of a categorical column, shape (n_cells,)."""
    return np.asarray(column["codes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the simulated files")
    parser.add_argument("--cells", nargs="+", type=int, default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source", choices=["h5ad", "annbatch"], default="h5ad")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tasks = [(n, args.threads, seed, args.source) for n in args.cells for seed in args.seeds]
    table = run_study(
        args, tasks, lambda *task: run(args.folder, *task), keys=KEYS, columns=COLUMNS, text=["source", "found"]
    )
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
