"""How long do an epoch and inference take, and how much memory, compared with a literal implementation of the same steps?

    python -m benchmarks.epoch --data worm_neuron.h5ad --out table.md

The literal implementation (``benchmarks/_literal.py``) has layers of 256 and 64 units, mini-batches of at most 1024 cells, one
dispersion per cell and gene, and K = 10. This package is run as ``paper-sized`` (the same widths, dispersion and mini-batch
size, no projection head) and as ``default``. Weights are random, counts are in memory as CSR. A data set is run twice: with the
2000 genes of the default configuration, and with the published choice, the fifth of the genes with the largest raw variance,
whose counts are denser.

What is timed, from CSR rows to updated weights:

pre-training epoch
    Package: `PrototypeUpdate.on_train_epoch_start`; for each mini-batch of `BipartiteSplitter.train_dataloader`,
    `PretrainPlan.training_step` with all three losses, backward, optimiser step; `PrototypeUpdate.on_train_epoch_end`
    (gene states, latent vectors of all cells, k-means for K and for each granularity). Literal: for each mini-batch the
    same two views and losses on dense features, three k-means of the mini-batch with 20 restarts, backward, AdamW.
    Unlike the paper's stopping rule, it does not cluster all cells between epochs.
clustering epoch
    Package, paper-sized: mini-batches through `ClusterPlan.training_step`, backward, optimiser step, and
    `TargetUpdate.on_train_epoch_end`. Package, default: `DistillationPlan.training_step`, which thins the counts and trains
    the centres alone, and `LabelWatch.on_train_epoch_end`. Literal: one unmasked view per mini-batch, KL and likelihood, and one encoding of
    all cells for the target.
inference
    Package: `SCGPCLModule.encode` of all cells from the stored gene states. Literal: the encoder in evaluation mode
    over mini-batches, all edges kept.
inference, new gene states
    Package: `encode_all`, which recomputes the gene states before it encodes. Literal: as above.

For the package, Lightning's trainer, its logging and the learning rate schedule are left out. The first epoch, whose k-means
has ten restarts, is a warm-up that is reported below the table; memory includes it. A literal epoch is extrapolated
from a few mini-batches of equal size, after an untimed one. Measurements alternate, and ratios are computed within
each round. Memory (see ``benchmarks/_memory.py``) is that of one whole call for the package, and of two mini-batches for the
literal implementation, which then has gradients and optimiser state. On a machine that runs other jobs, use
``--clock cpu --threads 1``.
"""

import argparse
import os
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

# waiting threads must sleep: spinning threads make small steps depend on the other load of the machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import anndata as ad
import torch
from benchmarks._memory import peak_increase
from benchmarks._runs import (
    BATCH_SIZE,
    CLOCKS,
    CONFIGURATIONS,
    TASKS,
    Data,
    load_call,
    measure_features,
    run_of,
    save,
    simulate,
)
from threadpoolctl import threadpool_limits

from scgpcl.benchmark._tables import markdown


def measure_memory(data: Data, threads: int) -> dict[tuple[str, str], float]:
    """MB of each (implementation, task)."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "counts.npz")
        save(data, path)
        for who in ("literal", *CONFIGURATIONS):
            for task in TASKS:
                if (who, task) == ("literal", "refresh"):
                    found[who, task] = found[who, "infer"]
                    continue
                arguments = (path, who, task, threads)
                found[who, task] = peak_increase(load_call, *arguments, preload="benchmarks._runs") / 1e6
    return found


class Times(NamedTuple):
    """Seconds of each round by (implementation, task), seconds of the first calls, and of the literal's k-means."""

    rounds: dict[tuple[str, str], list[float]]
    first: dict[tuple[str, str], float]
    kmeans: list[float]


def measure_time(data: Data, *, repeats: int, n_steps: int, clock: str) -> Times:
    """Time all tasks of all implementations in alternation."""
    runs = {who: run_of(data, who, n_steps, CLOCKS[clock]) for who in ("literal", *CONFIGURATIONS)}
    times = Times({}, {}, [])
    for task in TASKS:
        runs["literal"].n_steps = 1
        for who, run in runs.items():
            times.first[who, task] = getattr(run, task)()
        runs["literal"].n_steps = n_steps
        for _ in range(repeats):
            for who, run in runs.items():
                times.rounds.setdefault((who, task), []).append(getattr(run, task)())
            if task == "pretrain":
                times.kmeans.append(runs["literal"].kmeans_seconds)
    return times


def rows_of(name: str, times: Times, memory: dict[tuple[str, str], float]) -> list[list[str]]:
    """Rows of the table for one data set."""
    rows = []
    for task, label in TASKS.items():
        literal = times.rounds["literal", task]
        for who in CONFIGURATIONS:
            ours = times.rounds[who, task]
            cells = [name, label, who, f"{statistics.median(literal):.3g}", f"{statistics.median(ours):.3g}"]
            cells.append(_spread([a / b for a, b in zip(literal, ours, strict=True)]))
            without = "-"
            if task == "pretrain":
                without = _spread([(a - k) / b for a, k, b in zip(literal, times.kmeans, ours, strict=True)])
            before, now = memory["literal", task], memory[who, task]
            cells += [without, f"{before:.0f}", f"{now:.0f}", f"{now / before:.2f}"]
            rows.append(cells)
    return rows


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"


HEAD = (
    "data", "task", "package as", "literal s", "package s", "times faster", "times faster, literal without its k-means",
    "literal MB", "package MB", "memory ratio",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="counts in X of an h5ad file")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 3000, 10000], help="simulated cells")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="timed mini-batches of the literal implementation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: seconds of all threads")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    sources = [(f"simulated {n}", lambda n=n: measure_features(simulate(n))) for n in args.sizes]
    if args.data:
        counts = ad.read_h5ad(args.data).X
        sources += [
            (args.data.stem, lambda: measure_features(counts)),
            (f"{args.data.stem}, published genes", lambda: measure_features(counts, published_genes=True)),
        ]
    rows, notes = [], []
    with threadpool_limits(args.threads):
        for name, read in sources:
            data = read()
            memory = measure_memory(data, args.threads)
            times = measure_time(data, repeats=args.repeats, n_steps=args.steps, clock=args.clock)
            rows += rows_of(name, times, memory)
            n_cells, n_genes = data.counts.shape
            share = statistics.median(times.kmeans) / statistics.median(times.rounds["literal", "pretrain"])
            first = ", ".join(f"{who} {times.first[who, 'pretrain']:.3g} s" for who in CONFIGURATIONS)
            notes.append(
                f"- {name}: {n_cells} cells, {n_genes} genes, {data.counts.nnz / n_cells / n_genes:.1%} of the counts "
                f"nonzero. Literal epoch extrapolated from {args.steps} of {-(-n_cells // BATCH_SIZE)} steps; "
                f"{share:.0%} of it is k-means. First pre-training epoch of the package (ten restarts): {first}."
            )
    notes.append(
        f"- Seconds of the {args.clock} clock, threads: {args.threads}, torch {torch.__version__.split('+')[0]}, "
        f"float32, medians of {args.repeats} alternating rounds, ratios with their range over the rounds; memory is "
        "the rise above the start of the call."
    )
    table = "\n".join([*markdown(HEAD, rows), "", *notes])
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
