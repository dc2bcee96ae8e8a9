"""Correction of latent vectors for the depth of the cell."""

import pytest
import torch

from scgpcl.nn import DepthCorrection
from scgpcl.nn._assignment import DEPTH_RIDGE


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def draws():
    """Whole cells, and shallow ones that are shorter, shifted and noisy."""
    whole = torch.randn(400, 5, generator=generator())
    found = []
    for seed in (1, 2):
        size = 0.05 ** torch.rand(400, generator=generator(seed)) * 1.2
        noise = torch.randn(400, 5, generator=generator(seed + 10))
        t = size.log().clamp(max=0.0)[:, None]
        found.append((whole * (1 + 0.2 * t) + 0.3 * t + 0.2 * t.abs() * noise, size))
    return found, whole


def test_fit_is_ridge_regression_of_whole_cells_on_thinned_ones(draws):
    found, whole = draws
    depth = DepthCorrection(5)
    depth.fit(iter(found), whole)
    z, size = (torch.cat(parts).double() for parts in zip(*found, strict=True))
    t = size.log().clamp(max=0.0)[:, None]
    x = torch.cat([t * z, t, t**2 * z, t**2], 1)
    ridge = DEPTH_RIDGE * x.square().sum(0).mean()
    rows = torch.cat([x, ridge.sqrt() * torch.eye(12, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(rows, torch.cat([torch.cat([whole, whole]).double() - z, torch.zeros(12, 5)])).solution
    torch.testing.assert_close(depth.weight.double(), wanted, rtol=1e-4, atol=1e-6)


def test_shallow_cells_come_closer_to_their_whole_and_deep_ones_stay(draws):
    found, whole = draws
    depth = DepthCorrection(5)
    z, size = found[0]
    assert torch.equal(depth(z, size), z)  # before the fit
    depth.fit(found, whole)
    shallow = size < 0.3
    error = lambda vectors: (vectors - whole)[shallow].square().mean()
    assert error(depth(z, size)) < 0.5 * error(z)
    deep = size >= 1.0
    assert deep.any()
    assert torch.equal(depth(z, size)[deep], z[deep])


@pytest.mark.parametrize("size_factor", [1.0, 1.0 - 1e-7, 0.5])
def test_cells_that_are_all_alike_are_not_corrected(size_factor):
    depth = DepthCorrection(3)
    z = torch.zeros(10, 3)
    depth.fit([(z, torch.full((10,), size_factor))], z)
    assert torch.equal(depth.weight, torch.zeros(8, 3))
