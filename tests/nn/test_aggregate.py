import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric.nn import SAGEConv

from scgpcl.data import bipartite_batch
from scgpcl.nn import BipartiteSAGEConv, neighbor_mean, spmm, standardized_counts


def dense_counts(batch):
    dense = torch.zeros(batch.graph.n_cells, batch.graph.n_genes, dtype=torch.float64)
    dense[batch.graph.rows, batch.graph.indices.long()] = batch.counts.double()
    return dense


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_spmm_equals_dense_in_value_and_gradient(batch, transpose, weighted):
    dense = dense_counts(batch)
    values = batch.counts.double() if weighted else None
    matrix = dense if weighted else (dense > 0).double()
    matrix = matrix.t() if transpose else matrix
    x = torch.randn(matrix.shape[1], 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: spmm(batch.graph, values, y, transpose=transpose).sum(0), x)
    torch.testing.assert_close(spmm(batch.graph, values, x, transpose=transpose), matrix @ x)


def test_transposed_edges_are_the_same_edges(batch):
    cells = batch.graph.rows[batch.graph.t_order]
    genes = batch.graph.indices.long()[batch.graph.t_order]
    torch.testing.assert_close(batch.graph.t_indices.long(), cells)
    torch.testing.assert_close(genes, genes.sort().values)
    torch.testing.assert_close(batch.graph.t_indptr.long().diff(), torch.bincount(genes, minlength=batch.graph.n_genes))


@pytest.mark.parametrize("genes", [[0, 3, 17, 59], [5], list(range(60))])
def test_edges_of_some_genes_are_those_of_their_columns(batch, genes):
    dense = dense_counts(batch)[:, genes]
    part, kept = batch.graph.of_genes(torch.tensor(genes))
    wanted = sp.csr_matrix(dense.numpy())
    np.testing.assert_array_equal(part.indptr, wanted.indptr)
    np.testing.assert_array_equal(part.indices, wanted.indices)
    np.testing.assert_array_equal(batch.counts[kept], wanted.data)
    turned = sp.csr_matrix(dense.numpy().T)
    np.testing.assert_array_equal(part.t_indptr, turned.indptr)
    np.testing.assert_array_equal(part.t_indices, turned.indices)
    np.testing.assert_array_equal(batch.counts[kept][part.t_order], turned.data)
    assert [t.dtype for t in part] == [t.dtype for t in batch.graph]


def test_stored_zeros_are_no_edges(counts):
    with_zeros = counts.copy()
    with_zeros.data[::3] = 0
    kept = bipartite_batch(with_zeros.copy(), np.ones(counts.shape[0]), np.arange(counts.shape[0]))
    assert len(kept.counts) == int((with_zeros.data != 0).sum())


def test_neighbor_mean_of_isolated_node_is_zero():
    import scipy.sparse as sp

    block = sp.csr_matrix(np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))
    batch = bipartite_batch(block, np.ones(2), np.arange(2))
    x = torch.tensor([1.0, 10.0, 3.0]).view(3, 1, 1)
    torch.testing.assert_close(neighbor_mean(batch.graph, x)[:, 0, 0], torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("to_genes", [False, True])
@pytest.mark.parametrize(("n_in", "n_out"), [(3, 8), (8, 3)])
def test_layer_equals_pyg(batch, to_genes, n_in, n_out):
    n_cells, n_genes = batch.graph.n_cells, batch.graph.n_genes
    senders, receivers = (n_cells, n_genes) if to_genes else (n_genes, n_cells)
    edges = torch.stack([batch.graph.rows, batch.graph.indices.long()])
    edges = edges if to_genes else edges.flip(0)
    ours = BipartiteSAGEConv((n_in, 4), n_out, to_genes=to_genes).double()
    theirs = SAGEConv((n_in, 4), n_out).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(senders, n_in, dtype=torch.float64, requires_grad=True)
    y = torch.randn(receivers, 4, dtype=torch.float64, requires_grad=True)
    wanted = theirs((x, y), edges)
    fused = ours((x.unsqueeze(1), y.unsqueeze(1)), batch.graph)[:, 0]
    generic = ours((x, y), edges)
    weight = torch.randn_like(wanted)
    for got in (fused, generic):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)
        ours_grad = torch.autograd.grad((got * weight).sum(), [x, y, *ours.parameters()])
        their_grad = torch.autograd.grad((wanted * weight).sum(), [x, y, *theirs.parameters()], retain_graph=True)
        for a, b in zip(ours_grad, their_grad, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_kept_neighbors_equal_pyg_on_the_remaining_edges(batch):
    n_cells, n_genes = batch.graph.n_cells, batch.graph.n_genes
    keep = (torch.rand(n_genes, 2) < 0.6).double()
    ours = BipartiteSAGEConv((5, 4), 6).double()
    theirs = SAGEConv((5, 4), 6).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(n_genes, 2, 5, dtype=torch.float64)
    y = torch.randn(n_cells, 2, 4, dtype=torch.float64)
    got = ours((x, y), batch.graph, keep)
    for view in range(2):
        genes = batch.graph.indices.long()
        stays = keep[genes, view] > 0
        edges = torch.stack([genes[stays], batch.graph.rows[stays]])
        torch.testing.assert_close(got[:, view], theirs((x[:, view], y[:, view]), edges))


def test_sparse_features_equal_dense_standardised_matrix(batch):
    dense = dense_counts(batch)
    size = 0.4 * batch.size_factor.double()
    log = torch.log1p(dense / size[:, None])
    mean, std = log.mean(0), log.std(0, correction=0).clamp(min=1e-3)
    clip = 2.0
    wanted = ((log - mean) / std).clamp(max=clip)
    features = standardized_counts(batch.graph, batch.counts.double(), size, mean, std, clip=clip)
    weight = torch.randn(4, dense.shape[1], dtype=torch.float64, requires_grad=True)
    got = features.project(weight)[:, 0]
    torch.testing.assert_close(got, wanted @ weight.t())
    assert (wanted == clip).any()  # the case covers clipped entries
    mask = (torch.rand(dense.shape[1], 2) < 0.7).double()
    masked = features._replace(mask=mask).project(weight)
    for view in range(2):
        torch.testing.assert_close(masked[:, view], (wanted * mask[:, view]) @ weight.t())
    grads = [
        torch.autograd.grad(value.square().sum(), weight)[0]
        for value in (masked[:, 0], (wanted * mask[:, 0]) @ weight.t())
    ]
    torch.testing.assert_close(*grads)
