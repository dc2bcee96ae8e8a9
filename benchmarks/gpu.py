"""What does a CUDA device change: tests, labels, time, memory, kernels, precision, loaders?

    python -m benchmarks.gpu DATA_DIR --out gpu.csv

One run on a machine with a CUDA device; nothing beyond PyTorch for CUDA is needed. Every task adds its rows to ``--out`` when it
is complete, and a second run does what is left. No task starts after ``--seconds``. ``--accelerator cpu`` with few ``--cells``
tries the script out where there is no such device.

Parts: ``tests``, those marked ``gpu``; ``labels``, the agreement (ARI) of labels from the CPU and from the device on real data, of
two runs on the device, and of the read-out alone (without training) on both; ``kernels``, where the device and the host spend a
pre-training step; ``scale``, seconds of each part of a run, peak memory and the share of time for which training waits for
mini-batches, on simulated counts of ten groups (``benchmarks.scale``); ``precision``, the same with and without bfloat16;
``loaders``, the same from memory, from an h5ad file and with worker processes. From ``--short`` cells on, pre-training is one
epoch.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch
from benchmarks._runs import DEFAULT_BATCH_SIZE, simulate
from benchmarks.scale import BLOCK
from lightning.pytorch.profilers import SimpleProfiler

from scgpcl import SCGPCL, metrics
from scgpcl.benchmark._results import Table
from scgpcl.model import _training
from scgpcl.train import Run

SETS = ("zilionis_mouse_lung_800", "zheng_facs8_785", "tian_celseq2_5cl", "tm_kidney_smartseq2", "pbmc3k")
KEYS = ("part", "subject", "setting")
COLUMNS = (*KEYS, "quantity", "value", "card", "torch")
#: Pre-training steps before the profiler looks, and how many it looks at.
WARM_STEPS, SEEN_STEPS = 20, 40
N_KERNELS = 10
TESTS = ("tests/nn/test_devices.py",)

Values = dict[str, float]


def simulate_block(n_cells: int, block: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts of some cells of ten groups, and their groups: the first draw of the block's own stream."""
    groups = np.random.default_rng([0, 1, block]).integers(10, size=n_cells)
    return simulate(n_cells, seed=0, cell_seed=block), groups


def simulated(n_cells: int, processes: int) -> ad.AnnData:
    """Counts of any number of cells, simulated in parallel."""
    sizes = [min(BLOCK, n_cells - start) for start in range(0, n_cells, BLOCK)]
    if len(sizes) == 1:
        blocks = [simulate_block(n_cells, 0)]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as pool:
            blocks = list(pool.map(simulate_block, sizes, range(len(sizes))))
    adata = ad.AnnData(sp.vstack([counts for counts, _ in blocks], format="csr"))
    adata.obs["cell_type"] = [f"group {group}" for _, groups in blocks for group in groups]
    return adata


class Durations(SimpleProfiler):
    """Lightning's own timer without its report."""

    def describe(self) -> None:
        return


class Utilisation:
    """Mean utilisation of the first card in per cent, sampled in a thread while a block runs; NaN without NVML."""

    def __enter__(self) -> "Utilisation":
        self._stop, self._seen = threading.Event(), []
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            card = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._stop.wait(0.1):
                self._seen.append(pynvml.nvmlDeviceGetUtilizationRates(card).gpu)
        except Exception:  # noqa: BLE001  (no NVML, or no rights: the figure is left out)
            return

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.percent = float(np.mean(self._seen)) if self._seen else float("nan")


