"""Cells of different batches that are matched, and the axes that do not separate them."""

import numpy as np
import pytest
from numpy.linalg import norm

from scgpcl.pp import _axes, _matches
from scgpcl.pp._matches import match_covariance, matched_cells

N_TYPES, N = 6, 12


@pytest.fixture(scope="module")
def cells():
    """Scores of six types, each of which answers to the second batch in its own way; the last two are in one batch each."""
    rng = np.random.default_rng(0)
    types, batch = rng.integers(N_TYPES, size=900), rng.integers(2, size=900)
    kept = ~((types == 4) & (batch == 1)) & ~((types == 5) & (batch == 0))
    types, batch = types[kept], batch[kept]
    centers, answer = rng.normal(size=(N_TYPES, N)) * 4, np.zeros((N_TYPES, N))
    centers[:, 8:] = 0.0
    centers[5] = centers[4] + rng.normal(size=N) * 3  # the nearest of the other batch
    answer[:, 8:] = rng.normal(size=(N_TYPES, 4)) * 2
    x = centers[types] + answer[types] * batch[:, None] + rng.normal(size=(len(types), N))
    return x - x.mean(0), types, batch


def pairs_of(x, batch):
    return {(int(i), int(j)) for first, second in matched_cells(x, batch) for i, j in zip(first, second, strict=True)}


def test_matches_are_those_of_a_loop(cells, monkeypatch):
    x, batch = cells[0][:80], np.arange(80) % 3
    monkeypatch.setattr(_matches, "N_MATCHES", 4)

    def distances(i):
        return {j: norm(x[i] / norm(x[i]) - x[j] / norm(x[j])) for j in range(80) if j != i}

    def nearest(i, b):
        found = distances(i)
        return sorted((j for j in found if batch[j] == b), key=found.__getitem__)[:4]

    wanted = set()
    for i in range(80):
        for j in range(80):
            if batch[i] < batch[j] and j in nearest(i, batch[j]) and i in nearest(j, batch[i]):
                own = distances(i)[nearest(i, batch[i])[-1]] * distances(j)[nearest(j, batch[j])[-1]]
                if distances(i)[j] <= 1.25 * np.sqrt(own):
                    wanted.add((i, j))
    assert len(wanted) > 20
    assert pairs_of(x, batch) == wanted


def test_types_of_one_batch_find_no_match(cells, monkeypatch):
    x, types, batch = cells
    found = np.array(sorted(pairs_of(x, batch)))
    assert (types[found[:, 0]] == types[found[:, 1]]).mean() > 0.99
    assert not np.isin(types[found], [4, 5]).any()
    monkeypatch.setattr(_matches, "MAX_DISTANCE", np.inf)
    assert np.isin(types[np.array(sorted(pairs_of(x, batch)))], [4, 5]).any()


def test_the_covariance_is_half_the_mean_square_difference(cells):
    x, _, batch = cells
    pairs = np.array(sorted(pairs_of(x, batch)))
    scores = np.random.default_rng(1).normal(size=(len(x), 3))
    wanted = np.mean([np.outer(scores[i] - scores[j], scores[i] - scores[j]) for i, j in pairs], axis=0) / 2
    np.testing.assert_allclose(match_covariance(scores, x, batch), wanted, rtol=1e-10)


def test_cells_of_different_types_are_not_matched(cells):
    x, _, batch = cells
    labels = np.random.default_rng(2).integers(-1, 2, len(x))
    pairs = [(i, j) for i, j in sorted(pairs_of(x, batch)) if labels[i] == labels[j] or min(labels[i], labels[j]) < 0]
    assert 0 < len(pairs) < len(set(pairs_of(x, batch)))
    wanted = np.mean([np.outer(x[i] - x[j], x[i] - x[j]) for i, j in pairs], axis=0) / 2
    np.testing.assert_allclose(match_covariance(x, x, batch, labels), wanted, rtol=1e-10)


def test_cells_without_a_match_have_no_covariance():
    x = np.concatenate([np.eye(4)[np.zeros(20, dtype=int)], np.eye(4)[np.ones(1, dtype=int)]])
    assert not match_covariance(x, x, np.array([0] * 20 + [1])).any()


def test_matched_cells_lie_nearer_to_each_other_along_the_axes(cells):
    """What differs between the batches within types loses weight to what differs between types."""
    x, types, batch = cells
    groups = _axes.fine_groups(x)
    without = _axes.whitened_axes(x, groups, 0.1)
    along = _axes.whitened_axes(x, groups, 0.1, 4.0 * match_covariance(x, x @ without.T, batch))

    def batch_share(axes):
        """Distance between the batches within shared types, over that between types."""
        z = x @ axes.T
        means = np.array([[z[(types == t) & (batch == b)].mean(0) for b in (0, 1)] for t in range(4)])
        return (
            norm(means[:, 0] - means[:, 1], axis=1).mean() / norm(means[:, None, 0] - means[None, :, 0], axis=2).mean()
        )

    assert batch_share(along) < 0.8 * batch_share(without)
