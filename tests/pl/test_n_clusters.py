from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scgpcl import pl


@pytest.fixture
def curve():
    return pd.DataFrame(
        {
            "K": [2, 3, 4, 5],
            "stability": [1.0, 0.98, 0.6, 0.4],
            "spread": [0.0, 0.05, 0.1, 0.1],
            "agreement": [1.0, 0.99, 0.8, 0.7],
            "silhouette": [0.3, 0.5, 0.4, 0.2],
        }
    )


def _lines(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def test_draws_every_column_and_marks_the_number(curve):
    ax = pl.n_clusters(SimpleNamespace(n_clusters_=3, n_clusters_curve_=curve))
    lines = _lines(ax)
    drawn = zip(("stability", "agreement", "silhouette"), lines.values(), strict=True)
    for name, line in drawn:
        assert line.get_label().startswith(name)
        np.testing.assert_array_equal(line.get_xydata(), curve[["K", name]])
    mark = next(line for line in ax.get_lines() if line.get_linestyle() == "--")
    assert set(mark.get_xdata()) == {3}
    assert [text.get_text() for text in ax.texts] == ["3"]
    assert ax.get_xlabel() == "number of clusters"
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() <= 1.0
    assert band[:, 1].min() == pytest.approx(0.3)


def test_takes_a_curve_and_axes(curve):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    before = curve.copy()
    assert pl.n_clusters(curve, ax=ax) is ax
    assert not ax.texts
    assert [text.get_text() for text in pl.n_clusters(curve, n_clusters=4).texts] == ["4"]
    pd.testing.assert_frame_equal(curve, before)
    assert len(plt.get_fignums()) == 2


def test_takes_the_result_of_the_estimate():
    from sklearn.datasets import make_blobs

    from scgpcl.cluster import estimate_n_clusters

    x = make_blobs(120, 6, centers=3, cluster_std=0.3, random_state=0)[0]
    found = estimate_n_clusters(x, k_range=(2, 5))
    ax = pl.n_clusters(found.curve, n_clusters=found.n_clusters)
    assert [text.get_text() for text in ax.texts] == [str(found.n_clusters)]


def test_a_model_with_a_given_number_is_refused():
    with pytest.raises(ValueError, match="n_clusters=None"):
        pl.n_clusters(SimpleNamespace(n_clusters_=3, n_clusters_curve_=None))
    with pytest.raises(ValueError, match=r"lacks \['agreement', 'silhouette'\]"):
        pl.n_clusters(pd.DataFrame({"K": [2], "stability": [1.0], "spread": [0.0]}))
