"""Epochs of this package and of the literal implementation on the same counts, as timed by the speed studies."""

import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from benchmarks import _literal
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from scgpcl import presets
from scgpcl.data import BipartiteSplitter, Cells
from scgpcl.model import SCGPCL
from scgpcl.module import SCGPCLModule
from scgpcl.nn import neighborhood
from scgpcl.pp import fit_features
from scgpcl.train import (
    ClusterPlan,
    DistillationPlan,
    LabelWatch,
    PretrainPlan,
    PrototypeUpdate,
    TargetUpdate,
    encode_all,
)

N_CLUSTERS = 10
N_GENES = 2000
BATCH_SIZE = 1024
GRANULARITY = (1.0, 1.5, 2.0)
#: Wall time, or CPU time of all threads of the process.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
#: Methods of both runners, and their names in the table.
TASKS = {
    "pretrain": "pre-training epoch",
    "cluster": "clustering epoch",
    "infer": "inference",
    "refresh": "inference, new gene states",
}
SAME_METHOD = {"n_hidden": 256, "n_latent": 64, "dispersion": "gene-cell"}
SAME_LOSS = {"decoded_genes": 1.0, "projection": False}


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Default of every argument that has one."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


DEFAULT_BATCH_SIZE = defaults(SCGPCL.train)["batch_size"]
#: Arguments of the model and of pre-training that differ from the defaults, and the batch size.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "paper-sized": (SAME_METHOD, SAME_LOSS, BATCH_SIZE),
    "default": ({}, {}, DEFAULT_BATCH_SIZE),
    "default, all genes decoded": ({}, {"decoded_genes": 1.0}, DEFAULT_BATCH_SIZE),
}


class Data(NamedTuple):
    """Counts of the chosen genes (CSR, float32), size factors, and what the features are centred and divided by."""

    counts: sp.csr_matrix
    size_factor: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def simulate(n_cells: int, *, n_genes: int = N_GENES, seed: int = 0, cell_seed: int | None = None) -> sp.csr_matrix:
    """Multinomial counts of ten groups of cells, about 7 % of them nonzero; no dense array is created.

    With ``cell_seed`` cells are drawn from a separate stream, so that several blocks share the profiles of the groups.
    """
    rng = np.random.default_rng(seed)
    groups = rng.integers(N_CLUSTERS, size=n_cells if cell_seed is None else 0)
    profile = rng.lognormal(0.0, 1.5, n_genes) * rng.lognormal(0.0, 0.7, (N_CLUSTERS, n_genes))
    if cell_seed is not None:
        rng = np.random.default_rng([seed, 1, cell_seed])
        groups = rng.integers(N_CLUSTERS, size=n_cells)
    reads = np.maximum(20, rng.lognormal(np.log(175.0), 0.35, n_cells)).astype(np.int64)
    cells = np.repeat(np.arange(n_cells), reads)
    genes = np.empty(len(cells), dtype=np.int64)
    for group in range(N_CLUSTERS):
        here = groups[cells] == group
        cumulative = profile[group].cumsum() / profile[group].sum()
        genes[here] = np.searchsorted(cumulative, rng.random(int(here.sum()))).clip(max=n_genes - 1)
    counts = sp.csr_matrix((np.ones(len(cells), dtype=np.float32), (cells, genes)), shape=(n_cells, n_genes))
    counts.sum_duplicates()
    return counts


def simulated_groups(n_cells: int, *, seed: int = 0) -> np.ndarray:
    """Group of each cell of :func:`simulate` without ``cell_seed``."""
    return np.random.default_rng(seed).integers(N_CLUSTERS, size=n_cells)


