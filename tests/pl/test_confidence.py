import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scgpcl import pl


@pytest.fixture
def sure(clustered):
    clustered.obs["scgpcl_confidence"] = [0.9, 0.8, 0.95, 0.4, 0.85, 0.5, 0.6, 0.7, 0.99, 0.99]
    return clustered


def _colors(ax):
    return [to_hex(body.get_facecolor()[0]) for body in ax.collections if len(body.get_facecolor())]


def _medians(ax):
    return [
        segment[0, 1] for lines in ax.collections if hasattr(lines, "get_segments") for segment in lines.get_segments()
    ]


def test_one_violin_per_cluster_with_its_median(sure):
    ax = pl.confidence(sure)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]
    wanted = sure.obs.groupby("scgpcl_cluster", observed=True)["scgpcl_confidence"].median()
    np.testing.assert_allclose(_medians(ax), wanted)
    assert len(_colors(ax)) == 3
    assert ax.get_ylim() == (0.0, 1.0)
    assert ax.get_ylabel() == "confidence"


def test_takes_the_colors_scanpy_stored(sure):
    from scgpcl.pl._style import DISTINCT

    assert _colors(pl.confidence(sure)) == [to_hex(color) for color in DISTINCT[:3]]
    sure.uns["scgpcl_cluster_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    assert _colors(pl.confidence(sure)) == ["#ff0000", "#00ff00", "#0000ff"]


def test_long_names_and_formulas_are_drawn_as_in_the_other_pictures(sure):
    names = {"0": "$\\frac{", "1": "a name " * 20, "2": "2"}
    sure.obs["my $key"] = sure.obs["scgpcl_cluster"].astype(str).map(names).astype("category")
    texts = []
    for draw in (pl.confidence, pl.cluster_sizes):
        ax = draw(sure, groupby="my $key")
        ax.figure.canvas.draw()  # an unfinished formula fails here
        texts.append([(tick.get_text(), tick.get_rotation()) for tick in ax.get_xticklabels()])
        assert ax.get_xlabel() == r"my \$key"
    assert texts[0] == texts[1]
    assert max(len(text) for text, _ in texts[0]) <= 31


def test_least_confidence_is_drawn_with_the_share_below_it(sure):
    with pytest.raises(ValueError, match="from 0 to 1, found True"):
        pl.confidence(sure, min_confidence=True)
    ax = pl.confidence(sure, min_confidence=0.65)
    assert [text.get_text() for text in ax.texts] == ["20%", "67%", "0%"]
    line = next(line for line in ax.get_lines() if line.get_linestyle() == "--")
    assert set(line.get_ydata()) == {0.65}


def test_leaves_the_cells_unchanged_and_takes_axes(sure):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    before = sure.copy()
    assert pl.confidence(sure, groupby="cell_type", ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert not sure.uns
    assert sure.obs.equals(before.obs)


def test_a_cluster_of_one_cell_and_cells_without_cluster(sure):
    sure.obs["group"] = pd.Categorical(["a", "b", "b", "b", None, "b", "b", "b", "b", "b"])
    ax = pl.confidence(sure, groupby="group")
    ax.figure.canvas.draw()
    np.testing.assert_allclose(_medians(ax)[0], 0.9)


def test_refuses_missing_columns_and_values(sure):
    with pytest.raises(KeyError, match=r"leiden.*scgpcl_cluster"):
        pl.confidence(sure, groupby="leiden")
    with pytest.raises(KeyError, match=r"score.*scgpcl_confidence"):
        pl.confidence(sure, confidence_key="score")
    sure.obs.loc["c3", "scgpcl_confidence"] = np.nan
    with pytest.raises(ValueError, match="found 1 missing"):
        pl.confidence(sure)