@contextmanager
def timed_parts(seconds: Values) -> Iterator[None]:
    """Add the seconds of every part of ``SCGPCL.train`` while a block runs."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

        return call

    parts = [
        (_training.Training, "_prepare", "prepare"),
        (Run, "pretrain", "pretrain"),
        (Run, "place_centers", "read-out"),
        (Run, "cluster", "distillation"),
        (SCGPCL, "_annotate_registered", "annotate"),
    ]
    patches = [mock.patch.object(where, name, timed(part, getattr(where, name))) for where, name, part in parts]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def fit(adata: ad.AnnData, accelerator: str, **train: Any) -> np.ndarray:
    """Cluster with the known number of types; returns the labels."""
    SCGPCL.setup_anndata(adata)
    model = SCGPCL(adata, adata.obs["cell_type"].nunique(), seed=0)
    model.train(accelerator=accelerator, devices=1, enable_progress_bar=False, **train)
    return adata.obs["scgpcl_cluster"].to_numpy()


def measure(adata: ad.AnnData, accelerator: str, **train: Any) -> Values:
    """Seconds of the parts of a run, memory, utilisation, waiting for mini-batches, and ARI."""
    seconds: Values = {}
    profiler = Durations()
    if accelerator != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with timed_parts(seconds), Utilisation() as used:
        labels = fit(adata, accelerator, profiler=profiler, **train)
    found = {f"{name}, s": value for name, value in seconds.items()} | {"whole, s": time.perf_counter() - start}
    durations = {name: sum(values) for name, values in profiler.recorded_durations.items()}
    steps = len(profiler.recorded_durations.get("run_training_batch", ()))
    waited = sum(value for name, value in durations.items() if name.endswith("train_dataloader_next"))
    epochs = durations.get("run_training_epoch", 0.0)
    if steps:
        found |= {"steps": steps, "ms per step": 1e3 * durations["run_training_batch"] / steps}
        found["waiting for mini-batches, share of the epochs"] = waited / epochs
    if accelerator != "cpu":
        found["peak memory, MB"] = torch.cuda.max_memory_allocated() / 1e6
        found["utilisation, %"] = used.percent
    return found | {"ARI": metrics.ari(adata.obs["cell_type"], labels)}


def run_tests() -> Values:
    """Results of the tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rf", *TESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    words = done.stdout.strip().splitlines()[-1].replace(",", "").split()
    return {
        name: float(words[words.index(name) - 1]) if name in words else 0.0 for name in ("passed", "failed", "skipped")
    }


def compare_labels(path: Path, accelerator: str) -> Values:
    """Agreement of the labels of one data set on the CPU and on the device, with whole runs and with the read-out alone."""
    adata = ad.read_h5ad(path)
    types = adata.obs["cell_type"]
    run = partial(fit, adata)
    read_out = {"pretrain_max_epochs": 0}
    host, device, again = run("cpu"), run(accelerator), run(accelerator)
    host_only, device_only = run("cpu", **read_out), run(accelerator, **read_out)
    return {
        "ARI of CPU and device": metrics.ari(host, device),
        "ARI of two runs on the device": metrics.ari(device, again),
        "ARI of CPU and device, read-out alone": metrics.ari(host_only, device_only),
        "ARI of CPU and types": metrics.ari(types, host),
        "ARI of device and types": metrics.ari(types, device),
    }


class Kernels(pl.Callback):
    """Profile some steps of pre-training."""

    def __init__(self, accelerator: str) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([] if accelerator == "cpu" else [ProfilerActivity.CUDA])]
        self.profile = profile(activities=activities)
        self.on_device = accelerator != "cpu"
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == WARM_STEPS:
            self._wait()
            self.start = time.perf_counter()
            self.profile.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == WARM_STEPS + SEEN_STEPS:
            self._wait()
            self.seconds = time.perf_counter() - self.start
            self.profile.stop()
            trainer.should_stop = True

    def _wait(self) -> None:
        if self.on_device:
            torch.cuda.synchronize()

    def values(self) -> Values:
        """Milliseconds per step: of the whole, of all kernels, of the largest ones, and of the largest calls of the host."""
        events = self.profile.key_averages()
        per_step = 1e-3 / SEEN_STEPS
        found = {"whole step, profiled, ms": 1e3 * self.seconds / SEEN_STEPS}
        kernels = [event for event in events if event.device_type != torch.autograd.DeviceType.CPU]
        if kernels:
            found["all kernels, ms"] = sum(event.self_device_time_total for event in kernels) * per_step
            found["kernels, number"] = sum(event.count for event in kernels) / SEEN_STEPS
        for event in sorted(kernels, key=lambda event: -event.self_device_time_total)[:N_KERNELS]:
            found[f"kernel, ms: {event.key[:100]}"] = event.self_device_time_total * per_step
        calls = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
        for event in sorted(calls, key=lambda event: -event.self_cpu_time_total)[:N_KERNELS]:
            found[f"host, ms: {event.key[:100]}"] = event.self_cpu_time_total * per_step
        return found


