"""What a step makes and multiplies, counted: times differ between machines, sizes do not."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scgpcl.data import bipartite_batch
from scgpcl.model import _levels
from scgpcl.module import SCGPCLModule
from scgpcl.nn import _zinb, instance_loss
from scgpcl.pp import _axes
from scgpcl.train import PretrainPlan, _callbacks, _read_out

N_CELLS, N_GENES, N_HIDDEN, N_LATENT, N_VIEWS = 90, 240, 16, 8, 2
N_PROTOTYPES = 3


@pytest.fixture
def products(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks._products")


@pytest.fixture
def block():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (N_CELLS, N_GENES)) * (rng.random((N_CELLS, N_GENES)) < 0.1)
    return bipartite_batch(sp.csr_matrix(counts, dtype=np.float32), np.ones(N_CELLS), np.arange(N_CELLS))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return SCGPCLModule(N_GENES, 3, n_hidden=N_HIDDEN, n_latent=N_LATENT, dispersion="gene", use_graph=True, n_batch=0)


def view_of(module):
    return PretrainPlan(module, seed=0, n_clusters=3).views(2)


def test_encoder_makes_nothing_of_size_cells_by_genes(products, module, block):
    """Neither features nor edges are spread out: the largest tensor is one of genes, views and hidden units."""
    largest_of_genes = N_GENES * N_VIEWS * N_HIDDEN
    largest_of_edges = len(block.counts)  # int64 positions and values of the batch's own edges, without the width
    assert max(largest_of_genes, largest_of_edges) < N_CELLS * N_GENES
    with products.ProductRecorder() as recorder:
        module.inference(block, view_of(module))["z"].sum().backward()
    assert recorder.largest <= max(largest_of_genes, largest_of_edges)
    assert not any({N_CELLS, N_GENES} <= set(shape) for shape in recorder.shapes)
    assert not any(len(block.counts) in shape and len(shape) > 1 for shape in recorder.shapes)


def test_likelihood_makes_nothing_larger_than_a_slice(products, module, block, monkeypatch):
    """The decoder's output, the likelihood and its gradients exist for one slice of cells at a time."""
    n_out = module.decoder.heads.out_features
    monkeypatch.setattr(_zinb, "SLICE_ENTRIES", 10 * N_VIEWS * n_out)  # ten cells
    z = torch.randn(N_CELLS, N_VIEWS, N_LATENT, requires_grad=True)
    with products.ProductRecorder() as recorder:
        module.reconstruction_loss(block, z).backward()
    slice_entries = 4 * 10 * N_VIEWS * n_out  # the output and the room that the likelihood needs beside it
    assert recorder.largest <= max(slice_entries, N_VIEWS * len(block.counts), n_out * N_HIDDEN)
    assert recorder.largest < N_CELLS * N_VIEWS * n_out


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_step_multiplies_no_more_than_the_method_needs(products, module, block, share):
    """Multiplications of dense matrices in one pre-training step, against a list written from the equations."""
    plan = PretrainPlan(module, n_clusters=N_PROTOTYPES, seed=0, granularity=(1.0,), decoded_genes=share)
    plan.log_losses = lambda *args: None
    plan.prototypes = [torch.randn(N_PROTOTYPES, N_LATENT)]
    plan.prototype_labels = [torch.arange(N_CELLS) % N_PROTOTYPES]
    plan.warmup_epochs = 0
    found = sum(p.flops for p in products.products_of(lambda: plan.training_step(block, 0).backward()))
    rows, both = N_CELLS * N_VIEWS, N_GENES * N_VIEWS
    decoder = 3 * rows * (N_LATENT * N_HIDDEN + share * N_HIDDEN * module.decoder.heads.out_features)
    projection = 3 * rows * 2 * N_LATENT * N_LATENT
    instances = rows * rows * (N_LATENT + 2 * N_LATENT)
    prototypes = 3 * rows * N_PROTOTYPES * N_LATENT
    # messages to the first cells (after aggregation), genes' own path, messages to the second cells, cells' own path
    encoder = 3 * (
        rows * N_LATENT * N_HIDDEN
        + both * N_LATENT * N_HIDDEN
        + both * N_HIDDEN * N_LATENT
        + rows * N_HIDDEN * N_LATENT
    )
    offsets = 3 * 2 * N_GENES * N_VIEWS * N_HIDDEN  # the value of a zero, through the weights of both first projections
    needed = 2 * (decoder + projection + instances + prototypes + encoder + offsets)
    assert 0.9 * needed < found <= needed


