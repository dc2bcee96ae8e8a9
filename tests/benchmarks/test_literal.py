"""The implementation that the package is timed against does the same work: equal losses from equal weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from scgpcl.cluster import kmeans
from scgpcl.data import bipartite_batch
from scgpcl.module import SCGPCLModule
from scgpcl.nn import View, clustering_loss, instance_loss, prototype_loss, target_distribution
from scgpcl.train import PretrainPlan

N_CLUSTERS = 3


def load(name):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


literal = load("_literal")


@pytest.fixture
def pair(counts):
    """The package's module and the literal network with its weights, and the same mini-batch for both, in float64."""
    torch.manual_seed(0)
    n_genes = counts.shape[1]
    published = {"dispersion": "gene-cell", "use_graph": True, "n_batch": 0}
    ours = SCGPCLModule(n_genes, N_CLUSTERS, n_hidden=9, n_latent=6, **published).double()
    ours.centers.data.normal_()
    size = np.asarray(counts.sum(1)).ravel()
    size = (size / np.median(size)).astype(np.float32)
    log = np.log1p(counts.toarray() / size[:, None])
    mean, std = log.mean(0), log.std(0).clip(min=1e-2)
    ours.gene_mean.copy_(torch.from_numpy(mean))
    ours.gene_std.copy_(torch.from_numpy(std))
    batch = bipartite_batch(counts.copy(), size, np.arange(len(size)))
    batch = batch._replace(counts=batch.counts.double(), size_factor=batch.size_factor.double())

    theirs = literal.LiteralNetwork(n_genes, n_hidden=9, n_latent=6, n_clusters=N_CLUSTERS).double()
    copy_weights(ours, theirs)
    return ours, theirs, batch, literal.dense_batch(counts, size, mean, std, dtype=torch.float64)


def copy_weights(ours, theirs):
    encoder, decoder = ours.encoder, ours.decoder
    theirs.gene_embedding.data.copy_(encoder.gene_embedding)
    for conv, source in (
        (theirs.cell_conv1, encoder.cell1),
        (theirs.gene_conv1, encoder.gene1),
        (theirs.cell_conv2, encoder.cell2),
        (theirs.hidden, decoder.hidden.linear),
    ):
        conv.load_state_dict(source.state_dict())
    heads = (theirs.mean_head, theirs.dropout_head, theirs.dispersion_head)
    for head, weight, bias in zip(heads, decoder.heads.weight.chunk(3), decoder.heads.bias.chunk(3), strict=True):
        head.weight.data.copy_(weight)
        head.bias.data.copy_(bias)
    theirs.centers.data.copy_(ours.centers)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_pretraining_losses_and_their_gradients(pair):
    ours, theirs, batch, dense = pair
    view = View(*(mask.double() for mask in PretrainPlan(ours, seed=0, n_clusters=N_CLUSTERS).views(2)))
    z = ours.inference(batch, view)["z"]
    z1, z2 = (theirs.encode(dense, literal.Masks(*(mask[:, i] > 0 for mask in view))) for i in range(2))
    close(z, torch.stack([z1, z2], 1))

    found = [kmeans(normalize(z.detach()[:, 0]), k) for k in (3, 5)]
    centers, labels = [f.centers for f in found], [f.labels for f in found]
    mine = (
        instance_loss(z, tau=0.25),
        prototype_loss(z, centers, labels, tau=0.25),
        ours.reconstruction_loss(batch, z),
    )
    others = (
        literal.instance_loss(z1, z2),
        literal.prototype_loss(z1, z2, list(zip(centers, labels, strict=True))),
        (theirs.zinb_loss(dense, z1) + theirs.zinb_loss(dense, z2)) / 2,
    )
    for got, want in zip(mine, others, strict=True):
        close(got, want)
    got = torch.autograd.grad(sum(mine), [ours.encoder.gene_embedding, ours.encoder.cell1.lin_r.weight])
    want = torch.autograd.grad(sum(others), [theirs.gene_embedding, theirs.cell_conv1.lin_r.weight])
    close(got, want)


def test_clustering_losses(pair):
    ours, theirs, batch, dense = pair
    z, wanted = ours.inference(batch)["z"], theirs.encode(dense)
    close(z[:, 0], wanted)
    q, wanted_q = ours.soft_assign(z[:, 0]), theirs.soft_assign(wanted)
    p, wanted_p = target_distribution(q).detach(), literal.target_distribution(wanted_q).detach()
    close(p, wanted_p)
    close(clustering_loss(q, p), literal.clustering_loss(wanted_q, wanted_p))
    close(ours.reconstruction_loss(batch, z), theirs.zinb_loss(dense, wanted))


def test_local_prototypes_are_those_of_the_rows():
    z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    ((centers, labels),) = literal.local_prototypes(z, [3])
    rows = normalize(z, dim=1)
    for k in range(3):
        torch.testing.assert_close(centers[k], rows[labels == k].mean(0), rtol=1e-3, atol=1e-3)


def test_masks_keep_the_right_share():
    masks = literal.draw_masks(2000, 64, torch.Generator().manual_seed(0))
    assert int(masks.neighbor.sum()) == 1600
    assert abs(float(masks.feature.double().mean()) - 0.8) < 0.05