def measure_features(counts: sp.csr_matrix, *, published_genes: bool = False) -> Data:
    """Choose genes as the defaults do, or a fifth of them by raw variance as published; measure features."""
    counts = sp.csr_matrix(counts, dtype=np.float32)
    chosen = {**defaults(SCGPCL), **(presets.PAPER["model"] if published_genes else {})}
    n_genes = round(chosen["n_top_genes"] * counts.shape[1]) if published_genes else N_GENES
    found = fit_features(
        counts, size=None, n_genes=n_genes, flavor=chosen["gene_flavor"], gene_scaling=chosen["gene_scaling"]
    )
    return Data(counts[:, np.flatnonzero(found.mask)], found.cells.size_factor, found.moments.mean, found.moments.std)


class PackageRun:
    """Epochs of this package with its own splitter, plans and callbacks; every method returns seconds."""

    def __init__(
        self,
        data: Data,
        configuration: str,
        clock: Callable[[], float] = time.perf_counter,
        components: np.ndarray | None = None,
    ) -> None:
        self.clock = clock
        changed, in_plans, batch_size = CONFIGURATIONS[configuration]
        wanted = {**defaults(SCGPCL), **changed, "n_batch": 0}
        known = set(inspect.signature(SCGPCLModule).parameters) - {"n_clusters"}
        torch.manual_seed(0)
        self.module = SCGPCLModule(
            data.counts.shape[1], N_CLUSTERS, **{name: value for name, value in wanted.items() if name in known}
        )
        self.module.centers.data.normal_()
        self.module.gene_mean.copy_(torch.from_numpy(data.mean))
        self.module.gene_std.copy_(torch.from_numpy(data.std))
        source = Cells(data.counts, data.size_factor)
        self.splitter = BipartiteSplitter(source, seed=0, batch_size=batch_size, train_size=1.0)
        changed = {"one_cycle": False, "warmup_epochs": 0, "granularity": GRANULARITY, **in_plans}
        near = None
        if configuration != "paper-sized":
            if components is None:
                components = PCA(50, random_state=0).fit_transform(np.log1p(data.counts.toarray()))
            near = neighborhood(torch.from_numpy(components).float(), defaults(PretrainPlan)["n_neighbors"])
        plan = PretrainPlan(self.module, n_clusters=N_CLUSTERS, seed=0, neighborhood=near, **changed)
        update = PrototypeUpdate(self.splitter, n_clusters=N_CLUSTERS, agreement=2.0, patience=1, seed=0)
        self._pretrain = (plan, update, plan.configure_optimizers())
        if configuration == "paper-sized":
            plan = ClusterPlan(self.module, seed=0, one_cycle=False)
            watch = TargetUpdate(self.splitter, tol=0.0)
        else:
            plan = DistillationPlan(self.module, seed=0, one_cycle=False)
            plan.cells, plan.latent = torch.arange(len(source)), encode_all(self.module, self.splitter)
            plan.target = torch.nn.functional.one_hot(plan.cells % N_CLUSTERS, N_CLUSTERS).float()
            watch = LabelWatch(tol=0.0)
        self._cluster = (plan, watch, plan.configure_optimizers())

    def pretrain(self) -> float:
        return self._epoch(*self._pretrain)

    def cluster(self) -> float:
        return self._epoch(*self._cluster)

    def infer(self) -> float:
        self.module.eval()
        start = self.clock()
        torch.cat([self.module.encode(batch) for batch in self.splitter.batches()])
        seconds = self.clock() - start
        self.module.train()
        return seconds

    def refresh(self) -> float:
        start = self.clock()
        encode_all(self.module, self.splitter)
        return self.clock() - start

    def _epoch(self, plan: Any, callback: Any, optimizer: torch.optim.Optimizer) -> float:
        plan.log = plan.log_losses = lambda *args, **kwargs: None
        trainer = SimpleNamespace(current_epoch=0, should_stop=False, world_size=1)
        for parameter in self.module.parameters():
            parameter.requires_grad_(not any(parameter is each for each in plan.frozen))
        start = self.clock()
        plan.on_train_epoch_start()
        callback.on_train_epoch_start(trainer, plan)
        for step, batch in enumerate(self.splitter.train_dataloader()):
            optimizer.zero_grad()
            plan.training_step(batch, step).backward()
            optimizer.step()
        callback.on_train_epoch_end(trainer, plan)
        seconds = self.clock() - start
        self.module.requires_grad_(True)
        return seconds


