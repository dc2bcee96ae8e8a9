import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgpcl import pl


def _image(ax):
    return np.asarray(ax.images[0].get_array())


def _names(labels):
    return [tick.get_text() for tick in labels]


def test_rows_are_shares_in_diagonal_order(clustered):
    ax = pl.comparison(clustered, "scgpcl_cluster", "cell_type")
    np.testing.assert_allclose(_image(ax), [[0.8, 0, 0.2], [0, 1, 0], [0, 0, 1]])
    assert _names(ax.get_xticklabels()) == ["T", "NK", "B"]
    assert _names(ax.get_yticklabels()) == ["0 (5)", "1 (3)", "2 (2)"]


def test_equal_to_pandas_whatever_the_order():
    rng = np.random.default_rng(0)
    obs = {name: pd.Categorical(rng.integers(0, n, 300).astype(str)) for name, n in (("a", 7), ("b", 4))}
    cells = ad.AnnData(obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(300)]))
    for key1, key2 in (("a", "b"), ("b", "a")):
        ax = pl.comparison(cells, key1, key2)
        expected = pd.crosstab(cells.obs[key1], cells.obs[key2], normalize="index")
        rows = [name.split(" ")[0] for name in _names(ax.get_yticklabels())]
        np.testing.assert_allclose(_image(ax), expected.loc[rows, _names(ax.get_xticklabels())])
        assert sorted(rows) == sorted(expected.index)


def test_split_type_stands_beside_its_other_part(clustered):
    clustered.obs["split"] = pd.Categorical(list("0033311122"))
    ax = pl.comparison(clustered, "split", "cell_type")
    # types keep their order (B, NK, T); both parts of T come last, the one with more T cells or the own one first
    assert _names(ax.get_xticklabels()) == ["B", "NK", "T"]
    assert [name.split(" ")[0] for name in _names(ax.get_yticklabels())][:2] == ["2", "1"]


def test_cells_without_a_value_are_left_out(clustered):
    clustered.obs["partly"] = pd.Categorical(["T", None, None, None, None, "B", "B", "B", None, None])
    ax = pl.comparison(clustered, "scgpcl_cluster", "partly")
    assert _names(ax.get_yticklabels()) == ["0 (1)", "1 (3)"]
    clustered.obs["never"] = pd.Categorical([None] * 8 + ["x", "x"])
    with pytest.raises(ValueError, match="a value in both"):
        pl.comparison(clustered, "partly", "never")


def test_refuses_a_missing_key(clustered):
    with pytest.raises(KeyError, match="leiden"):
        pl.comparison(clustered, "scgpcl_cluster", "leiden")


def test_takes_axes(clustered):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert pl.comparison(clustered, "cell_type", "scgpcl_cluster", ax=ax) is ax
    ax.figure.canvas.draw()
