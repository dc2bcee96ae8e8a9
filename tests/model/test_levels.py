"""Other levels of the tree than that of the training, without training again."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl import pl


@pytest.fixture
def trained(four_clusters):
    """Folder of a trained model."""
    return four_clusters


@pytest.fixture
def adata(four_types):
    return four_types.copy()


@pytest.fixture
def model(trained, adata):
    model = scgpcl.SCGPCL.load(trained, adata, accelerator="cpu")
    model.annotate()
    return model


def test_the_tree_holds_the_clusters_of_the_training(model, adata):
    table = model.get_tree()
    sizes = adata.obs["scgpcl_cluster"].value_counts()
    assert table["size"].loc[["0", "1", "2", "3"]].tolist() == sizes.loc[["0", "1", "2", "3"]].tolist()
    assert table.index[0] == "0-3"
    assert table["size"].iloc[0] == 300
    inner = table.index.isin(table["parent"])
    for name in table.index[inner]:
        assert table["size"][name] == table["size"][table["parent"] == name].sum()
    assert (table["height"][inner] > 0).all()
    assert table["separation"][inner].notna().all()
    assert table["separation"][~inner].isna().all()
    assert table["stability"].between(0, 1).all()
    assert model.get_tree(newick=True).endswith("'0-3';")


def test_levels_are_nested(model):
    levels = model.get_levels()
    assert list(levels) == list(range(1, len(levels.columns) + 1))
    for coarse, fine in zip(list(levels), list(levels)[1:], strict=False):
        assert (levels.groupby(fine, observed=True)[coarse].nunique() == 1).all()
        assert levels[fine].nunique() <= fine
    np.testing.assert_array_equal(levels[4].astype(str), model.predict())
    pd.testing.assert_frame_equal(model.get_levels([2, 6], indices=[3, 1]), levels[[2, 6]].iloc[[3, 1]])


def test_clusters_without_cells_are_reported(model, adata, caplog):
    found = model.get_levels().nunique()
    lacking = found.index[found < found.index]
    assert len(lacking) > 0
    assert len(lacking) < len(found)
    for n_clusters in found.index[1:]:
        caplog.clear()
        model.cut(n_clusters)
        expected = f"{n_clusters - found[n_clusters]} of the {n_clusters} clusters of this level have no cells"
        assert (expected in caplog.text) == (n_clusters in lacking)


@pytest.mark.parametrize("n_clusters", [2, 7])
def test_a_cut_agrees_with_training_at_its_number(model, four_types, n_clusters):
    copy = four_types.copy()
    scgpcl.SCGPCL.setup_anndata(copy)
    other = scgpcl.SCGPCL(copy, n_clusters, n_hidden=16, n_latent=8)
    other.train(pretrain_max_epochs=4, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(other.get_latent_representation(), model.get_latent_representation())
    assert adjusted_rand_score(other.predict(level=4), model.predict()) > 0.97
    if n_clusters == 2:
        assert adjusted_rand_score(model.predict(level=2), other.predict()) > 0.97


def test_a_cut_is_what_obs_and_new_cells_get(model, adata):
    names, query = model.predict(), adata[::3].copy()
    finer = model.predict(level=6)
    model.cut(6)
    np.testing.assert_array_equal(adata.obs["scgpcl_cluster"].astype(str), finer)
    np.testing.assert_array_equal(model.predict(query), finer[::3])
    soft = model.predict(soft=True)
    np.testing.assert_allclose(soft.sum(1), 1.0, atol=1e-6)
    codes = soft.columns.get_indexer(finer)
    np.testing.assert_array_equal(adata.obs["scgpcl_confidence"], soft.to_numpy()[np.arange(300), codes])
    assert (soft.to_numpy().argmax(1) == codes).mean() > 0.95
    assert {name.split(".")[0] for name in finer} == set(names)
    model.cut(4)
    np.testing.assert_array_equal(model.predict(), names)


def test_the_number_of_the_training_gives_its_clusters_bit_for_bit(model):
    soft = model.predict(soft=True)
    model.cut(7)
    model.cut(4)
    pd.testing.assert_frame_equal(model.predict(soft=True), soft, check_exact=True)
    pd.testing.assert_frame_equal(model.predict(soft=True, level=4), soft, check_exact=True)


def test_coarse_probabilities_are_sums_of_fine_ones(model):
    fine, coarse = model.predict(soft=True, level=6), model.predict(soft=True, level=2)
    tree = model.get_tree()

    def under(name, node):
        while name and name != node:
            name = tree["parent"][name]
        return name == node

    for node in coarse:
        np.testing.assert_allclose(coarse[node], fine[[name for name in fine if under(name, node)]].sum(1), atol=1e-5)


def test_support_cuts_where_splits_hold(model):
    model.cut(support=0.0)
    assert len(model.predict(soft=True).columns) == len(model.get_levels().columns)
    model.cut(support=1.0)
    tree = model.get_tree()
    certain = (tree["support"] == 1.0).sum()
    assert len(model.predict(soft=True).columns) >= 1 + certain


def test_merged_clusters_add_up_and_a_cut_undoes_it(model, adata):
    before, soft = model.predict(), model.predict(soft=True)
    model.merge(["3", "1"], key_added="merged")
    assert set(model.predict()) == {"0", "1+3", "2"}
    np.testing.assert_array_equal(adata.obs["merged_cluster"] == "1+3", np.isin(before, ["1", "3"]))
    np.testing.assert_allclose(model.predict(soft=True)["1+3"], soft["1"] + soft["3"], atol=1e-6)
    np.testing.assert_array_equal(adata.obs["scgpcl_cluster"].astype(str), before)
    model.cut(4)
    np.testing.assert_array_equal(model.predict(), before)


def test_merged_siblings_are_their_parent(model):
    before = model.predict(soft=True)
    model.cut(5)
    parts = [name for name in model.predict(soft=True) if "." in name]
    model.merge(parts)
    pd.testing.assert_frame_equal(model.predict(soft=True), before, check_exact=True)


@pytest.mark.parametrize("safe", [False, True])
def test_a_saved_model_keeps_tree_and_partition(model, adata, tmp_path, safe):
    model.cut(6)
    model.merge(list(model.predict(soft=True))[:2])
    model.save(tmp_path / "m", safe=safe)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    pd.testing.assert_frame_equal(loaded.predict(soft=True), model.predict(soft=True))
    pd.testing.assert_frame_equal(loaded.get_tree(), model.get_tree())
    alone = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    alone.cut(3)
    assert len(set(alone.predict(adata))) == 3


BAD = {
    "too many": (lambda m: m.cut(99), ValueError, ["`n_clusters`", "from 1 to", "found 99", "get_tree"]),
    "none": (lambda m: m.cut(0), ValueError, ["`n_clusters`", "found 0"]),
    "no number": (lambda m: m.cut(), TypeError, ["either `n_clusters` or `support`"]),
    "both": (lambda m: m.cut(4, support=0.9), TypeError, ["either `n_clusters` or `support`"]),
    "support": (lambda m: m.cut(support=2.0), ValueError, ["`support`", "found 2.0"]),
    "level": (lambda m: m.predict(level=99), ValueError, ["`level`", "found 99"]),
    "one level": (lambda m: m.get_levels(5), TypeError, ["`levels` to be a list", "found 5", "`[5, 10]`"]),
    "levels as text": (lambda m: m.get_levels("12"), TypeError, ["`levels` to be a list", "found '12'"]),
    "one level drawn": (lambda m: pl.levels(m, 5), TypeError, ["`levels` to be a list", "found 5"]),
    "levels": (lambda m: m.get_levels([2, True]), ValueError, ["`level`", "found True"]),
    "unknown node": (lambda m: m.merge(["0", "9"]), ValueError, ["found '9'", "'0', '1', '2', '3'"]),
    "itself": (lambda m: m.merge(["0", "0"]), ValueError, ["into itself"]),
    "alone": (lambda m: m.merge(["0"]), ValueError, ["two or more", "'0', '1', '2', '3'"]),
    "text": (lambda m: m.merge("01"), TypeError, ["list of names"]),
    "key": (lambda m: m.cut(3, key_added="a/b"), ValueError, ["`key_added`"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_changes_nothing(model, adata, untouched, case):
    call, error, words = BAD[case]
    before = model.predict(soft=True)
    with untouched(adata), pytest.raises(error) as found:
        call(model)
    assert all(word in str(found.value) for word in words)
    pd.testing.assert_frame_equal(model.predict(soft=True), before)


def test_an_untrained_model_is_refused(adata):
    scgpcl.SCGPCL.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="has not been trained"):
        scgpcl.SCGPCL(adata, 3).cut(2)


def test_other_stable_numbers_are_announced(model, adata, tmp_path):
    assert "also_stable" not in adata.uns["scgpcl"]  # the number was given
    curve = pd.DataFrame({"K": range(2, 9), "share": [0.9, 0.88, 0.86, 0.6, 0.58, 0.57, 0.4]})
    model.n_clusters_curve_ = curve
    model.init_params_["non_kwargs"]["n_clusters"] = None
    assert "clusters: 4 (estimated; 7 is stable too: model.cut(7))" in repr(model)
    model.annotate()
    assert adata.uns["scgpcl"]["also_stable"].tolist() == [7]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    page = scgpcl.report(adata, model, tmp_path / "page.html").read_text()
    assert "clusters (also stable: 7)" in page


def test_sizes_of_nodes_follow_an_update(model, four_types):
    model.tree_["values"]["size"] = model.tree_["values"]["size"] + 1
    model.update(four_types[:80].copy(), max_epochs=5, label_tol=0.0, accelerator="cpu", enable_progress_bar=False)
    table, levels = model.get_tree(), model.get_levels()
    finest = levels[max(levels.columns)].value_counts()
    assert table["size"][finest.index].tolist() == finest.tolist()