def test_one_clustering_of_all_cells_per_number_and_epoch(adata, fit, monkeypatch):
    """k-means sees all cells once for K and once for each granularity of an epoch, never a mini-batch."""
    calls = []
    kmeans = _callbacks.kmeans
    monkeypatch.setattr(
        _callbacks, "kmeans", lambda x, k, **kwargs: (calls.append((len(x), k)), kmeans(x, k, **kwargs))[1]
    )
    settings = {"pretrain_max_epochs": 3, "cluster_max_epochs": 0, "batch_size": 40}
    plan = {"warmup_epochs": 0, "granularity": (1.5, 2.0)}
    fit(adata, train={**settings, "pretrain_plan_kwargs": plan})
    assert {n for n, _ in calls} == {adata.n_obs}
    assert len(calls) == 2 + 3 * (1 + 2)  # granularities before the first epoch, then all numbers after each


def test_axes_are_found_and_the_tree_is_grown_once_in_a_run(adata, fit, monkeypatch):
    """The start and the consensus use the same axes, and only the last stage grows the tree."""
    calls = []
    for module, name in ((_axes, "principal_axes"), (_axes, "discriminant_axes"), (_read_out, "grow")):
        original = getattr(module, name)
        counted = lambda *args, _name=name, _original=original, **kwargs: (
            calls.append(_name),
            _original(*args, **kwargs),
        )[1]
        monkeypatch.setattr(module, name, counted)
    fit(adata, train={"pretrain_max_epochs": 1, "cluster_max_epochs": 1})
    assert sorted(calls) == ["discriminant_axes", "grow", "principal_axes"]


def test_cells_are_followed_down_the_tree_in_blocks(adata, fit, monkeypatch):
    """The sizes of the nodes need the memory of one block of cells, whatever their number."""
    model = fit(adata, train={"pretrain_max_epochs": 1, "cluster_max_epochs": 1})
    wanted = model.get_tree()["size"]
    monkeypatch.setattr(_levels, "COUNTED_CELLS", 32)
    seen = []
    original = type(model)._leaf_probability
    counted = lambda self, grown, z, hidden: (seen.append(len(z)), original(self, grown, z, hidden))[1]
    monkeypatch.setattr(type(model), "_leaf_probability", counted)
    model.tree_["values"].pop("size")
    model._count_cells(model.get_latent_representation())
    assert max(seen) == 32
    pd.testing.assert_series_equal(model.get_tree()["size"], wanted)


def test_counts_are_cut_out_and_turned_round_once_per_step(adata, fit, monkeypatch):
    """One block per mini-batch serves both views, all layers and the likelihood."""
    from scgpcl.data import _cells

    built = []
    original = _cells.bipartite_batch
    monkeypatch.setattr(_cells, "bipartite_batch", lambda *args: (built.append(len(args[2])), original(*args))[1])
    fit(adata, train={"pretrain_max_epochs": 1, "cluster_max_epochs": 0, "batch_size": 40})
    assert built.count(40) == 3


def test_instance_loss_keeps_two_tables_of_pairs_at_most(products):
    z = torch.randn(N_CELLS, N_VIEWS, N_LATENT, requires_grad=True)
    with products.ProductRecorder() as recorder:
        instance_loss(z, tau=0.25).backward()
    assert recorder.largest == (N_CELLS * N_VIEWS) ** 2
