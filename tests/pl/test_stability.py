"""The figure of stability: its points are the table, in the colours of the clusters."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scgpcl import pl
from scgpcl.pl._style import colors_of


@pytest.fixture
def adata():
    table = pd.DataFrame(
        {
            "size": [40, 30, 20, 0],
            "thinned": [0.9, 0.8, 0.7, np.nan],
            "halves": [0.85, 0.6, 0.5, np.nan],
            "subsampled": [0.95, 0.7, 0.2, np.nan],
            "neighbor": ["1", "0", "1.$a$", ""],
            "confused": [0.004, 0.1, 0.25, np.nan],
        },
        index=["0", "1", "2", "3"],
    )
    obs = pd.DataFrame({"scgpcl_cluster": pd.Categorical(["0"] * 40 + ["1"] * 30 + ["2"] * 20, table.index)})
    obs.index = obs.index.astype(str)
    return ad.AnnData(obs=obs, uns={"scgpcl": {"stability": table}})


def test_points_are_the_table_in_the_colours_of_the_clusters(adata):
    table, colors = adata.uns["scgpcl"]["stability"], colors_of(adata, "scgpcl_cluster")
    ax = pl.stability(adata)
    points = [(*each.get_offsets()[0], to_hex(each.get_facecolor()[0])) for each in ax.collections]
    expected = [
        (table.loc[name, measure], place, to_hex(colors[name]))
        for place, name in enumerate("012")
        for measure in ("thinned", "halves", "subsampled")
    ]
    assert points == expected
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0 (10%)", r"1.\$a\$ (25%)"]  # less than one percent is not named
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0 (40)", "1 (30)", "2 (20)", "3 (0)"]
    ax.figure.canvas.draw()


def test_a_model_is_asked_once(adata):
    class Model:
        calls = 0

        def __init__(self):
            self.adata = adata.copy()
            self.table = self.adata.uns["scgpcl"].pop("stability")

        def _current_clusters(self):
            return list(self.table.index)

        def get_cluster_stability(self):
            self.calls += 1
            if self.adata is not None:
                self.adata.uns["scgpcl"]["stability"] = self.table
            return self.table

    model = Model()
    for _ in range(2):
        assert len(pl.stability(model).collections) == 9
    assert model.calls == 1
    model.adata = None  # loaded without cells, for others
    assert len(pl.stability(model).collections) == 9


def test_what_is_no_result_is_refused(adata):
    del adata.uns["scgpcl"]["stability"]
    with pytest.raises(KeyError, match="get_cluster_stability"):
        pl.stability(adata)
    with pytest.raises(TypeError, match="found int"):
        pl.stability(5)
