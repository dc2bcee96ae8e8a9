"""The density with one peak, and separations of cuts through it."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde, norm

from scgpcl.cluster import _gap
from scgpcl.cluster._gap import critical_bandwidth, gap


def peaks(x, width):
    """Peaks of a kernel density, on a fine grid."""
    grid = np.linspace(x.min() - 3 * width, x.max() + 3 * width, 4000)
    density = gaussian_kde(x, bw_method=width / x.std(ddof=1))(grid)
    density[density < 1e-6 * density.max()] = 0
    rises = np.diff(density) > 0
    return int((rises[:-1] & ~rises[1:]).sum())


@pytest.mark.parametrize("shift", [0.0, 2.0, 6.0])
def test_bandwidth_is_the_smallest_with_one_peak(shift):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(200) + shift * (rng.random(200) < 0.4)
    width = critical_bandwidth(x)
    assert peaks(x, 1.02 * width) == 1
    assert peaks(x, 0.96 * width) > 1
    assert critical_bandwidth(np.ones(5)) == 0.0


@pytest.mark.parametrize("share", [0.5, 0.15])
def test_a_cut_through_a_gaussian_separates_as_in_theory(share):
    """Without noise both scores are the cut variable, whose truncated moments are known."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(4000)
    side = x > np.quantile(x, 1 - share)
    found = gap(x, x, side, rng, 20)
    t = norm.isf(share)
    high, low = norm.pdf(t) / share, -norm.pdf(t) / (1 - share)
    within = 1 - share * high**2 - (1 - share) * low**2
    theory = np.log((high - low) / np.sqrt(within))
    assert found.observed == pytest.approx(theory, abs=0.05)
    assert found.null.mean() == pytest.approx(theory, abs=0.1)


def test_draws_have_one_peak_and_the_variance_of_the_sum(monkeypatch):
    drawn = []
    monkeypatch.setattr(_gap, "_log_separation", lambda first, second, side: drawn.append(first + second) or 0.0)
    rng = np.random.default_rng(4)
    side = rng.random(3000) < 0.4
    scores = 2.0 * side + rng.standard_normal((2, 3000))
    _gap.gap(*scores, side, rng, 5)
    *null, observed = drawn
    assert len(null) == 5
    for each in null:
        assert each.var() == pytest.approx(observed.var(), rel=0.1)
        assert peaks(each, 0.3 * each.std()) == 1
    assert peaks(observed, 0.3 * observed.std()) == 2


def test_two_groups_are_farther_apart_than_any_cut():
    rng = np.random.default_rng(2)
    side = rng.random(300) < 0.4
    scores = 2.2 * np.where(side, 1, -1) + rng.standard_normal((2, 300))
    found = gap(*scores, side, rng, 30)
    assert found.observed > found.null.max()
    cut = gap(*rng.standard_normal((2, 300)), side, rng, 30)
    assert cut.observed < cut.null.min()


def test_groups_along_one_score_alone_are_a_cut():
    rng = np.random.default_rng(3)
    side = rng.random(300) < 0.4
    first = 5.0 * side + rng.standard_normal(300)
    found = gap(first, rng.standard_normal(300), side, rng, 30)
    assert found.observed < np.quantile(found.null, 0.95)
