import anndata as ad
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scgpcl import pl


def _colors(ax):
    return [to_hex(bar.get_facecolor()) for bar in ax.patches]


def test_one_bar_per_cluster(clustered):
    ax = pl.cluster_sizes(clustered)
    assert [bar.get_height() for bar in ax.patches] == [5, 3, 2]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]
    assert [text.get_text() for text in ax.texts] == ["5", "3", "2"]


def test_takes_the_colors_scanpy_stored(clustered):
    clustered.uns["scgpcl_cluster_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    assert _colors(pl.cluster_sizes(clustered)) == ["#ff0000", "#00ff00", "#0000ff"]
    # scanpy's colours belong to all categories, those without a cell included
    assert _colors(pl.cluster_sizes(clustered[clustered.obs["scgpcl_cluster"] != "1"].copy()))[0] == "#ff0000"


def test_colors_of_a_missing_category_are_skipped(clustered):
    clustered.uns["scgpcl_cluster_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    clustered.obs.loc[clustered.obs["scgpcl_cluster"] == "1", "scgpcl_cluster"] = "0"
    assert _colors(pl.cluster_sizes(clustered)) == ["#ff0000", "#0000ff"]


def test_default_colors_are_the_distinct_ones(clustered):
    from scgpcl.pl._style import DISTINCT

    assert _colors(pl.cluster_sizes(clustered)) == [to_hex(color) for color in DISTINCT[:3]]


def test_leaves_the_cells_unchanged_and_takes_axes(clustered):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    before = clustered.copy()
    assert pl.cluster_sizes(clustered, groupby="cell_type", ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert not clustered.uns
    assert clustered.obs.equals(before.obs)


def test_refuses_a_missing_key(clustered):
    with pytest.raises(KeyError, match=r"leiden.*scgpcl_cluster"):
        pl.cluster_sizes(clustered, groupby="leiden")
    clustered.obs["empty"] = None
    with pytest.raises(ValueError, match="at least one cell"):
        pl.cluster_sizes(clustered, groupby="empty")


def test_sixty_clusters():
    names = [f"group number {i}" for i in range(60)]
    big = ad.AnnData(obs=pd.DataFrame({"many": names}, index=names))
    ax = pl.cluster_sizes(big, groupby="many")
    ax.figure.canvas.draw()
    assert len(set(_colors(ax))) > 50
