import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scgpcl import pl


@pytest.fixture
def cells() -> ad.AnnData:
    """Sixty cells in three groups that are far apart."""
    codes = np.repeat([0, 1, 2], 20)
    latent = np.random.default_rng(0).normal(5.0 * codes[:, None], 0.3, (60, 4)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "scgpcl_cluster": pd.Categorical(codes.astype(str)),
            "scgpcl_confidence": np.linspace(0.2, 1.0, 60),
            "cell_type": pd.Categorical.from_codes(codes, ["B cell", "NK cell", "T cell"]),
        },
        index=[f"c{i}" for i in range(60)],
    )
    return ad.AnnData(obs=obs, obsm={"X_scgpcl": latent})


@pytest.fixture
def drawn(cells) -> ad.AnnData:
    """The same cells with a map of somebody else's, so that none has to be made."""
    cells.obsm["X_umap"] = cells.obsm["X_scgpcl"][:, :2].copy()
    return cells


def points(ax):
    """Positions of all drawn cells in a fixed order."""
    at = np.concatenate([np.asarray(group.get_offsets()) for group in ax.collections if len(group.get_offsets())])
    return at[np.lexsort(at.T)]


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_axes_points_and_legend(drawn):
    ax = pl.latent(drawn)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("scgpcl_cluster", "UMAP 1", "UMAP 2")
    expected = drawn.obsm["X_umap"]
    np.testing.assert_allclose(points(ax), expected[np.lexsort(expected.T)])
    assert entries(ax) == ["0", "1", "2"]
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    assert len(ax.figure.axes) == 1


def test_colors_are_those_scanpy_stored(drawn):
    drawn.uns["scgpcl_cluster_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    ax = pl.latent(drawn)
    (cloud,) = ax.collections
    at = np.asarray(cloud.get_offsets())
    for code, color in enumerate(drawn.uns["scgpcl_cluster_colors"]):
        own = drawn.obsm["X_umap"][drawn.obs["scgpcl_cluster"] == str(code)]
        is_own = (at[:, None] == own[None]).all(-1).any(1)
        assert {to_hex(face) for face in cloud.get_facecolors()[is_own]} == {color}
    assert [to_hex(handle.get_color()) for handle in ax.get_legend().legend_handles] == [
        "#ff0000",
        "#00ff00",
        "#0000ff",
    ]


def test_long_names_are_numbered_on_the_map(drawn):
    ax = pl.latent(drawn, "cell_type")
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]
    assert entries(ax) == ["1  B cell", "2  NK cell", "3  T cell"]
    ax = pl.latent(drawn, "cell_type", legend_loc="right margin")
    assert not ax.texts
    assert entries(ax) == ["B cell", "NK cell", "T cell"]


def test_mark_of_a_group_stands_in_the_group(drawn):
    ax = pl.latent(drawn)
    for text in ax.texts:
        own = drawn.obsm["X_umap"][drawn.obs["scgpcl_cluster"] == text.get_text()]
        assert np.abs(own - np.array(text.get_position())).max(1).min() < 0.5


def test_numbers_have_a_colour_bar_and_no_legend(drawn):
    drawn.obs.loc["c7", "scgpcl_confidence"] = np.nan
    ax = pl.latent(drawn, "scgpcl_confidence")
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2
    assert len(points(ax)) == 60
    values = np.sort(np.asarray(ax.collections[1].get_array()))
    np.testing.assert_allclose(values, np.sort(drawn.obs["scgpcl_confidence"].dropna()))


def test_cells_without_a_value_are_grey(drawn):
    drawn.obs["partly"] = ["a"] * 30 + [None] * 30
    (cloud,) = pl.latent(drawn, "partly").collections
    assert [to_hex(face) for face in cloud.get_facecolors()].count(to_hex("lightgrey")) == 30


