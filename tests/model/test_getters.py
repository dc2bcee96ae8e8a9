import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scvi.distributions import ZeroInflatedNegativeBinomial

import scgpcl


@pytest.fixture
def model(adata, fit):
    return fit(adata, n_top_genes=40)


def test_repeated_calls_are_identical(model):
    np.testing.assert_array_equal(model.get_latent_representation(), model.get_latent_representation())
    np.testing.assert_array_equal(model.predict(soft=True), model.predict(soft=True))


def test_cells_one_by_one_and_in_any_order(adata, model):
    z = model.get_latent_representation()
    one_by_one = np.concatenate([model.get_latent_representation(indices=[i]) for i in range(20)])
    np.testing.assert_allclose(one_by_one, z[:20], atol=1e-5)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    np.testing.assert_allclose(model.get_latent_representation(indices=order), z[order], atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=7), z, atol=1e-5)
    mask = np.arange(adata.n_obs) % 3 == 0
    np.testing.assert_allclose(model.get_latent_representation(indices=mask), z[mask], atol=1e-5)
    assert model.get_latent_representation(indices=[]).shape == (0, 8)


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "int", "float64"])
def test_new_anndata_is_matched_by_gene_name_and_left_alone(adata, model, untouched, form):
    z = model.get_latent_representation()
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(adata.n_obs)[:30], rng.permutation(adata.n_vars)
    query = ad.AnnData(adata.X[cells][:, genes])
    query.var_names = adata.var_names[genes]
    query.obs_names = [f"new{i}" for i in range(30)]
    convert = {
        "csr": lambda x: x,
        "csc": lambda x: x.tocsc(),
        "dense": lambda x: x.toarray(),
        "int": lambda x: x.astype(np.int64),
        "float64": lambda x: x.astype(np.float64),
    }
    query.X = convert[form](query.X)
    with untouched(query):
        np.testing.assert_allclose(model.get_latent_representation(query), z[cells], atol=1e-5)
        np.testing.assert_array_equal(model.predict(query), model.predict()[cells])
        soft = model.predict(query, soft=True)
    assert soft.index.equals(query.obs_names)


def test_extra_genes_do_not_count(adata, model):
    extra = ad.AnnData(sp.csr_matrix(np.full((adata.n_obs, 5), 100.0, dtype=np.float32)))
    extra.var_names = [f"extra{i}" for i in range(5)]
    extra.obs_names = adata.obs_names
    query = ad.concat([extra, ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]])], axis=1)
    np.testing.assert_allclose(model.get_latent_representation(query), model.get_latent_representation(), atol=1e-5)


def test_backed_file_gives_the_same_rows_in_the_callers_order(adata, model, tmp_path):
    z = model.get_latent_representation()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_allclose(model.get_latent_representation(backed, indices=[9, 3, 7]), z[[9, 3, 7]], atol=1e-5)


def test_backed_file_trains_like_memory(adata, fit, tmp_path):
    x = adata.copy()
    memory = fit(x, n_top_genes=40)
    adata.write_h5ad(tmp_path / "a.h5ad")
    disk = fit(ad.read_h5ad(tmp_path / "a.h5ad", backed="r+"), n_top_genes=40)
    np.testing.assert_array_equal(memory.predict(), disk.predict())
    np.testing.assert_allclose(memory.get_latent_representation(), disk.get_latent_representation(), atol=1e-5)


def test_soft_prediction_is_a_distribution_and_agrees_with_labels(adata, model):
    soft = model.predict(soft=True)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-5)
    assert soft.shape == (adata.n_obs, 3)
    np.testing.assert_array_equal(soft.columns[soft.to_numpy().argmax(1)], model.predict())


