import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score

from scgpcl.cluster import _start, cosine_silhouette, kmeans, nearest, select_start
from scgpcl.nn import shrink_length


def test_cosine_silhouette_equals_scikit_learn():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(150, 6, generator=g, dtype=torch.float64)
    labels = torch.randint(4, (150,), generator=g)
    labels[labels == 3] = torch.where(torch.arange(int((labels == 3).sum())) == 0, 3, 0)  # a cluster of one cell
    wanted = silhouette_score(z.numpy(), labels.numpy(), metric="cosine")
    assert cosine_silhouette(z, labels, 4) == pytest.approx(wanted, abs=1e-10)
    assert cosine_silhouette(z, labels, 6) == pytest.approx(wanted, abs=1e-10)  # empty clusters do not count


def directions(seed=0):
    """Groups that differ in direction, with lengths that say nothing."""
    x, y = make_blobs(400, 12, centers=4, cluster_std=0.8, random_state=seed)
    x = torch.from_numpy(x - x.mean(0)).float()
    return x * torch.rand(400, 1, generator=torch.Generator().manual_seed(seed)).exp() ** 3, y


def test_chooses_the_space_in_which_lengths_do_not_mislead():
    z, y = directions()
    start = select_start(z, 4, seed=0)
    labels = nearest(shrink_length(z, start.power), start.centers)[0]
    plain = kmeans(z, 4, seed=0).labels
    assert start.power > 0
    assert adjusted_rand_score(y, labels) >= adjusted_rand_score(y, plain)
    assert adjusted_rand_score(y, labels) > 0.95


@pytest.mark.parametrize("reference", [None, directions(2)[0]], ids=["latent", "reference"])
def test_no_tried_partition_has_a_better_silhouette(reference):
    z, _ = directions(1)
    compared = z if reference is None else reference
    start = select_start(z, 4, reference=reference, seed=0)
    labels = nearest(shrink_length(z, start.power), start.centers)[0]
    assert cosine_silhouette(compared, labels, 4) == pytest.approx(start.silhouette, abs=1e-6)
    for power in _start.POWERS:
        other = kmeans(shrink_length(z, power), 4, n_init=_start.N_RUNS, seed=0).labels
        assert cosine_silhouette(compared, other, 4) <= start.silhouette + 1e-6


def test_seed_decides():
    z, _ = directions(2)
    assert torch.equal(select_start(z, 5, seed=3).centers, select_start(z, 5, seed=3).centers)


def test_reference_must_be_of_the_same_cells():
    with pytest.raises(ValueError, match="same 20 cells, found 19"):
        select_start(torch.randn(20, 3), 2, reference=torch.randn(19, 3))


def test_powers_must_be_given():
    with pytest.raises(ValueError, match="found none"):
        select_start(torch.randn(20, 3), 2, powers=())
