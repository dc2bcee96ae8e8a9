import math

import numpy as np
import pytest
import torch

from scgpcl.nn import clustering_loss, instance_loss, prototype_loss, soft_assign, target_distribution


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def test_instance_loss_equals_a_slow_loop():
    z = torch.randn(7, 2, 5, dtype=torch.float64, requires_grad=True)
    rows = [z[i, v] for v in range(2) for i in range(7)]
    total = 0.0
    for i, row in enumerate(rows):
        positive = rows[(i + 7) % 14]
        others = sum(math.exp(cosine(row, other) / 0.25) for j, other in enumerate(rows) if j != i)
        total += -math.log(math.exp(cosine(row, positive) / 0.25) / others)
    assert instance_loss(z, tau=0.25).item() == pytest.approx(total / 14, rel=1e-10)
    assert torch.autograd.gradcheck(lambda x: instance_loss(x, tau=0.5), z)


@pytest.mark.parametrize("tau", [0.001, 0.0499, 0.05, 0.3])
def test_instance_loss_is_right_at_every_temperature(tau):
    z = torch.randn(20, 2, 6, requires_grad=True)
    rows = torch.nn.functional.normalize(z.double(), dim=-1).transpose(0, 1).reshape(40, 6)
    logits = (rows @ rows.t() / tau).masked_fill(torch.eye(40, dtype=torch.bool), -torch.inf)
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(40).roll(20))
    ours = instance_loss(z, tau=tau)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-5)
    got, want = (torch.autograd.grad(loss, z)[0] for loss in (ours, wanted))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 / tau * 1e-2)


@pytest.mark.parametrize("tau", [0.02, 0.25])
@pytest.mark.parametrize("batches", [False, True])
def test_instance_loss_with_neighbors_equals_a_slow_loop(tau, batches):
    z = torch.randn(8, 2, 5, dtype=torch.float64, requires_grad=True)
    near = (torch.rand(8, 8) < 0.3).double().triu(1)
    near = near + near.t()
    near[0], near[:, 0] = 0.0, 0.0  # a cell without neighbours
    batch = torch.tensor([0, 1] * 4) if batches else None
    rows = [(i, z[i, v]) for v in range(2) for i in range(8)]
    total = 0.0
    for a, (i, row) in enumerate(rows):
        mass = sum(
            math.exp((cosine(row, other) - 1) / tau)
            for b, (j, other) in enumerate(rows)
            if b != a and (batch is None or batch[i] == batch[j])
        )
        positives = [other for b, (j, other) in enumerate(rows) if b != a and (j == i or near[i, j])]
        total -= sum((cosine(row, p) - 1) / tau - math.log(mass) for p in positives) / len(positives)

    def ours(x):
        return instance_loss(x, tau=tau, batch_index=batch, neighbors=near)

    assert ours(z).item() == pytest.approx(total / 16, rel=1e-9)
    assert torch.autograd.gradcheck(ours, z, atol=1e-4)


def test_cells_without_neighbors_leave_the_instance_loss_as_it_is():
    z = torch.randn(9, 2, 4)
    torch.testing.assert_close(instance_loss(z, tau=0.25, neighbors=torch.zeros(9, 9)), instance_loss(z, tau=0.25))


def test_neighbors_pull_cells_together():
    torch.manual_seed(2)
    z = torch.randn(30, 2, 8, requires_grad=True)
    near = torch.zeros(30, 30)
    near[0, 1] = near[1, 0] = 1.0
    cos = torch.nn.functional.cosine_similarity
    for neighbors, sign in ((None, -1), (near, 1)):
        (gradient,) = torch.autograd.grad(instance_loss(z, tau=0.25, neighbors=neighbors), z)
        moved = z.detach() - 0.1 * gradient
        change = cos(moved[0, 0], moved[1, 0], dim=0) - cos(z[0, 0], z[1, 0], dim=0)
        assert sign * change > 0


def test_instance_loss_falls_when_views_agree():
    z = torch.randn(50, 1, 16)
    same, other = torch.cat([z, z], 1), torch.cat([z, z.flip(0)], 1)
    assert instance_loss(same, tau=0.25) < instance_loss(other, tau=0.25)


def test_prototype_loss_equals_a_slow_loop():
    z = torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True)
    prototypes = [torch.randn(k, 4, dtype=torch.float64) for k in (2, 3, 4)]
    labels = [torch.randint(k, (6,)) for k in (2, 3, 4)]
    total = 0.0
    for p, y in zip(prototypes, labels, strict=True):
        for i in range(6):
            for v in range(2):
                logits = [cosine(z[i, v], p[k]) / 0.25 for k in range(len(p))]
                total += -logits[y[i]] + math.log(sum(math.exp(value) for value in logits))
    assert prototype_loss(z, prototypes, labels, tau=0.25).item() == pytest.approx(total / (3 * 12), rel=1e-10)
    assert torch.autograd.gradcheck(lambda x: prototype_loss(x, prototypes, labels, tau=0.25), z)


@pytest.mark.parametrize("n_labels", [1, 3])
def test_prototypes_and_their_labels_are_as_many(n_labels):
    prototypes, labels = [torch.randn(3, 4)] * 2, [torch.zeros(6, dtype=torch.int64)] * n_labels
    with pytest.raises(ValueError, match="argument 2 is"):
        prototype_loss(torch.randn(6, 2, 4), prototypes, labels, tau=0.25)


def test_soft_assign_equals_a_slow_loop():
    z, centers = torch.randn(9, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    wanted = np.zeros((9, 3))
    for i in range(9):
        for k in range(3):
            wanted[i, k] = (1.0 + float((z[i] - centers[k]).square().sum()) / 2.0) ** (-(2.0 + 1.0) / 2.0)
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(soft_assign(z, centers, alpha=2.0), wanted, rtol=1e-10)


def test_soft_assign_prefers_the_centre_a_cell_lies_on_and_survives_far_cells():
    centers = torch.randn(5, 8)
    assert soft_assign(centers, centers, alpha=1.0).argmax(1).tolist() == list(range(5))
    far = soft_assign(1e15 * torch.randn(4, 8), centers, alpha=1.0)
    torch.testing.assert_close(far.sum(1), torch.ones(4))


def test_target_distribution_equals_the_formula():
    q = torch.rand(10, 3, dtype=torch.float64)
    q = q / q.sum(1, keepdim=True)
    wanted = np.zeros((10, 3))
    for i in range(10):
        for k in range(3):
            wanted[i, k] = q[i, k] ** 2 / q[:, k].sum()
        wanted[i] /= wanted[i].sum()
    np.testing.assert_allclose(target_distribution(q), wanted, rtol=1e-12)


def test_clustering_loss_is_the_divergence():
    q = torch.softmax(torch.randn(6, 4, dtype=torch.float64), 1).requires_grad_()
    p = target_distribution(q.detach())
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=p), torch.distributions.Categorical(probs=q)
    ).mean()
    torch.testing.assert_close(clustering_loss(q, p), wanted)
    assert clustering_loss(q, q.detach()).item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: clustering_loss(torch.softmax(x, 1), p), q)
