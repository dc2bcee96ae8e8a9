import pytest
import torch
from torch import nn

from scgpcl.nn import NodeBatchNorm, shrink_length


def test_each_view_has_its_own_statistics_as_in_torch():
    ours, theirs = NodeBatchNorm(5), nn.BatchNorm1d(5)
    with torch.no_grad():
        ours.weight.copy_(torch.rand(5))
        theirs.weight.copy_(ours.weight)
    x = torch.randn(20, 2, 5) * torch.tensor([1.0, 3.0]).view(1, 2, 1)
    for view in range(2):
        torch.testing.assert_close(ours(x)[:, view], theirs(x[:, view]))


def test_inference_uses_the_given_moments_and_is_affine():
    norm = NodeBatchNorm(3).eval()
    mean, var = torch.randn(3), torch.rand(3) + 0.1
    norm.set_statistics(mean, var)
    x = torch.randn(1, 1, 3)
    scale, shift = norm.affine()
    torch.testing.assert_close(norm(x), (x - mean) / (var + norm.eps).sqrt())
    torch.testing.assert_close(norm(x), x * scale + shift)


def test_one_node_is_refused_in_training():
    with pytest.raises(ValueError, match="at least 2 nodes"):
        NodeBatchNorm(3)(torch.zeros(1, 1, 3))
    two = torch.randn(2, 1, 3)
    torch.testing.assert_close(NodeBatchNorm(3)(two)[:, 0], nn.BatchNorm1d(3)(two[:, 0]))


def test_shrink_length_takes_the_power_of_the_length():
    z = torch.randn(10, 16) * torch.linspace(0.1, 10, 10).unsqueeze(1)
    length = lambda x: x.norm(dim=1) / 4
    torch.testing.assert_close(length(shrink_length(z, 0.5)), length(z).sqrt(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(length(shrink_length(z, 1.0)), torch.ones(10), rtol=1e-3, atol=1e-3)
    assert torch.equal(shrink_length(z, 0.0), z)
    assert torch.equal(shrink_length(z, torch.tensor(0.5)), shrink_length(z, 0.5))
    cosine = nn.functional.cosine_similarity(shrink_length(z, 0.7), z)
    torch.testing.assert_close(cosine, torch.ones(10))
    assert torch.isfinite(shrink_length(torch.zeros(2, 3), 1.0)).all()