def test_cells_of_low_confidence_are_unassigned_on_request(adata, model):
    soft = model.predict(soft=True).to_numpy()
    least = float(np.median(soft.max(1)))
    wanted = np.where(soft.max(1) < least, "unassigned", model.predict())
    assert 0 < (wanted == "unassigned").sum() < len(wanted)
    np.testing.assert_array_equal(model.predict(min_confidence=least), wanted)
    np.testing.assert_array_equal(model.predict(indices=[5, 1], min_confidence=least), wanted[[5, 1]])
    np.testing.assert_array_equal(model.predict(min_confidence=0.0), model.predict())
    assert set(model.predict(min_confidence=1.0)) <= {"unassigned", *(str(k) for k in np.flatnonzero(soft.max(0) == 1))}
    before = adata.obs[["scgpcl_cluster", "scgpcl_confidence"]].copy()
    model.annotate(min_confidence=least, key_added="sure")
    named = adata.obs["sure_cluster"]
    np.testing.assert_array_equal(named.astype(str), wanted)
    assert named.cat.categories[-1] == "unassigned"
    assert adata.uns["sure"]["cluster_sizes"]["size"]["unassigned"] == (wanted == "unassigned").sum()
    assert adata.uns["sure"]["params"]["min_confidence"] == least
    np.testing.assert_array_equal(adata.obs["sure_confidence"], before["scgpcl_confidence"])
    assert adata.obs[["scgpcl_cluster", "scgpcl_confidence"]].equals(before)
    model.annotate(min_confidence=0.0, key_added="all")
    assert adata.obs["all_cluster"].equals(before["scgpcl_cluster"].rename("all_cluster"))


@pytest.mark.parametrize("value", [-0.1, 1.1, "high", True, float("nan")])
def test_a_least_confidence_that_is_no_probability_is_refused(adata, model, untouched, value):
    for call in (model.predict, model.annotate):
        with untouched(adata), pytest.raises(ValueError, match="`min_confidence` to be a number from 0 to 1"):
            call(min_confidence=value)


def test_a_least_confidence_does_not_go_with_probabilities(model):
    with pytest.raises(ValueError, match="soft=True"):
        model.predict(soft=True, min_confidence=0.5)


def test_annotation(adata, model):
    np.testing.assert_array_equal(adata.obsm["X_scgpcl"], model.get_latent_representation())
    cluster = adata.obs["scgpcl_cluster"]
    assert isinstance(cluster.dtype, pd.CategoricalDtype)
    np.testing.assert_array_equal(cluster.astype(str), model.predict())
    sizes = cluster.value_counts().reindex(cluster.cat.categories)
    assert sizes.is_monotonic_decreasing
    assert list(cluster.cat.categories) == ["0", "1", "2"]
    np.testing.assert_allclose(adata.obs["scgpcl_confidence"], adata.obsm["scgpcl_probability"].max(1))
    assert adata.var["scgpcl_selected"].sum() == 40
    stored = adata.uns["scgpcl"]["cluster_sizes"]
    assert stored.index.name == "cluster"
    assert stored["size"].to_dict() == {name: int(size) for name, size in sizes.items()}
    assert adata.uns["scgpcl"]["params"]["n_top_genes"] == 40


@pytest.mark.parametrize("key", ["neighbors", "leiden", "notes", "scgpcl_markers"])
def test_entries_of_others_are_not_replaced(adata, model, untouched, monkeypatch, key):
    adata.uns |= {"neighbors": {"params": {"n_neighbors": 15}}, "leiden": {"params": {}}, "notes": "mine"}
    scgpcl.tl.rank_markers(adata)
    monkeypatch.setattr(model, "_encode", None)  # no work is done before
    calls = (
        model.annotate,
        lambda **kwargs: model.cut(2, **kwargs),
        lambda **kwargs: model.merge(["0", "1"], **kwargs),
        lambda **kwargs: model.subcluster("0", **kwargs),
    )
    for call in calls:
        with untouched(adata), pytest.raises(ValueError, match=f"found '{key}', .*`del adata.uns\\['{key}'\\]"):
            call(key_added=key)
    assert model.level_ is None


def test_earlier_annotations_are_replaced(adata, model, tmp_path):
    model.annotate(key_added="mine")
    adata.uns["mine"]["summary"] = "old"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for cells in (adata, again):
        model.annotate(cells, key_added="mine")
        assert cells.uns["mine"]["summary"] != "old"
    again.uns["scgpcl"] = {}  # the package's own name
    model.annotate(again)
    assert "summary" in again.uns["scgpcl"]


def test_annotation_changes_nothing_else_and_can_be_written(adata, fit, tmp_path):
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    before = (adata.X.copy(), adata.layers["counts"].copy(), adata.raw.X.copy(), adata.obs["group"].copy())
    model = fit(adata, setup={"layer": "counts"})
    assert (adata.X != before[0]).nnz == 0
    assert (adata.layers["counts"] != before[1]).nnz == 0
    assert (adata.raw.X != before[2]).nnz == 0
    assert adata.obs["group"].equals(before[3])
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(again.obsm["X_scgpcl"], adata.obsm["X_scgpcl"])
    other = adata[:50].copy()
    model.annotate(other, key_added="mine")
    assert {"X_mine", "mine_probability"} <= set(other.obsm)
    assert {"mine_cluster", "mine_confidence"} <= set(other.obs)


