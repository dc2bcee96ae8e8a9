"""Counts of fewer molecules of the same cells."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scgpcl.data import bipartite_batch, thinned


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(batch):
    return [*batch.graph, *(value for value in batch if isinstance(value, torch.Tensor))]


def assert_equal(batch, other):
    assert len(parts(batch)) == len(parts(other))
    for one, two in zip(parts(batch), parts(other), strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


def dense(batch):
    result = np.zeros((len(batch.size_factor), len(batch.graph.t_indptr) - 1))
    result[batch.graph.rows.numpy(), batch.graph.indices.numpy()] = batch.counts.numpy()
    return result


def test_all_molecules_are_the_whole_batch(batch):
    assert_equal(thinned(batch, torch.ones(batch.graph.n_cells), generator()), batch)


def test_the_generator_decides_and_the_batch_is_left_alone(batch):
    before = [part.clone() for part in parts(batch)]
    share = torch.rand(batch.graph.n_cells, generator=generator(5))
    first, again, other = (thinned(batch, share, generator(seed)) for seed in (1, 1, 2))
    assert_equal(first, again)
    assert not np.array_equal(dense(first), dense(other))
    assert all(torch.equal(part, old) for part, old in zip(parts(batch), before, strict=True))
    state = torch.random.get_rng_state()
    thinned(batch, share, generator())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_count_is_binomial_and_its_edge_goes_with_its_last_molecule(batch):
    share = torch.linspace(0.05, 0.6, batch.graph.n_cells)
    fewer = thinned(batch, share, generator())
    drawn = torch.binomial(batch.counts, share[batch.graph.rows], generator=generator())
    wanted = np.zeros_like(dense(batch))
    wanted[batch.graph.rows.numpy(), batch.graph.indices.numpy()] = drawn.numpy()
    np.testing.assert_array_equal(dense(fewer), wanted)
    assert (fewer.counts > 0).all()
    assert len(fewer.counts) == (wanted > 0).sum() < len(batch.counts)
    rebuilt = bipartite_batch(sp.csr_matrix(wanted, dtype=np.float32), batch.size_factor * share, batch.cell_index)
    assert_equal(fewer, rebuilt)


def test_what_is_not_counts_is_kept(batch):
    labels = torch.arange(batch.graph.n_cells) % 3
    measured = (torch.arange(batch.graph.n_genes) % 5 > 0).float()
    batch = batch._replace(batch_index=labels, measured=measured)
    fewer = thinned(batch, torch.full((batch.graph.n_cells,), 0.3), generator())
    assert torch.equal(fewer.batch_index, labels)
    assert torch.equal(fewer.measured, measured)
    assert torch.equal(fewer.cell_index, batch.cell_index)
    torch.testing.assert_close(fewer.size_factor, 0.3 * batch.size_factor)


def test_cells_may_lose_all_their_molecules(batch):
    fewer = thinned(batch, torch.full((batch.graph.n_cells,), 1e-7), generator())
    assert fewer.graph.n_cells == batch.graph.n_cells
    assert len(fewer.counts) == 0


def test_what_is_kept_and_what_is_removed_of_a_poisson_count_are_independent():
    rng = np.random.default_rng(0)
    n, rate, share = 60_000, 4.0, 0.3
    counts = rng.poisson(rate, (n, 1)).astype(np.float32)
    batch = bipartite_batch(sp.csr_matrix(counts), np.ones(n), np.arange(n))
    kept = dense(thinned(batch, torch.full((n,), share), generator()))[:, 0]
    removed = counts[:, 0] - kept
    for values, mean in ((kept, share * rate), (removed, (1 - share) * rate)):
        assert values.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / n))
        assert values.var() == pytest.approx(mean, rel=0.03)  # Poisson again
    assert abs(np.corrcoef(kept, removed)[0, 1]) < 4 / np.sqrt(n)
    for k in range(4):  # not only uncorrelated
        assert removed[kept == k].mean() == pytest.approx((1 - share) * rate, abs=0.1)
