"""Clusters that are looked into: genes and axes of their own, and the rest as it was."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.special import softmax
from scvi.dataloaders import AnnDataLoader
from sklearn.metrics import adjusted_rand_score

import scgpcl


@pytest.fixture
def adata(four_types):
    return four_types.copy()


@pytest.fixture
def model(four_clusters, adata):
    model = scgpcl.SCGPCL.load(four_clusters, adata, accelerator="cpu")
    model.annotate()
    return model


@pytest.fixture
def joined(model):
    """The model with two of its four clusters merged; what is inside of them is known."""
    model.merge(["0", "1"])
    return model


def test_the_parts_of_merged_types_are_the_types(joined, adata):
    joined.subcluster("0+1", 2)
    clusters = adata.obs["scgpcl_cluster"]
    assert list(clusters.cat.categories) == ["(0+1).a", "(0+1).b", "2", "3"]
    assert adjusted_rand_score(adata.obs["group"], clusters) > 0.95
    sizes = clusters.value_counts()
    assert sizes["(0+1).a"] >= sizes["(0+1).b"]
    confidence = adata.obs["scgpcl_confidence"]
    assert confidence.between(0, 1).all()
    assert confidence.mean() > 0.9


def test_the_other_cells_keep_names_and_probabilities(joined, adata):
    before, soft = joined.predict(), joined.predict(soft=True)
    joined.subcluster("0+1", 3, key_added="inner")
    now, new = joined.predict(), joined.predict(soft=True)
    inside = before == "0+1"
    np.testing.assert_array_equal(now[~inside], before[~inside])
    assert set(now[inside]) == {"(0+1).a", "(0+1).b", "(0+1).c"}
    np.testing.assert_array_equal(new[["2", "3"]], soft[["2", "3"]])
    np.testing.assert_allclose(new.filter(like="(0+1).").sum(1), soft["0+1"], atol=1e-6)
    np.testing.assert_array_equal(adata.obs["inner_cluster"].astype(str), now)
    np.testing.assert_array_equal(adata.obs["scgpcl_cluster"].astype(str), before)
    codes = new.columns.get_indexer(now)
    np.testing.assert_array_equal(adata.obs["inner_confidence"], new.to_numpy()[np.arange(300), codes])


def test_probabilities_are_those_of_dense_formulas(joined, adata):
    """Standardised log counts along the axes, corrected for depth, and the Student-t assignment, one after the other."""
    joined.subcluster("0+1", 2)
    part = joined.subclusters_["0"]
    x = adata.to_df()[part["genes"]].to_numpy(dtype=float)
    size = adata.X.sum(1).A1 / joined.unit_size_ / part["unit"]
    features = np.minimum((np.log1p(part["scale"] * x / size[:, None]) - part["mean"]) / part["std"], 10.0)
    z = features @ part["axes"].T - part["origin"]
    t = np.minimum(np.log(size), 0.0)[:, None]
    linear = np.hstack([t * z, t])
    z = z + np.hstack([linear, t * linear]) @ part["depth"]
    z = z * (np.square(z).mean(1, keepdims=True) + 1e-6) ** (-part["shrinkage"] / 2)
    distance = np.square(z[:, None] - part["centers"]).sum(2)
    power = -(part["alpha"] + 1) / 2 / part["temperature"]
    share = softmax(power * np.log1p(distance / part["alpha"]), axis=1)
    soft = joined.predict(soft=True)[["(0+1).a", "(0+1).b"]].to_numpy()
    inside = soft.sum(1) > 0.01
    np.testing.assert_allclose(soft[inside] / soft[inside].sum(1, keepdims=True), share[inside], atol=1e-3)


def test_new_cells_in_any_order_and_storage_get_the_same_parts(joined, adata, tmp_path):
    joined.subcluster("0+1", 2)
    soft = joined.predict(soft=True)
    query = adata[::3, ::-1].copy()
    pd.testing.assert_frame_equal(joined.predict(query, soft=True), soft.iloc[::3], atol=1e-6)
    pd.testing.assert_frame_equal(joined.predict(query, soft=True, batch_size=7), soft.iloc[::3], atol=1e-6)
    loader = AnnDataLoader(joined.adata_manager, batch_size=50)
    np.testing.assert_allclose(joined.predict(dataloader=loader, soft=True), soft, atol=1e-6)
    lacking = adata[:, 5:].copy()
    with pytest.warns(UserWarning, match="5 of the 80 genes"):
        assert (joined.predict(lacking) == joined.predict()).mean() > 0.9
    np.testing.assert_array_equal(joined.predict(query, level=4), joined.predict(level=4)[::3])
    adata[::3].copy().write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    pd.testing.assert_frame_equal(joined.predict(backed, soft=True), soft.iloc[::3], atol=1e-6)


@pytest.mark.parametrize("safe", [False, True])
def test_a_saved_model_keeps_the_parts(joined, adata, tmp_path, safe):
    joined.subcluster("0+1", 2)
    joined.subcluster("(0+1).a", 2)
    joined.merge(["2", "(0+1).a.b"])
    joined.save(tmp_path / "m", safe=safe)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    pd.testing.assert_frame_equal(loaded.predict(soft=True), joined.predict(soft=True), check_exact=True)
    alone = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    np.testing.assert_array_equal(alone.predict(adata), joined.predict())
    alone.cut(4)
    assert set(alone.predict(adata)) == {"0", "1", "2", "3"}


def test_cut_and_merge_undo_it(model):
    before = model.predict(soft=True)
    model.subcluster("1", 2)
    model.subcluster("1.b", 2)
    model.merge(["1.b.a", "1.b.b"])
    assert list(model.predict(soft=True)) == ["0", "1.a", "1.b", "2", "3"]
    model.merge(["1.a", "1.b"])
    pd.testing.assert_frame_equal(model.predict(soft=True), before, check_exact=True)
    assert model.subclusters_ is None
    model.subcluster("1", 2)
    model.cut(4)
    pd.testing.assert_frame_equal(model.predict(soft=True), before, check_exact=True)
    assert model.subclusters_ is None


def test_parts_merge_with_other_clusters(model):
    soft = model.predict(soft=True)
    model.subcluster("1", 2)
    parts = model.predict(soft=True)
    model.merge(["1.a", "2"])
    merged = model.predict(soft=True)
    assert list(merged) == ["0", "1.b", "1.a+2", "3"]
    np.testing.assert_allclose(merged["1.a+2"], parts["1.a"] + soft["2"], atol=1e-6)
    model.merge(["1.a+2", "1.b"])
    assert list(model.predict(soft=True)) == ["0", "1+2", "3"]


def test_names_of_parts_are_no_nodes_of_the_tree(model, adata):
    model.cut(len(model.get_levels().columns))
    large = adata.obs["scgpcl_cluster"].value_counts().index[0]
    model.subcluster(large, 2)
    parts = set(adata.obs["scgpcl_cluster"]) - set(model.get_tree().index)
    assert parts == {f"{large}.a", f"{large}.b"}
    assert not any("/" in name for name in parts)


def test_calls_agree(model):
    model.subcluster("0", 2)
    first = model.predict(soft=True)
    model.cut(4)
    model.subcluster("0", 2)
    pd.testing.assert_frame_equal(model.predict(soft=True), first, check_exact=True)


def test_stability_covers_the_parts(joined):
    joined.subcluster("0+1", 2)
    table = joined.get_cluster_stability(n_draws=2)
    assert list(table.index) == ["(0+1).a", "(0+1).b", "2", "3"]
    assert (table[["thinned", "halves"]] > 0.6).all(axis=None)


@pytest.fixture(scope="module")
def hidden():
    """Three types, one of which falls into two on genes that vary too little to be among the 40 of the model."""
    rng = np.random.default_rng(0)
    groups, inner = rng.integers(3, size=450), rng.integers(2, size=450)
    mean = np.tile(rng.gamma(1.0, 1.0, 300), (450, 1))
    for group in range(3):
        mean[np.ix_(groups == group, np.arange(40 * group, 40 * (group + 1)))] *= 6.0
    mean[np.ix_((groups == 0) & (inner == 1), np.arange(200, 225))] *= 3.0
    mean[np.ix_((groups == 0) & (inner == 0), np.arange(225, 250))] *= 3.0
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    adata.obs["type"] = np.where(groups == 0, [f"0 {i}" for i in inner], groups.astype(str))
    adata.obs["batch"] = np.where(rng.random(450) < 0.5, "x", "y")
    adata.var_names = [f"gene{i}" for i in range(300)]
    return adata


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_genes_are_chosen_anew(hidden, batch_key):
    adata = hidden.copy()
    scgpcl.SCGPCL.setup_anndata(adata, batch_key=batch_key)
    model = scgpcl.SCGPCL(adata, 3, n_top_genes=40, n_hidden=16, n_latent=8)
    model.train(pretrain_max_epochs=4, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    assert adjusted_rand_score(adata.obs["type"].str[0], model.predict()) > 0.95
    own = pd.Series(model.predict())[(adata.obs["type"].str[0] == "0").to_numpy()].mode()[0]
    inside = adata.obs["scgpcl_cluster"] == own
    model.subcluster(own)
    assert adjusted_rand_score(adata.obs["type"][inside], adata.obs["scgpcl_cluster"][inside]) > 0.9
    genes = model.subclusters_["0"]["genes"]
    assert np.isin([f"gene{i}" for i in range(200, 250)], genes).mean() > 0.6
    assert np.isin([f"gene{i}" for i in range(200, 250)], model.selected_genes_).mean() < 0.2
    if batch_key is not None:
        new = adata[::2].copy()
        new.obs["batch"] = "z"
        with pytest.warns(UserWarning, match="not in training"):
            found = model.predict(new)
        assert (found == model.predict()[::2]).mean() > 0.9


BAD = {
    "unknown": (lambda m: m.subcluster("9"), ["`cluster`", "'0', '1', '2', '3'", "found '9'"]),
    "node of another level": (lambda m: m.subcluster("0.1"), ["found '0.1'"]),
    "one part": (lambda m: m.subcluster("0", 1), ["`n`", "at least 2", "found 1"]),
    "too many parts": (lambda m: m.subcluster("0", 99), ["at least 495 cells", "from 2 to"]),
    "key": (lambda m: m.subcluster("0", 2, key_added="a/b"), ["`key_added`"]),
    "confidence": (lambda m: m.subcluster("0", 2, min_confidence=2), ["`min_confidence`"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_changes_nothing(model, adata, untouched, case):
    call, words = BAD[case]
    before = model.predict(soft=True)
    with untouched(adata), pytest.raises(ValueError, match="Expected") as found:
        call(model)
    assert all(word in str(found.value) for word in words)
    pd.testing.assert_frame_equal(model.predict(soft=True), before)


def test_small_clusters_are_refused(four_clusters, adata):
    model = scgpcl.SCGPCL.load(four_clusters, adata, accelerator="cpu")
    names = model.predict()
    few = np.r_[np.flatnonzero(names == "0")[:19], np.flatnonzero(names == "1")[:30]]
    part = scgpcl.SCGPCL.load(four_clusters, adata[few].copy(), accelerator="cpu")
    with pytest.raises(ValueError, match=r"at least 20 cells to look into, found 19 cells in '0'.*large enough: '1'"):
        part.subcluster("0")
    with pytest.raises(ValueError, match="loaded without data"):
        scgpcl.SCGPCL.load(four_clusters, False, accelerator="cpu").subcluster("0")


def test_parts_are_estimated_by_their_separation_and_are_two_at_least(joined, adata, monkeypatch):
    from scgpcl.model import _subclusters

    found = []
    for limit in (1e-9, np.inf):
        monkeypatch.setattr(_subclusters, "MIN_SEPARATION", limit)
        joined.subcluster("0+1")
        found.append(adata.obs["scgpcl_cluster"].nunique() - 2)
        joined.cut(4)
        joined.merge(["0", "1"])
    assert found[0] >= found[1] == 2