def test_denoised_expression(adata, model):
    table = model.get_normalized_expression()
    assert table.shape == (adata.n_obs, 40)
    assert table.index.equals(adata.obs_names)
    np.testing.assert_array_equal(table.columns, model.selected_genes_)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)
    genes = list(model.selected_genes_[[5, 2]])
    part = model.get_normalized_expression(indices=[4, 1], gene_list=genes, library_size=1e4, return_numpy=True)
    np.testing.assert_allclose(part, table.iloc[[4, 1]][genes] * 1e4, rtol=1e-5)
    counts = model.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(counts, model.get_likelihood_parameters()["mean"], rtol=1e-5)
    with pytest.raises(KeyError, match="'no such gene'"):
        model.get_normalized_expression(gene_list=["no such gene"])


def test_denoised_expression_follows_the_counts(adata, fit):
    model = fit(adata, train={"pretrain_max_epochs": 40, "agreement": 2.0})
    mean = model.get_normalized_expression(library_size="latent")
    observed = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names)[mean.columns]
    by_group = lambda frame: frame.groupby(adata.obs["group"].to_numpy()).mean().to_numpy().ravel()
    assert np.corrcoef(np.log1p(by_group(mean)), np.log1p(by_group(observed)))[0, 1] > 0.8


def test_likelihood_parameters_are_scvis(adata, model):
    parameters = model.get_likelihood_parameters()
    assert {name: value.shape for name, value in parameters.items()} == dict.fromkeys(
        ("mean", "dispersions", "dropout"), (adata.n_obs, 40)
    )
    import torch

    px = ZeroInflatedNegativeBinomial(
        mu=torch.from_numpy(parameters["mean"]),
        theta=torch.from_numpy(parameters["dispersions"]),
        zi_logits=torch.from_numpy(parameters["dropout"]),
    )
    x = torch.from_numpy(adata[:, model.selected_genes_].X.toarray())
    assert torch.isfinite(px.log_prob(x)).all()


def test_size_factors_are_used(adata, fit):
    adata.obs["size"] = np.asarray(adata.X.sum(1)).ravel() * 7.0
    given = fit(adata.copy(), setup={"size_factor_key": "size"}).get_latent_representation()
    counted = fit(adata.copy()).get_latent_representation()
    np.testing.assert_allclose(given, counted, atol=1e-4)
    adata.obs["size"] = np.random.default_rng(0).uniform(0.5, 2.0, adata.n_obs)
    other = fit(adata.copy(), setup={"size_factor_key": "size"}).get_latent_representation()
    assert not np.allclose(other, counted, atol=1e-2)


def test_mixed_storage_trains_to_the_same_labels(adata, fit):
    results = []
    for convert in (lambda x: x, lambda x: x.tocsc(), lambda x: x.toarray(), lambda x: x.astype(np.int32)):
        copy = adata.copy()
        copy.X = convert(copy.X)
        results.append(fit(copy).predict())
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_module_sample_has_the_mean_of_the_distribution(adata, model):
    import torch

    batch = next(iter(model._read(None, np.arange(10), 10)))
    torch.manual_seed(0)
    drawn = model.module.sample(batch, n_samples=2000)
    parameters = model.get_likelihood_parameters(indices=np.arange(10))
    wanted = parameters["mean"] / (1.0 + np.exp(parameters["dropout"]))
    assert drawn.shape == (2000, 10, 40)
    np.testing.assert_allclose(drawn.mean(0), wanted, rtol=0.3, atol=0.1)


def test_save_and_load(adata, model, tmp_path):
    model.save(tmp_path / "m")
    wanted = model.predict(soft=True)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), wanted)
    assert loaded.n_clusters_ == 3
    alone = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    query = ad.AnnData(adata.X.copy(), obs=adata.obs[["group"]].copy(), var=adata.var[[]].copy())
    np.testing.assert_array_equal(alone.predict(query, soft=True), wanted)
    with pytest.raises(ValueError, match="was loaded without data"):
        alone.predict()


def test_setup_can_be_viewed(model, capsys):
    model.view_anndata_setup()
    assert "Setup via `SCGPCL.setup_anndata`" in capsys.readouterr().out