def profile_steps(adata: ad.AnnData, accelerator: str) -> Values:
    """Largest kernels of pre-training steps with prototypes."""
    kernels = Kernels(accelerator)
    plan = {"warmup_epochs": 0}
    fit(
        adata,
        accelerator,
        callbacks=[kernels],
        pretrain_plan_kwargs=plan,
        pretrain_max_epochs=1 + (WARM_STEPS + SEEN_STEPS) * DEFAULT_BATCH_SIZE // adata.n_obs,
        cluster_max_epochs=0,
    )
    return kernels.values()


def measure_backed(adata: ad.AnnData, accelerator: str, **train: Any) -> Values:
    """A run from an h5ad file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        adata[:, :].copy().write_h5ad(path)
        backed = ad.read_h5ad(path, backed="r")
        try:
            return measure(backed, accelerator, **train)
        finally:
            backed.file.close()


def tasks(args: argparse.Namespace, cells: Callable[[int], ad.AnnData]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every task with its keys, the most wanted first."""
    device = args.accelerator
    small = min(args.cells, key=lambda n: abs(n - args.profiled))
    short = lambda n: {"pretrain_max_epochs": 1} if n >= args.short else {}
    yield ("tests", "tests marked gpu", ""), run_tests
    yield ("kernels", f"{small} cells", ""), lambda: profile_steps(cells(small), device)
    for n in args.cells[:2]:
        yield ("scale", f"{n} cells", ""), lambda n=n: measure(cells(n), device, **short(n))
    for name in args.datasets:
        yield ("labels", name, ""), lambda name=name: compare_labels(args.data / f"{name}.h5ad", device)
    few = {"pretrain_max_epochs": 3}
    for precision in ("32-true", "bf16-mixed"):
        task = lambda p=precision: measure(cells(small), device, precision=p, **few)
        yield ("precision", f"{small} cells", precision), task
    yield (
        ("loaders", f"{small} cells", "memory, 4 workers"),
        lambda: measure(cells(small), device, datasplitter_kwargs={"num_workers": 4}, **few),
    )
    yield ("loaders", f"{small} cells", "h5ad file"), lambda: measure_backed(cells(small), device, **few)
    for n in args.cells[2:]:
        yield (
            ("scale", f"{n} cells", "one epoch" if short(n) else ""),
            lambda n=n: measure(cells(n), device, **short(n)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with h5ad files: counts in X, types in obs['cell_type']")
    parser.add_argument("--datasets", nargs="*", default=list(SETS), help="file names without .h5ad")
    parser.add_argument("--cells", type=int, nargs="+", default=[3000, 30_000, 300_000, 1_000_000])
    parser.add_argument("--short", type=int, default=100_000, help="cells from which on pre-training is one epoch")
    parser.add_argument("--profiled", type=int, default=30_000, help="cells of the profile, about")
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--processes", type=int, default=8, help="that simulate counts")
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no task starts")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    start = time.perf_counter()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    on_card = args.accelerator != "cpu"
    versions = {"card": torch.cuda.get_device_name() if on_card else "CPU", "torch": torch.__version__}
    table = Table(args.out, KEYS, COLUMNS, text=[name for name in COLUMNS if name != "value"])
    done = table.done()
    made: dict[int, ad.AnnData] = {}

    def cells(n_cells: int) -> ad.AnnData:
        if n_cells not in made:
            made.clear()
            made[n_cells] = simulated(n_cells, args.processes)
        return made[n_cells]

    for key, task in tasks(args, cells):
        if key in done:
            continue
        if time.perf_counter() - start > args.seconds:
            print(f"{key} is left for another run.", flush=True)
            continue
        began = time.perf_counter()
        try:
            found = task()
        except Exception as error:  # noqa: BLE001  (a failure is a result, and the rest is wanted)
            found = {f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}": float("nan")}
        table.add(
            [dict(zip(KEYS, key, strict=True)) | {"quantity": q, "value": v} | versions for q, v in found.items()]
        )
        print(f"{time.perf_counter() - start:6.1f} s, {time.perf_counter() - began:5.1f} s:", key, found, flush=True)


if __name__ == "__main__":
    main()
