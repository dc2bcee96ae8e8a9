import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize as skl_normalize

from scgpcl.cluster import _kmeans, kmeans, nearest


@pytest.fixture
def blobs():
    x, _ = make_blobs(600, 8, centers=7, cluster_std=3.0, random_state=0)
    return torch.from_numpy(x)


def test_equals_scikit_learn_from_the_same_start(blobs):
    init = blobs[:7].clone()
    ours = kmeans(blobs, 7, init=init, max_iter=300, tol=0.0)
    theirs = KMeans(7, init=init.numpy(), n_init=1, max_iter=300, tol=0.0).fit(blobs.numpy())
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, rtol=1e-8)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-8)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 0.0), (1.0, 100.0)])
def test_stops_where_scikit_learn_does(blobs, scale, shift):
    """The tolerance is one of the mean variance of the columns, whatever their unit and means."""
    x = scale * blobs + shift * torch.arange(8)
    init = x[:7].clone()
    for tol in (1e-4, 0.05):
        ours = kmeans(x, 7, init=init, tol=tol)
        theirs = KMeans(7, init=init.numpy(), n_init=1, max_iter=100, tol=tol).fit(x.numpy())
        np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, rtol=1e-8)
    default = kmeans(x, 7, init=init)
    assert torch.equal(default.centers, kmeans(x, 7, init=init, tol=1e-4).centers)


def test_restarts_reach_scikit_learns_inertia(blobs):
    ours = kmeans(blobs, 7, n_init=10, seed=0)
    theirs = KMeans(7, n_init=10, random_state=0).fit(blobs.numpy())
    assert ours.inertia <= theirs.inertia_ * 1.001


def test_labels_are_the_nearest_centres(blobs):
    found = kmeans(blobs, 5, seed=1)
    distance = torch.cdist(blobs, found.centers)
    assert torch.equal(found.labels, distance.argmin(1))
    labels, squared = nearest(blobs, found.centers)
    torch.testing.assert_close(squared, distance.min(1).values.square())
    assert torch.equal(labels, found.labels)


def test_nearest_centres_are_sought_block_by_block(blobs, monkeypatch):
    whole, read, half_distance = nearest(blobs, blobs[:7]), [], _kmeans._half_distance
    monkeypatch.setattr(_kmeans, "NEAREST_ROWS", 250)
    monkeypatch.setattr(_kmeans, "_half_distance", lambda x, centers: read.append(len(x)) or half_distance(x, centers))
    labels, squared = nearest(blobs, blobs[:7])
    assert read == [250, 250, 100]
    assert torch.equal(labels, whole[0])
    torch.testing.assert_close(squared, whole[1])


class OfGPU(torch.Tensor):
    """A tensor that passes for one on a GPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize("kind", [torch.Tensor, OfGPU])
def test_sums_of_groups_equal_a_loop(blobs, kind):
    label = torch.arange(len(blobs)) % 4
    total = torch.ones(5, blobs.shape[1], dtype=blobs.dtype)
    _kmeans.add_rows(total, label, blobs.as_subclass(kind))
    torch.testing.assert_close(total - 1.0, torch.stack([blobs[label == group].sum(0) for group in range(5)]))


def test_seed_decides_and_global_state_stays(blobs):
    before = torch.random.get_rng_state()
    one, two = kmeans(blobs, 6, n_init=1, seed=3), kmeans(blobs, 6, n_init=1, seed=3)
    starts = {round(kmeans(blobs, 6, n_init=1, max_iter=1, seed=s).inertia, 6) for s in range(5)}
    assert torch.equal(one.labels, two.labels)
    assert len(starts) > 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_no_cluster_is_empty_with_duplicates():
    x = torch.cat([torch.zeros(50, 2), torch.ones(50, 2), 5 * torch.ones(1, 2)])
    init = torch.tensor([[0.0, 0.0], [100.0, 100.0], [200.0, 200.0]])
    assert len(kmeans(x, 3, init=init).labels.unique()) == 3


def test_empty_clusters_take_different_rows_the_farthest_first():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 4.0], [0.0, 9.0]])
    init = torch.tensor([[0.0, 0.0], [100.0, 0.0], [200.0, 0.0]])
    found = kmeans(x, 3, init=init, max_iter=1)
    torch.testing.assert_close(found.centers[1:], x[[3, 2]])


def test_no_distance_is_below_zero():
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    for shift, rounding in ((0.0, 1e-5), (1e3, 2.0)):
        _, squared = nearest(x + shift, x + shift)
        assert (squared >= 0).all()
        assert squared.max() < rounding


def test_many_rows_are_fitted_on_a_sample(blobs, monkeypatch):
    whole = kmeans(blobs, 7, seed=0)
    monkeypatch.setattr(_kmeans, "MAX_FIT_CELLS", 300)
    sampled = kmeans(blobs, 7, seed=0)
    assert len(sampled.labels) == len(blobs)
    assert adjusted_rand_score(whole.labels, sampled.labels) > 0.8


@pytest.mark.parametrize("fitted", [1000, 300])
def test_directions_are_those_of_scaled_rows(blobs, monkeypatch, fitted):
    monkeypatch.setattr(_kmeans, "MAX_FIT_CELLS", fitted)
    monkeypatch.setattr(_kmeans, "NEAREST_ROWS", 250)
    given = blobs.clone()
    found = kmeans(blobs, 5, seed=2, directions=True)
    scaled = kmeans(torch.from_numpy(skl_normalize(blobs.numpy())), 5, seed=2)
    assert torch.equal(found.labels, scaled.labels)
    torch.testing.assert_close(found.centers, scaled.centers)
    assert found.inertia == pytest.approx(scaled.inertia)
    assert torch.equal(blobs, given)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="found 3 rows for 4 clusters"):
        kmeans(torch.zeros(3, 2), 4)
