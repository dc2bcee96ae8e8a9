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
            "share": [0.95, 0.8, 0.6, 0.3],
            "separation": [4.0, 2.0, 1.0, np.nan],
            "p_value": [0.0, 0.0, 0.5, np.nan],
            "holds": [True, True, False, False],
        }
    )


def test_draws_every_split_and_marks_the_number(curve):
    ax = pl.n_clusters(SimpleNamespace(n_clusters_=3, n_clusters_curve_=curve))
    held, other = ax.collections
    np.testing.assert_array_equal(held.get_offsets(), curve.loc[curve["holds"], ["K", "share"]])
    np.testing.assert_array_equal(other.get_offsets(), curve.loc[~curve["holds"], ["K", "share"]])
    assert not np.array_equal(held.get_facecolor(), other.get_facecolor())
    marks = {line.get_linestyle(): line for line in ax.get_lines()}
    assert set(marks["--"].get_xdata()) == {3}
    assert set(marks[":"].get_ydata()) == {0.5}
    assert [text.get_text() for text in ax.texts] == ["3"]
    assert ax.get_xlabel() == "number of clusters"


def test_takes_a_curve_and_axes(curve):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    before = curve.copy()
    assert pl.n_clusters(curve, ax=ax) is ax
    assert not ax.texts
    assert [text.get_text() for text in pl.n_clusters(curve, n_clusters=4).texts] == ["4"]
    pd.testing.assert_frame_equal(curve, before)
    assert len(plt.get_fignums()) == 2


def test_a_model_with_a_given_number_is_refused():
    with pytest.raises(ValueError, match="n_clusters=None"):
        pl.n_clusters(SimpleNamespace(n_clusters_=3, n_clusters_curve_=None))
    with pytest.raises(ValueError, match=r"lacks \['share', 'holds'\]"):
        pl.n_clusters(pd.DataFrame({"K": [2], "separation": [1.0]}))
