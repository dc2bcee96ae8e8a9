"""How an epoch, inference and their memory grow with the number of cells.

    python -m benchmarks.scale --cells 10000 30000 100000 --threads 2

Counts are drawn on the fly (2000 genes, about 7 % not zero) and kept as CSR, in blocks, so that no dense array is made.
Each size runs in a process of its own: one pre-training epoch of the default configuration after its first prototypes (all
mini-batches with all three losses, and then gene states, latent vectors of all cells and k-means for K and three
granularities), and inference of all cells. With `--steps N` the mini-batches beyond the first N are left out and their
time is extrapolated, which the table marks by `~`; what is done with all cells is always done with all.

Memory is the rise of resident memory above what the process holds once the counts are there (`benchmarks/_memory.py`).
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

from scgpcl.pp import gene_statistics, library_sizes

#: Cells drawn at a time.
BLOCK = 20_000


def simulate_many(n_cells: int) -> Data:
    """Counts of any number of cells of ten groups; blocks differ by their seed, groups have the same genes in all."""
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
        # neighbours are sought in 50 dimensions; which ones does not matter for time
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
    """What the measured process does first; gives the call whose memory counts and which writes its seconds."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    run = ScaleRun(simulate_many(n_cells), n_steps, clock)

    def call() -> None:
        np.save(out, np.array(list(run().items()), dtype=object))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--steps", type=int, help="mini-batches that are run; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: seconds of all threads")
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
    print("| " + " | ".join(head) + " |\n|" + " ---: |" * len(head), flush=True)
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
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