class LiteralRun:
    """Some mini-batches of the literal implementation; every method returns the seconds of a whole epoch."""

    def __init__(self, data: Data, n_steps: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        torch.manual_seed(0)
        self.data = data
        self.n_steps = n_steps
        self.n_batches = -(-data.counts.shape[0] // BATCH_SIZE)
        self.network = _literal.LiteralNetwork(data.counts.shape[1], n_clusters=N_CLUSTERS)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-4)
        self.generator = torch.Generator().manual_seed(0)
        self.numbers = [round(g * N_CLUSTERS) for g in GRANULARITY]
        self.kmeans_seconds = 0.0

    def pretrain(self) -> float:
        self.kmeans_seconds = 0.0
        seconds = self._timed(self._pretrain_step)
        self.kmeans_seconds *= self.n_batches / self.n_steps
        return seconds

    def cluster(self) -> float:
        return self._timed(self._cluster_step) + self.infer()

    def infer(self) -> float:
        self.network.eval()
        with torch.no_grad():
            seconds = self._timed(lambda batch: self.network.soft_assign(self.network.encode(batch)))
        self.network.train()
        return seconds

    refresh = infer

    def _timed(self, step: Callable[[_literal.Batch], Any]) -> float:
        start = self.clock()
        for index in self._indices():
            data = self.data
            step(_literal.dense_batch(data.counts[index], data.size_factor[index], data.mean, data.std))
        return (self.clock() - start) * self.n_batches / self.n_steps

    def _indices(self) -> Iterator[np.ndarray]:
        order = torch.randperm(self.data.counts.shape[0], generator=self.generator).numpy()
        parts = np.array_split(order, self.n_batches)
        return (parts[i % self.n_batches] for i in range(self.n_steps))

    def _pretrain_step(self, batch: _literal.Batch) -> None:
        network = self.network
        masks = [_literal.draw_masks(batch.counts.shape[1], 64, self.generator) for _ in range(2)]
        z1, z2 = (network.encode(batch, mask) for mask in masks)
        start = self.clock()
        prototypes = _literal.local_prototypes(z1, [k for k in self.numbers if k <= len(z1)])
        self.kmeans_seconds += self.clock() - start
        loss = (network.zinb_loss(batch, z1) + network.zinb_loss(batch, z2)) / 2
        loss = loss + _literal.instance_loss(z1, z2) + 0.05 * _literal.prototype_loss(z1, z2, prototypes)
        self._descend(loss)

    def _cluster_step(self, batch: _literal.Batch) -> None:
        z = self.network.encode(batch)
        q = self.network.soft_assign(z)
        p = _literal.target_distribution(q).detach()  # in place of the rows of the target of all cells
        self._descend(_literal.clustering_loss(q, p) + self.network.zinb_loss(batch, z))

    def _descend(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def run_of(
    data: Data, who: str, n_steps: int, clock: Callable[[], float] = time.perf_counter
) -> PackageRun | LiteralRun:
    return LiteralRun(data, n_steps, clock) if who == "literal" else PackageRun(data, who, clock)


def save(data: Data, path: str) -> None:
    x = data.counts
    rest = {"size_factor": data.size_factor, "mean": data.mean, "std": data.std}
    np.savez(path, data=x.data, indices=x.indices, indptr=x.indptr, shape=x.shape, **rest)


def load_call(path: str, who: str, task: str, threads: int) -> Callable[[], float]:
    """Load saved data and build the networks in a process whose memory is measured; returns the call."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    with np.load(path) as file:
        counts = sp.csr_matrix((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
        data = Data(counts, file["size_factor"], file["mean"], file["std"])
    return getattr(run_of(data, who, n_steps=2), task)
