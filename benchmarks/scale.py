"""How do time and memory of an epoch and of inference grow with the number of cells?

    python -m benchmarks.scale --cells 10000 30000 100000 --threads 2

Counts are simulated in blocks (2000 genes, about 7 % nonzero) and stored as CSR, without a dense array. Each size runs in its
own process: one pre-training epoch of the default configuration after its first prototypes (all mini-batches with all three
losses, then gene states, latent vectors of all cells and k-means for K and three granularities), and inference of all cells.
With ``--steps N`` only the first N mini-batches are run and the time of the others is extrapolated, which the table marks with
``~``; steps that involve all cells are always run on all cells.

Memory is the rise of resident memory above that of the process with the counts loaded (``benchmarks/_memory.py``).
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import scipy.sparse as sp
import torch
from benchmarks._memory import peak_increase
from benchmarks._runs import CLOCKS, Data, PackageRun, simulate
from threadpoolctl import threadpool_limits

from scgpcl.benchmark._tables import markdown
from scgpcl.pp import gene_statistics, library_sizes

#: Cells simulated at a time.
BLOCK = 20_000


def simulate_many(n_cells: int) -> Data:
    """Counts of any number of cells in ten groups; blocks differ in their seed but share the profiles of the groups."""
    sizes = [min(BLOCK, n_cells - start) for start in range(0, n_cells, BLOCK)]
    blocks = [simulate(size, seed=0, cell_seed=i) for i, size in enumerate(sizes)]
    indptr = np.concatenate([[0], np.concatenate([np.diff(b.indptr) for b in blocks]).cumsum()])
    data = np.empty(indptr[-1], dtype=np.float32)
    indices = np.empty(indptr[-1], dtype=np.int32)
    start = 0
    for i, block in enumerate(blocks):
        stop = start + block.nnz
        data[start:stop], indices[start:stop] = block.data, block.indices
        blocks[i], start = None, stop
    counts = sp.csr_matrix((data, indices, indptr), shape=(n_cells, 2000))
    size = library_sizes(counts)
    moments = gene_statistics(counts, size / np.median(size))
    std = np.where(moments.log_std > 0, moments.log_std, 1.0)
    return Data(counts, (size / np.median(size)).astype(np.float32), moments.log_mean, std)


class ScaleRun:
    """Seconds of the parts of one epoch and of inference."""

    def __init__(self, data: Data, n_steps: int | None, clock: str) -> None:
        # neighbours are searched in 50 dimensions; random ones take the same time
        axes = np.random.default_rng(0).standard_normal((data.counts.shape[1], 50)).astype(np.float32)
        self.run = PackageRun(data, "default", CLOCKS[clock], components=data.counts.log1p() @ axes)
        self.n_steps = n_steps
        self.clock = CLOCKS[clock]

    def __call__(self) -> dict[str, float]:
        loader = self.run.splitter.train_dataloader()
        plan, update, optimizer = self.run._pretrain
        plan.log = plan.log_losses = lambda *args, **kwargs: None
        trainer = type("Trainer", (), {"current_epoch": 0, "should_stop": False, "world_size": 1})()
        start = self.clock()
        update.on_train_epoch_start(trainer, plan)
        prototypes = self.clock()
        done = 0
        for batch in itertools.islice(loader, self.n_steps):
            optimizer.zero_grad()
            plan.training_step(batch, done).backward()
            optimizer.step()
            done += 1
        steps = self.clock()
        update.on_train_epoch_end(trainer, plan)
        end = self.clock()
        seconds = {"first": prototypes - start, "steps": (steps - prototypes) * len(loader) / done, "all": end - steps}
        return seconds | {"infer": self.run.infer(), "done": done / len(loader)}


def prepare(n_cells: int, n_steps: int | None, threads: int, clock: str, out: str) -> Callable[[], Any]:
    """Set up the measured process; returns the call that is measured and that writes its seconds."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    run = ScaleRun(simulate_many(n_cells), n_steps, clock)

    def call() -> None:
        np.save(out, np.array(list(run().items()), dtype=object))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--steps", type=int, help="number of mini-batches to run; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: CPU time of all threads")
    args = parser.parse_args()
    head = [
        "cells",
        "epoch s",
        "of it with all cells, s",
        "ms per cell",
        "first prototypes s",
        "inference s",
        "extra MB",
    ]
    rows = []
    for n_cells in args.cells:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "seconds.npy")
            extra = peak_increase(
                prepare, n_cells, args.steps, args.threads, args.clock, out, preload="benchmarks._runs"
            )
            seconds = dict(np.load(out, allow_pickle=True))
        epoch = seconds["steps"] + seconds["all"]
        about = "" if seconds["done"] == 1 else "~"
        cells = [n_cells, f"{about}{epoch:.1f}", f"{seconds['all']:.1f}", f"{about}{1e3 * epoch / n_cells:.3f}"]
        cells += [f"{seconds['first']:.1f}", f"{seconds['infer']:.1f}", f"{extra / 1e6:.0f}"]
        rows.append([str(cell) for cell in cells])
        print(dict(zip(head, rows[-1], strict=True)), flush=True)
    print("\n".join(markdown(head, rows)))


if __name__ == "__main__":
    main()
