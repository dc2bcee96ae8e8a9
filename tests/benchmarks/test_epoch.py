"""What the speed benchmark runs and how it measures."""

import functools
import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks._runs")


@pytest.fixture
def data(runs):
    return runs.measure_features(runs.simulate(100, n_genes=60))


def test_simulated_counts_have_the_promised_density(runs):
    counts = runs.simulate(500)
    assert counts.shape == (500, 2000)
    assert abs(counts.nnz / 500 / 2000 - 0.07) < 0.01
    np.testing.assert_array_equal(counts.data, counts.data.round())


@pytest.mark.parametrize("who", ["literal", "paper-sized", "default"])
def test_epochs_train_and_inference_does_not(runs, data, who):
    run = runs.run_of(data, who, n_steps=1)
    network = run.network if who == "literal" else run.module
    for task, trains in {"pretrain": True, "cluster": True, "infer": False, "refresh": False}.items():
        before = [p.detach().clone() for p in network.parameters()]
        assert getattr(run, task)() > 0
        changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True)]
        assert any(changed) is trains, task
        assert network.training


def test_both_sides_have_the_same_trained_weights(runs, data):
    sizes = [
        sum(p.numel() for name, p in network.named_parameters() if not name.startswith("projection."))  # not used here
        for network in (runs.run_of(data, "literal", 1).network, runs.run_of(data, "paper-sized", 1).module)
    ]
    assert sizes[0] == sizes[1]


def test_literal_epoch_is_extrapolated_from_its_steps(runs, data, monkeypatch):
    monkeypatch.setattr(runs, "BATCH_SIZE", 20)
    ticks = itertools.count()
    run = runs.run_of(data, "literal", n_steps=2, clock=lambda: float(next(ticks)))
    assert run.n_batches == 5
    assert run.infer() == 1 * 5 / 2  # two readings of the clock, one tick apart


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux reports it")
def test_peak_memory_of_a_known_array(runs):
    peak_increase = importlib.import_module("benchmarks._memory").peak_increase
    found = peak_increase(functools.partial, np.ones, 25_000_000, preload="numpy")
    assert found == pytest.approx(200e6, rel=0.05)
