import numpy as np
import pandas as pd
import pytest

from scgpcl import metrics, pl


@pytest.fixture
def overlap():
    """Four types, one without marker genes and one without a cluster, and three clusters."""
    types, clusters = pd.Index(["T", "B", "NK", "rare"], name="type"), pd.Index(["0", "2", "1"], name="cluster")
    pairwise = pd.DataFrame([[0.9, 0.1, 0], [0, 1, 0.2], [0.3, 0, 0.4], [np.nan] * 3], index=types, columns=clusters)
    per_type = pd.DataFrame(
        {"n_cells": [9, 5, 3, 1], "cluster": ["0", "2", None, "1"], "overlap": [0.9, 1, 0, np.nan]}, index=types
    )
    return metrics.MarkerOverlap(per_type, 1.9 / 3, "NK", pairwise)


def test_shows_every_pair(overlap):
    ax = pl.marker_overlap(overlap)
    image = ax.images[0].get_array()
    np.testing.assert_array_equal(image.filled(np.nan), overlap.pairwise.to_numpy())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["T (9)", "B (5)", "NK (3)", "rare (1)"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "2", "1"]
    assert sorted(float(text.get_text()) for text in ax.texts) == [0.1, 0.2, 0.3, 0.4, 0.9, 1]
    framed = {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in ax.patches}
    assert framed == {(0, 0), (1, 1), (3, 2)}


def test_takes_axes(overlap):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert pl.marker_overlap(overlap, ax=ax) is ax
    ax.figure.canvas.draw()