def test_map_is_made_once_kept_and_made_again_for_other_vectors(cells):
    pl.latent(cells)
    first = cells.obsm["X_umap"].copy()
    assert set(cells.obsm) == {"X_scgpcl", "X_umap"}
    assert set(cells.uns) == {"X_umap"}
    # groups that are far apart stay apart
    centers = pd.DataFrame(first).groupby(cells.obs["scgpcl_cluster"].to_numpy()).mean().to_numpy()
    spread = np.linalg.norm(first - centers[cells.obs["scgpcl_cluster"].astype(int)], axis=1).max()
    assert np.linalg.norm(centers[0] - centers[1]) > spread

    pl.latent(cells, "cell_type")
    assert cells.obsm["X_umap"] is not None
    vectors = cells.obsm["X_scgpcl"].copy()
    cells.obsm["X_scgpcl"][0] += 1
    pl.latent(cells)
    assert not np.array_equal(cells.obsm["X_umap"], first)
    cells.obsm["X_scgpcl"] = vectors
    pl.latent(cells)
    np.testing.assert_array_equal(cells.obsm["X_umap"], first)

    cells.obsm["X_umap"] = first + 1  # as if scanpy had made another one since
    cells.obsm["X_scgpcl"][0] += 1
    np.testing.assert_array_equal(points(pl.latent(cells)), (first + 1)[np.lexsort((first + 1).T)])
    np.testing.assert_array_equal(cells.obsm["X_umap"], first + 1)


def test_panels_share_colours_and_numbers(drawn):
    renamed = drawn.obs["cell_type"].cat.rename_categories({"B cell": "zz B cell"})
    drawn.obs["name"] = renamed.astype(str).astype("category")  # in another order
    one, two, three = pl.latent(drawn, ["scgpcl_cluster", "name", "scgpcl_confidence"])
    assert entries(two) == ["1  NK cell", "2  T cell", "0  zz B cell"]
    colors = [{to_hex(h.get_color()) for h in ax.get_legend().legend_handles} for ax in (one, two)]
    assert colors[0] == colors[1]
    assert three.get_legend() is None
    for ax in (one, two):
        (cloud,) = [group for group in ax.collections if len(group.get_offsets())]
        order = np.lexsort(np.asarray(cloud.get_offsets()).T)
        faces = cloud.get_facecolors()[order]
        if ax is one:
            expected = faces
    np.testing.assert_array_equal(faces, expected)
    drawn.obs["fine"] = pd.Categorical([f"type {i // 12}" for i in range(60)])
    (_, fine) = pl.latent(drawn, ["scgpcl_cluster", "fine"])
    assert sorted(entry.split()[0] for entry in entries(fine)) == ["0", "1", "2", "4", "5"]
    assert len({to_hex(h.get_color()) for h in fine.get_legend().legend_handles}) == 5


def test_genes_are_drawn_as_scanpy_normalises_them(drawn):
    import scanpy as sc

    counts = np.random.default_rng(0).poisson(2.0, (60, 5)).astype(np.float32)
    cells = ad.AnnData(counts, obs=drawn.obs, obsm=drawn.obsm, var=pd.DataFrame(index=list("abcde")))
    ax = pl.latent(cells, "c")
    expected = cells.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    values = np.asarray(ax.collections[1].get_array())
    np.testing.assert_allclose(np.sort(values), np.sort(expected.X[:, 2]), rtol=1e-5)
    cells.X = expected.X
    np.testing.assert_allclose(
        np.sort(np.asarray(pl.latent(cells, "c").collections[1].get_array())), np.sort(values), rtol=1e-5
    )


def test_names_on_the_data(drawn):
    ax = pl.latent(drawn, "cell_type", legend_loc="on data")
    assert [text.get_text() for text in ax.texts] == ["B cell", "NK cell", "T cell"]
    assert ax.get_legend() is None
    ax = pl.latent(drawn, legend_loc="none")
    assert (len(ax.texts), ax.get_legend()) == (0, None)
    with pytest.raises(ValueError, match="legend_loc"):
        pl.latent(drawn, legend_loc="best")


def test_equal_to_scanpys_map(cells):
    import scanpy as sc

    ax = pl.latent(cells, seed=4)
    sc.pp.neighbors(cells, use_rep="X_scgpcl", random_state=4)
    sc.tl.umap(cells, random_state=4)
    expected = cells.obsm["X_umap"]
    np.testing.assert_allclose(points(ax), expected[np.lexsort(expected.T)], rtol=1e-5)


