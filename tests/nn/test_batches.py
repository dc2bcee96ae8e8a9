"""Tensors with batches against dense matrices and slow loops."""

import numpy as np
import pytest
import torch

from scgpcl.data import bipartite_batch
from scgpcl.nn import (
    BatchLinks,
    BipartiteEncoder,
    Decoder,
    StandardizedCounts,
    View,
    draw_view,
    instance_loss,
    standardized_counts,
)

N_BATCH = 3


@pytest.fixture
def case(batch):
    """Features of three batches, sparse and dense."""
    g = torch.Generator().manual_seed(0)
    n_cells, n_genes = batch.graph.n_cells, batch.graph.n_genes
    index = torch.randint(N_BATCH, (n_cells,), generator=g)
    mean = torch.rand(N_BATCH, n_genes, generator=g, dtype=torch.float64)
    std = 0.2 + torch.rand(N_BATCH, n_genes, generator=g, dtype=torch.float64)
    adjacency = torch.zeros(n_cells, n_genes, dtype=torch.float64)
    adjacency[batch.graph.rows, batch.graph.indices.long()] = 1.0
    dense = torch.zeros_like(adjacency)
    dense[batch.graph.rows, batch.graph.indices.long()] = batch.counts.double()
    mean_share = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1.0)
    share = torch.stack([mean_share[index == b].mean(0) for b in range(N_BATCH)])
    links = BatchLinks(index, share)
    size = 2.0 * batch.size_factor.double()
    sparse = standardized_counts(batch.graph, batch.counts.double(), size, mean, std, clip=4.0, links=links)
    features = ((torch.log1p(dense / size[:, None]) - mean[index]) / std[index]).clamp(max=4.0)
    return sparse, features, adjacency


def test_projection_equals_dense(case):
    sparse, features, _ = case
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(5, features.shape[1], generator=g, dtype=torch.float64)
    mask = (torch.rand(features.shape[1], 2, generator=g) > 0.3).double()
    torch.testing.assert_close(sparse.project(weight)[:, 0], features @ weight.t())
    masked = sparse._replace(mask=mask).project(weight)
    for view in range(2):
        torch.testing.assert_close(masked[:, view], (features * mask[:, view]) @ weight.t())


def centred_mean(adjacency, links, x, keep):
    """Mean over kept neighbours, less the mean that the batch's typical shares give, cell by cell."""
    rows = []
    for i, linked in enumerate(adjacency):
        weight = linked * keep
        own = (weight[:, None] * x).sum(0) / max(float(weight.sum()), 1.0)
        share = links.share[links.batch[i]] * keep
        rows.append(own - (share[:, None] * x).sum(0) / share.sum())
    return torch.stack(rows)


def test_encoder_equals_a_slow_loop(case):
    sparse, features, adjacency = case
    n_genes = features.shape[1]
    torch.manual_seed(0)
    encoder = BipartiteEncoder(n_genes, n_hidden=7, n_latent=5, use_graph=True).double()
    view = draw_view(n_genes, 5, neighbor_keep=0.7, feature_drop=0.3, generator=torch.Generator().manual_seed(2))
    view = View(*(m.double() for m in view))
    got = encoder(sparse, view)
    norm = lambda v: torch.nn.functional.batch_norm(v, None, None, training=True)
    for k in range(2):
        cell, gene = features * view.feature[:, k], encoder.gene_embedding * view.embedding[:, k]
        for conv, to_gene in ((encoder.cell1, encoder.gene1), (encoder.cell2, None)):
            message = centred_mean(adjacency, sparse.links, gene, view.neighbor[:, k])
            after = norm(message @ conv.lin_l.weight.t() + conv.lin_l.bias + cell @ conv.lin_r.weight.t())
            if to_gene is not None:
                mean = adjacency.t() @ cell / adjacency.sum(0)[:, None].clamp(min=1.0)
                gene = norm(mean @ to_gene.lin_l.weight.t() + to_gene.lin_l.bias + gene @ to_gene.lin_r.weight.t())
            cell = after
        torch.testing.assert_close(got[:, k], cell, rtol=1e-6, atol=1e-8)


def test_exact_inference_equals_one_full_batch(batch, counts, case):
    sparse, _, _ = case
    encoder = BipartiteEncoder(batch.graph.n_genes, n_hidden=9, n_latent=6, use_graph=True).double()
    blocks = []
    for rows in np.array_split(np.arange(counts.shape[0]), 4):
        part = bipartite_batch(counts[rows], batch.size_factor[rows].numpy(), rows)
        edges = (batch.graph.rows >= rows[0]) & (batch.graph.rows <= rows[-1])
        links = sparse.links._replace(batch=sparse.links.batch[rows])
        blocks.append(StandardizedCounts(part.graph, sparse.values[edges], sparse.offset, None, links))
    wanted = encoder(sparse)[:, 0].detach()
    encoder.fit_states(lambda: iter(blocks))
    encoder.eval()
    torch.testing.assert_close(torch.cat([encoder.encode(b) for b in blocks]), wanted, rtol=1e-6, atol=1e-7)


