"""Times of parts, for pytest-benchmark; README.md says what counts as a regression.

pytest benchmarks/suite.py
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from benchmarks._runs import Data, PackageRun, measure_features, simulate

from scgpcl.cluster import kmeans
from scgpcl.data import BipartiteBatch, Cells, bipartite_batch

N_CELLS, N_BATCH = 4096, 256


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> Data:
    return measure_features(simulate(N_CELLS))


@pytest.fixture(scope="module")
def run(data) -> PackageRun:
    return PackageRun(data, "default")


@pytest.fixture(scope="module")
def batch(data) -> BipartiteBatch:
    index = np.arange(N_BATCH)
    return bipartite_batch(data.counts[index], data.size_factor[index], index)


def test_batch_building(benchmark, data):
    source, index = Cells(data.counts, data.size_factor), np.random.default_rng(0).permutation(N_CELLS)[:N_BATCH]
    benchmark(lambda: bipartite_batch(source.rows(index), source.size_factor[index], index))


def test_views(benchmark, run):
    benchmark(run._pretrain[0].views)


def test_encoder_and_its_gradients(benchmark, run, batch):
    view = run._pretrain[0].views()
    benchmark(lambda: run.module.inference(batch, view)["z"].sum().backward())


def test_likelihood_and_its_gradients(benchmark, run, batch):
    z = torch.randn(N_BATCH, 2, run.module.n_latent, requires_grad=True)
    features = run.module.features(batch)
    benchmark(lambda: run.module.reconstruction_loss(batch, z, features).backward())


def test_prototypes(benchmark):
    x = torch.nn.functional.normalize(torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    start = kmeans(x, 20, n_init=1).centers
    benchmark(lambda: kmeans(x, 20, init=start))


def test_inference(benchmark, run):
    benchmark(run.infer)