def test_map_is_still_used_after_a_file(cells, tmp_path, monkeypatch):
    pl.latent(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("scgpcl.pl._map._make", None)
    pl.latent(again)
    np.testing.assert_array_equal(again.obsm["X_umap"], cells.obsm["X_umap"])


def test_tsne_views_and_other_positions(cells):
    ax = pl.latent(cells[:50], method="tsne")
    assert ax.get_xlabel() == "t-SNE 1"
    assert set(cells.obsm) == {"X_scgpcl"}
    cells.obsm["X_pca"] = np.arange(180.0).reshape(60, 3)
    ax = pl.latent(cells, basis="X_pca")
    assert ax.get_xlabel() == "pca 1"
    np.testing.assert_array_equal(points(ax), cells.obsm["X_pca"][:, :2])
    assert set(cells.obsm) == {"X_scgpcl", "X_pca"}
    assert not cells.uns


def test_hostile_and_many_names(drawn):
    names = ["$", "$x$", r"$\frac{", "_hidden", "a\nb", "<b>&", *(f"{i} " + "long " * 40 + str(i) for i in range(24))]
    drawn.obs["odd"] = pd.Categorical.from_codes(np.arange(60) % 30, names)
    before = drawn.copy()
    for draw in (
        lambda: pl.latent(drawn, "odd"),
        lambda: pl.cluster_sizes(drawn, groupby="odd"),
        lambda: pl.comparison(drawn, "odd", "cell_type"),
        lambda: pl.comparison(drawn, "cell_type", "odd"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ax = draw()
            ax.figure.canvas.draw()
        box = ax.get_window_extent()
        assert box.width > 0.15 * ax.figure.bbox.width
    shown = entries(pl.latent(drawn, "odd"))
    assert len(shown) == len(set(shown)) == 30
    assert max(map(len, shown)) < 40
    assert drawn.obs.equals(before.obs)
    assert set(drawn.uns) == set(before.uns)


def test_legend_stands_beside_the_map(drawn):
    drawn.obs["odd"] = pd.Categorical.from_codes(
        np.arange(60) % 30, [f"{i} a rather long name of a type" for i in range(30)]
    )
    ax = pl.latent(drawn, "odd")
    ax.figure.canvas.draw()
    legend, axes = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert legend.x0 >= axes.x1
    assert legend.x1 <= ax.figure.bbox.x1 + 1
    assert legend.y0 >= 0
    assert legend.y1 <= ax.figure.bbox.y1


def test_takes_axes(drawn):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert pl.latent(drawn, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_refuses_what_cannot_be_drawn(cells, untouched):
    with untouched(cells):
        with pytest.raises(KeyError, match="leiden"):
            pl.latent(cells, "leiden")
        with pytest.raises(KeyError, match="Train a model first"):
            pl.latent(cells, use_rep="X_scvi")
        with pytest.raises(KeyError, match="X_other"):
            pl.latent(cells, basis="X_other")
        with pytest.raises(ValueError, match="umap"):
            pl.latent(cells, method="pca")
        with pytest.raises(ValueError, match="at least 3 cells"):
            pl.latent(cells[:2])
    cells.obsm["X_one"] = np.zeros((60, 1))
    with pytest.raises(ValueError, match="two columns"):
        pl.latent(cells, basis="X_one")
    cells.obs["empty"] = None
    with pytest.raises(ValueError, match="at least one cell"):
        pl.latent(cells, "empty")


def test_numbers_of_numpy_are_numbers(cells):
    axes = pl.latent(cells, ["scgpcl_cluster", "scgpcl_cluster"], seed=np.int64(3), ncols=np.int32(1))
    assert cells.uns["X_umap"]["seed"] == 3
    assert type(cells.uns["X_umap"]["seed"]) is int
    assert [ax.get_subplotspec().colspan.start for ax in axes] == [0, 0]
    for arguments, found in (
        ({"seed": True}, "True"),
        ({"seed": 1.5}, "1.5"),
        ({"ncols": 0}, "0"),
        ({"ncols": "2"}, "'2'"),
    ):
        name = next(iter(arguments))
        with pytest.raises(ValueError, match=f"Expected `{name}` to be a whole number .*, found {found}"):
            pl.latent(cells, **arguments)