def test_links_alone_tell_batches_apart_no_more(case):
    """Messages of any genes have the same mean in every batch."""
    sparse, _, adjacency = case
    gene = torch.randn(adjacency.shape[1], 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = adjacency @ gene[:, 0] / adjacency.sum(1, keepdim=True)
    centred = mean - sparse.links.typical_mean(gene)[:, 0]
    for b in range(N_BATCH):
        assert mean[sparse.links.batch == b].mean(0).abs().max() > 1e-2
        torch.testing.assert_close(centred[sparse.links.batch == b].mean(0), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("tau", [0.25, 0.04])
def test_contrast_within_batches_equals_a_slow_loop(tau):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(7, 2, 4, generator=g, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 1, 0, 1, 1, 0, 2])  # the last cell is alone
    ours = instance_loss(z, tau=tau, batch_index=index)
    rows = torch.nn.functional.normalize(z, dim=-1)
    losses = []
    for i in range(7):
        for v in range(2):
            positive = (rows[i, v] @ rows[i, 1 - v] / tau).exp()
            total = sum(
                (rows[i, v] @ rows[j, w] / tau).exp()
                for j in range(7)
                for w in range(2)
                if (j, w) != (i, v) and index[j] == index[i]
            )
            losses.append(-(positive / total).log())
    wanted = torch.stack(losses).mean()
    torch.testing.assert_close(ours, wanted)
    got, want = (torch.autograd.grad(loss, z)[0] for loss in (ours, wanted))
    torch.testing.assert_close(got, want)
    assert got[6].abs().max() < 1e-10  # a cell without negatives has nothing to learn
    assert torch.autograd.gradcheck(lambda x: instance_loss(x, tau=tau, batch_index=index), z)
    torch.testing.assert_close(instance_loss(z, tau=tau, batch_index=torch.zeros(7).long()), instance_loss(z, tau=tau))


@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_decoder_loss_is_the_likelihood_of_its_own_parameters(batch, case, dispersion):
    from scvi.distributions import ZeroInflatedNegativeBinomial

    sparse, _, adjacency = case
    index = sparse.links.batch
    n_genes = adjacency.shape[1]
    decoder = Decoder(n_genes, n_latent=4, n_hidden=6, dispersion=dispersion, n_batch=N_BATCH).double()
    z = torch.randn(len(index), 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = batch.size_factor.double()
    dense = torch.zeros_like(adjacency)
    dense[batch.graph.rows, batch.graph.indices.long()] = batch.counts.double()
    ours = decoder.loss(z, sparse.graph, batch.counts.double(), size, index)
    mu, theta, zi_logits = decoder(z[:, 0], size, index)
    wanted = -ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits).log_prob(dense).mean()
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
    names = ["hidden.linear.weight", "heads.weight", "heads.bias"]
    leaves = [dict(decoder.named_parameters())[name] for name in names]
    for got, want in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n_batch", [0, N_BATCH])
@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_losses_over_parts_of_the_genes_have_the_mean_of_the_whole(batch, case, dispersion, n_batch):
    """So has their gradient: over random genes the loss is unbiased."""
    torch.manual_seed(0)
    features = case[0] if n_batch else case[0]._replace(links=None, offset=case[0].offset[0])
    n_genes = features.graph.n_genes
    decoder = Decoder(n_genes, n_latent=4, n_hidden=7, dispersion=dispersion, n_batch=n_batch).double()
    z = torch.randn(features.graph.n_cells, 2, 4, dtype=torch.float64)
    index = features.links.batch if n_batch else None
    arguments = z, features.graph, batch.counts.double(), batch.size_factor.double(), index
    parts = torch.randperm(n_genes).view(4, -1).sort(1).values
    losses = [decoder.loss(*arguments), torch.stack([decoder.loss(*arguments, genes) for genes in parts]).mean()]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, list(decoder.parameters())) for loss in losses))


def test_decoder_starts_at_the_means_of_each_batch():
    g = torch.Generator().manual_seed(0)
    means = torch.rand(8, generator=g) + 0.5
    ratios = torch.rand(N_BATCH, 8, generator=g) + 0.5
    decoder = Decoder(8, n_latent=4, n_hidden=6, dispersion="gene", n_batch=N_BATCH)
    decoder.start_at_means(means, ratios)
    with torch.no_grad():
        decoder.heads.weight[:, :6] = 0.0  # only what does not depend on the cell is left
    mu = decoder.eval()(torch.randn(N_BATCH, 4, generator=g), torch.ones(N_BATCH), torch.arange(N_BATCH)).mu
    torch.testing.assert_close(mu, means * ratios)


def test_start_at_the_means_leaves_the_dispersion_of_cells_and_genes():
    decoder = Decoder(5, n_latent=4, n_hidden=7, dispersion="gene-cell", n_batch=0)
    before = decoder.heads.bias.detach().clone()
    decoder.start_at_means(torch.ones(5))
    torch.testing.assert_close(decoder.heads.bias[:5], torch.zeros(5))
    assert torch.equal(decoder.heads.bias[10:], before[10:])


def test_moments_of_inference_are_those_of_all_cells():
    """One batch of all cells, normalised by its own moments, is what inference gives, whatever the mean of the input."""
    torch.manual_seed(0)
    layer = Decoder(5, n_latent=4, n_hidden=7, dispersion="gene", n_batch=0).double().hidden
    z = 3.0 + torch.randn(50, 4, dtype=torch.float64)
    layer.fit_statistics(z)
    inferred = layer.eval()(z.unsqueeze(1))
    torch.testing.assert_close(inferred, layer.train()(z.unsqueeze(1)))
