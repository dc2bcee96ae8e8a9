import sys
import tempfile

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import HeteroConv, SAGEConv

from scgpcl import _keys
from scgpcl.data import bipartite_batch
from scgpcl.nn import BipartiteEncoder, BipartiteSAGEConv, View, draw_view, standardized_counts


def features_of(batch, dtype=torch.float64):
    dense = torch.zeros(batch.graph.n_cells, batch.graph.n_genes, dtype=dtype)
    dense[batch.graph.rows, batch.graph.indices.long()] = batch.counts.to(dtype)
    log = torch.log1p(dense / batch.size_factor.to(dtype)[:, None])
    mean, std = log.mean(0), log.std(0, correction=0).clamp(min=1e-2)
    features = standardized_counts(batch.graph, batch.counts.to(dtype), batch.size_factor.to(dtype), mean, std)
    return features, ((log - mean) / std).clamp(max=10.0)


class Reference(nn.Module):
    """The encoder written with PyG's own layers on a dense feature matrix and an edge index."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.layers = nn.ModuleList()
        first = {_keys.GENE_TO_CELL: encoder.cell1, _keys.CELL_TO_GENE: encoder.gene1}
        for layer in (first, {_keys.GENE_TO_CELL: encoder.cell2}):
            convs = {}
            for edge, ours in layer.items():
                conv = SAGEConv(ours.in_channels, ours.out_channels).double()
                conv.load_state_dict(ours.state_dict())
                convs[edge] = conv
            self.layers.append(HeteroConv(convs))

    def forward(self, dense, batch, view=None, index=0):
        x = {_keys.CELL: dense, _keys.GENE: self.encoder.gene_embedding}
        genes, cells = batch.graph.indices.long(), batch.graph.rows
        kept = torch.ones(len(genes), dtype=torch.bool)
        if view is not None:
            x = {
                _keys.CELL: dense * view.feature[:, index],
                _keys.GENE: self.encoder.gene_embedding * view.embedding[:, index],
            }
            kept = view.neighbor[genes, index] > 0
        edges = {
            _keys.GENE_TO_CELL: torch.stack([genes[kept], cells[kept]]),
            _keys.CELL_TO_GENE: torch.stack([cells, genes]),
        }
        for conv in self.layers:
            x = {
                name: nn.functional.batch_norm(value, None, None, training=True)
                for name, value in conv(x, edges).items()
            }
        return x[_keys.CELL]


@pytest.mark.filterwarnings("ignore:There exist node types")  # PyG: the last layer updates no genes, as meant
def test_equals_pyg_heteroconv(batch):
    encoder = BipartiteEncoder(batch.graph.n_genes, n_hidden=9, n_latent=6, use_graph=True).double()
    features, dense = features_of(batch)
    reference = Reference(encoder)
    view = draw_view(
        batch.graph.n_genes, 6, neighbor_keep=0.7, feature_drop=0.3, generator=torch.Generator().manual_seed(0)
    )
    view = View(*(mask.double() for mask in view))
    torch.testing.assert_close(encoder(features)[:, 0], reference(dense, batch), rtol=1e-7, atol=1e-8)
    ours = encoder(features, view)
    for index in range(2):
        wanted = reference(dense, batch, view, index)
        torch.testing.assert_close(ours[:, index], wanted, rtol=1e-7, atol=1e-8)
    weight = torch.randn_like(wanted)
    got = torch.autograd.grad((ours[:, 1] * weight).sum(), encoder.gene_embedding)[0]
    want = torch.autograd.grad((wanted * weight).sum(), encoder.gene_embedding)[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)


def test_layers_leave_no_generated_code(monkeypatch, tmp_path):
    """PyG writes a module for each class of layers to the temporary folder, unless the class has its own propagation."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    layer = BipartiteSAGEConv((3, 4), 5)
    edges = torch.tensor([[0, 1, 2], [0, 0, 1]])
    x = torch.randn(3, 3), torch.randn(2, 4)
    mean = torch.stack([x[0][:2].mean(0), x[0][2]])
    torch.testing.assert_close(layer(x, edges), layer.lin_l(mean) + layer.lin_r(x[1]))
    assert list(tmp_path.iterdir()) == []
    assert not [name for name in sys.modules if name.startswith("scgpcl") and name.endswith("_propagate")]


@pytest.mark.parametrize("use_graph", [True, False])
def test_exact_inference_equals_one_full_batch(batch, counts, use_graph):
    """Streamed states over small batches give what the network gives for all cells as one batch."""
    encoder = BipartiteEncoder(batch.graph.n_genes, n_hidden=9, n_latent=6, use_graph=use_graph).double()
    features, _ = features_of(batch)
    blocks = []
    for start in range(0, counts.shape[0], 50):
        rows = np.arange(start, min(start + 50, counts.shape[0]))
        part = bipartite_batch(counts[rows], batch.size_factor[rows].numpy(), rows)
        edges = (batch.graph.rows >= rows[0]) & (batch.graph.rows <= rows[-1])
        blocks.append(features._replace(graph=part.graph, values=features.values[edges]))
    wanted = encoder(features)[:, 0].detach()  # training mode: the statistics of all cells
    encoder.fit_states(lambda: iter(blocks))
    encoder.eval()
    got = torch.cat([encoder.encode(block) for block in blocks])
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("n_hidden", "n_latent"), [(64, 16), (48, 12)])
def test_start_keeps_the_geometry_of_the_axes(n_hidden, n_latent):
    """At the start, distances between cells are those of their scores on the axes, up to one scale and few messages."""
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(1.0, 2.0, (400, 80))).astype(np.float32)
    import scipy.sparse as sp

    batch = bipartite_batch(sp.csr_matrix(x), x.sum(1) / np.median(x.sum(1)), np.arange(400))
    features, dense = features_of(batch)
    centred = dense - dense.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:8]
    encoder = BipartiteEncoder(80, n_hidden=n_hidden, n_latent=n_latent, use_graph=False).double()
    encoder.start_at_axes(axes, torch.Generator().manual_seed(0))
    z = encoder(features)[:, 0].detach()
    ours, scores = torch.pdist(z), torch.pdist(centred @ axes.t())
    ratio = ours / scores
    power_of_two = n_latent & (n_latent - 1) == 0
    assert ratio.std() / ratio.mean() < (1e-6 if power_of_two else 0.15)


def test_views_differ_and_keep_the_asked_share():
    generator = torch.Generator().manual_seed(0)
    view = draw_view(1000, 64, neighbor_keep=0.8, feature_drop=0.2, generator=generator)
    assert view.neighbor.sum(0).tolist() == [800, 800]
    assert abs(view.feature.mean().item() - 0.8) < 0.05
    wide = draw_view(10, 5000, neighbor_keep=0.01, feature_drop=0.3, generator=generator)
    assert abs(wide.embedding.mean().item() - 0.7) < 0.05
    assert wide.neighbor.sum(0).tolist() == [1, 1]  # one neighbour is left, however small the share
    for mask in view:
        assert not torch.equal(mask[:, 0], mask[:, 1])
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
