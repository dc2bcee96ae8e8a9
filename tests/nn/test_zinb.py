import math

import numpy as np
import pytest
import torch
from scvi.distributions import ZeroInflatedNegativeBinomial

from scgpcl.data import bipartite_batch
from scgpcl.nn import _zinb, fused_zinb_loss, inverse_dispersion


def case(batch, *, gene_wise, n_views=2, n_hidden=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    n_cells, n_genes = batch.graph.n_cells, batch.graph.n_genes
    heads = 2 if gene_wise else 3
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)
    leaves = [draw(n_cells, n_views, n_hidden), draw(heads * n_genes, n_hidden) * 0.3, draw(heads * n_genes) * 0.3]
    leaves.append(draw(n_genes) if gene_wise else None)
    return [None if leaf is None else leaf.requires_grad_() for leaf in leaves]


def dense_reference(batch, hidden, weight, bias, raw_theta):
    """scvi's own likelihood over every entry."""
    dense = torch.zeros(batch.graph.n_cells, batch.graph.n_genes, dtype=hidden.dtype)
    dense[batch.graph.rows, batch.graph.indices.long()] = batch.counts.to(hidden.dtype)
    out = hidden @ weight.t() + bias
    n_genes = dense.shape[1]
    mu = out[..., :n_genes].exp() * batch.size_factor.to(hidden.dtype)[:, None, None]
    theta = inverse_dispersion(raw_theta if raw_theta is not None else out[..., 2 * n_genes :])
    px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=out[..., n_genes : 2 * n_genes])
    return -px.log_prob(dense[:, None].expand_as(mu)).mean()


@pytest.mark.parametrize("gene_wise", [True, False])
@pytest.mark.parametrize("slice_entries", [1 << 19, 700])
def test_value_and_gradient_equal_scvi(batch, gene_wise, slice_entries, monkeypatch):
    monkeypatch.setattr(_zinb, "SLICE_ENTRIES", slice_entries)
    leaves = case(batch, gene_wise=gene_wise)
    ours = fused_zinb_loss(*leaves, batch.counts.double(), batch.graph, batch.size_factor.double().log())
    wanted = dense_reference(batch, *leaves)
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
    inputs = [leaf for leaf in leaves if leaf is not None]
    for got, want in zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * wanted, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("slice_entries", [1, 70, 700, 1 << 19])
def test_slices_hold_every_cell_once_and_fit_in_the_cache(batch, slice_entries, monkeypatch):
    monkeypatch.setattr(_zinb, "SLICE_ENTRIES", slice_entries)
    n_cells, n_views, n_out = batch.graph.n_cells, 2, 7
    hidden, weight, bias = torch.zeros(n_cells, n_views, 3), torch.zeros(n_out, 3), torch.zeros(n_out)
    slices = [part.cells for part in _zinb.output_slices(hidden, weight, bias, batch.graph)]
    cells = [list(range(n_cells)[part]) for part in slices]
    assert sum(cells, []) == list(range(n_cells))
    size = {len(each) for each in cells[:-1]}
    assert len(size) <= 1
    for each in size:
        assert each == 1 or each * n_views * n_out <= slice_entries < (each + 1) * n_views * n_out
    assert _zinb.slice_size(hidden.to("meta"), n_out) == n_cells


@pytest.mark.parametrize("gene_wise", [True, False])
def test_gradcheck(counts, gene_wise):
    small = counts[:4, :6]
    batch = bipartite_batch(small, np.array([0.5, 1.0, 2.0, 1.0]), np.arange(4))
    leaves = case(batch, gene_wise=gene_wise, n_hidden=3)
    log_size = batch.size_factor.double().log()
    loss = lambda *x: fused_zinb_loss(*x, batch.counts.double(), batch.graph, log_size)
    assert torch.autograd.gradcheck(loss, leaves)


def test_equals_numpyro(batch):
    jax = pytest.importorskip("jax")
    dist = pytest.importorskip("numpyro.distributions")
    hidden, weight, bias, raw_theta = case(batch, gene_wise=True)
    ours = fused_zinb_loss(
        hidden, weight, bias, raw_theta, batch.counts.double(), batch.graph, batch.size_factor.double().log()
    )
    out = (hidden @ weight.t() + bias).detach().numpy()
    n_genes = batch.graph.n_genes
    dense = np.zeros((batch.graph.n_cells, 1, n_genes))
    dense[batch.graph.rows, 0, batch.graph.indices.long()] = batch.counts
    experimental = pytest.importorskip("jax.experimental")
    with (jax.enable_x64 if hasattr(jax, "enable_x64") else experimental.enable_x64)(True):
        px = dist.ZeroInflatedNegativeBinomial2(
            np.exp(out[..., :n_genes]) * batch.size_factor.double().numpy()[:, None, None],
            inverse_dispersion(raw_theta).detach().numpy(),
            gate_logits=out[..., n_genes:],
        )
        wanted = -np.asarray(px.log_prob(np.broadcast_to(dense, (*out.shape[:2], n_genes)))).mean()
    np.testing.assert_allclose(ours.item(), wanted, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_huge_counts_and_logits_stay_finite(counts, scale):
    huge = (counts * scale).astype(np.float32)
    batch = bipartite_batch(huge.copy(), np.full(huge.shape[0], 1e-4), np.arange(huge.shape[0]))
    leaves = case(batch, gene_wise=False, dtype=torch.float32)
    with torch.no_grad():
        leaves[1] *= 100
    loss = fused_zinb_loss(*leaves, batch.counts, batch.graph, batch.size_factor.log())
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, leaves[:3]))


@pytest.mark.parametrize("gene_wise", [True, False])
def test_means_out_of_bounds_have_no_gradient(batch, gene_wise):
    leaves = case(batch, gene_wise=gene_wise)
    n_genes = batch.graph.n_genes
    with torch.no_grad():
        leaves[2][0], leaves[2][1] = 100.0, -100.0
    loss = fused_zinb_loss(*leaves, batch.counts.double(), batch.graph, batch.size_factor.double().log())
    gradient = torch.autograd.grad(loss, leaves[2])[0]
    assert gradient[:2].eq(0).all()
    assert gradient[2:n_genes].ne(0).all()


def test_means_out_of_bounds_are_masked_only_if_there_are_any():
    low, high = _zinb.LOG_MEAN_BOUNDS
    mean = torch.linspace(low, high, 6).view(2, 3)
    assert _zinb._inside(mean) is None
    for value in (low - 0.1, high + 0.1):
        other = mean.clone()
        other[1, 0] = value
        assert torch.equal(_zinb._inside(other), other != value)


def test_bounds_of_mean_and_dispersion_are_the_published_ones():
    """Means from 1e-5 to 1e6 before the size factor, and a dispersion that stays above zero."""
    low, high = _zinb.LOG_MEAN_BOUNDS
    assert math.exp(low) == pytest.approx(1e-5, rel=0.02)
    assert math.exp(high) == pytest.approx(1e6, rel=0.02)
    raw = torch.linspace(-30, 30, 13, dtype=torch.float64)
    torch.testing.assert_close(inverse_dispersion(raw), torch.log1p(raw.exp()) + 1e-4)


def test_no_gradients_are_made_without_grad(batch):
    leaves = case(batch, gene_wise=True)
    log_size = batch.size_factor.double().log()
    with_grad = fused_zinb_loss(*leaves, batch.counts.double(), batch.graph, log_size)
    with torch.no_grad():
        without = fused_zinb_loss(*leaves, batch.counts.double(), batch.graph, log_size)
    assert not without.requires_grad
    torch.testing.assert_close(with_grad.detach(), without)
