"""Batches: corrected where they are named, and without a trace where they are not."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl
from scgpcl.metrics import ari
from scgpcl.pp import _batches


def groups_of(n_cells, n_genes, n_types, rng):
    """Poisson counts of types that differ in half of their genes, deep enough for whole-number factors."""
    types = rng.integers(n_types, size=n_cells)
    profile = rng.gamma(1.0, 3.0, n_genes) * np.where(
        rng.random((n_types, n_genes)) < 0.5, rng.lognormal(0.0, 1.2, (n_types, n_genes)), 1.0
    )
    x = rng.poisson(profile[types] * rng.lognormal(0.0, 0.2, n_cells)[:, None])
    x[x.sum(1) == 0, 0] = 1
    return x, types


def as_adata(x, batch, types):
    adata = ad.AnnData(sp.csr_matrix(x.astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(len(x))]
    adata.var_names = [f"gene{i}" for i in range(x.shape[1])]
    adata.obs["batch"], adata.obs["type"] = batch, types
    return adata


@pytest.fixture(scope="module")
def two_copies():
    """The same cells twice, the second time with counts multiplied by a whole number of each gene's own."""
    rng = np.random.default_rng(0)
    x, types = groups_of(150, 80, 3, rng)
    factor = rng.integers(1, 6, 80)
    return as_adata(np.concatenate([x, x * factor]), ["a"] * 150 + ["b"] * 150, np.tile(types, 2))


LONGER = {"pretrain_max_epochs": 8, "cluster_max_epochs": 3}


@pytest.fixture(scope="module")
def corrected(two_copies):
    adata = two_copies.copy()
    scgpcl.SCGPCL.setup_anndata(adata, batch_key="batch")
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(accelerator="cpu", enable_progress_bar=False, **LONGER)
    return model


def pairs_apart(z):
    """Distance between a cell's two copies, over the distance between cells of one copy."""
    half = len(z) // 2
    spread = np.linalg.norm(z[:half, None] - z[None, :half], axis=-1).mean()
    return np.linalg.norm(z[:half] - z[half:], axis=1).mean() / spread


def test_copies_with_other_gene_wise_factors_are_the_same_cells(two_copies, corrected, fit):
    z, labels = corrected.get_latent_representation(), corrected.predict()
    without = fit(two_copies.copy(), train=LONGER)
    assert pairs_apart(z) < 0.25
    assert pairs_apart(z) < 0.3 * pairs_apart(without.get_latent_representation())
    assert (labels[:150] == labels[150:]).mean() > 0.97
    assert ari(two_copies.obs["type"], labels) > 0.9
    assert ari(two_copies.obs["batch"], labels) < 0.02


@pytest.mark.parametrize("case", ["one name", "key of one batch"])
def test_without_batches_nothing_changes(adata, fit, case):
    """A key that names a single batch gives, bit for bit, the model that knows no key."""
    plain = fit(adata.copy())
    adata.obs["batch"] = pd.Categorical(["x"] * adata.n_obs) if case == "one name" else 7
    keyed = fit(adata, setup={"batch_key": "batch"})
    np.testing.assert_array_equal(plain.get_latent_representation(), keyed.get_latent_representation())
    np.testing.assert_array_equal(plain.predict(soft=True), keyed.predict(soft=True))
    assert plain.module.state_dict().keys() == keyed.module.state_dict().keys()
    for name, value in plain.module.state_dict().items():
        np.testing.assert_array_equal(value, keyed.module.state_dict()[name])


def test_cells_from_another_batch_are_treated_as_cells_of_the_only_batch_with_a_warning(adata, fit):
    adata.obs["batch"] = "x"
    model = fit(adata, setup={"batch_key": "batch"})
    query = adata[:20].copy()
    query.obs["batch"] = ["x", "y"] * 10
    with pytest.warns(
        UserWarning,
        match=r"trained on one batch, 'x', and cannot correct.*cells from 'y' are treated as cells of that batch",
    ):
        labels = model.predict(query)
    np.testing.assert_array_equal(labels, model.predict()[:20])


def test_batches_of_other_composition_are_not_pulled_together(fit, monkeypatch):
    """Two batches share one type of three; the types are kept apart, which plain centring of each batch does not do."""
    rng = np.random.default_rng(1)
    x, types = groups_of(600, 100, 3, rng)
    batch = np.where(types == 0, "a", np.where(types == 1, "b", rng.choice(["a", "b"], 600)))
    x[batch == "b"] *= rng.integers(1, 4, 100)
    adata = as_adata(x, batch, types)
    model = fit(adata, setup={"batch_key": "batch"}, train=LONGER)
    assert ari(types, model.predict()) > 0.95
    monkeypatch.setattr(_batches, "GROUP_ROUNDS", 0)  # compare all cells of the batches, whatever their types
    plain = fit(as_adata(x, batch, types), setup={"batch_key": "batch"}, train=LONGER)
    assert ari(types, plain.predict()) < 0.8


def test_query_batches_are_matched_by_name(two_copies, corrected):
    z = corrected.get_latent_representation()
    rows = np.r_[150:300:7, 0:150:11]  # of batch "b" first
    query = two_copies[rows].copy()
    for column in (
        pd.Categorical(query.obs["batch"], categories=["b", "unused", "a"]),
        query.obs["batch"].astype(object).to_numpy(),
    ):
        query.obs["batch"] = column
        np.testing.assert_allclose(corrected.get_latent_representation(query), z[rows], atol=1e-5)
    only_b = two_copies[150:].copy()  # its one category has code 0
    np.testing.assert_allclose(corrected.get_latent_representation(only_b), z[150:], atol=1e-5)


def test_numbers_as_batches(two_copies, fit):
    adata = two_copies.copy()
    adata.obs["batch"] = np.repeat([10, 2], 150)
    model = fit(adata, setup={"batch_key": "batch"})
    query = adata[:150].copy()
    query.obs["batch"] = "10"
    np.testing.assert_allclose(
        model.get_latent_representation(query), model.get_latent_representation()[:150], atol=1e-5
    )


def test_unseen_batch_is_not_decoded_and_can_be_named(two_copies, corrected, untouched):
    query = two_copies[:20].copy()
    query.obs["batch"] = ["c"] * 15 + ["a"] * 5
    with (
        untouched(query),
        pytest.raises(ValueError, match=r"found 'c'; the model knows 'a', 'b'. To treat .* pass `transform_b"),
    ):
        corrected.get_normalized_expression(query)
    wanted = corrected.get_latent_representation()[:20]
    for missing in (False, True):
        if missing:
            del query.obs["batch"]
        np.testing.assert_allclose(corrected.get_latent_representation(query, transform_batch="a"), wanted, atol=1e-5)
        np.testing.assert_array_equal(corrected.predict(query, transform_batch="a"), corrected.predict()[:20])
        np.testing.assert_allclose(
            corrected.get_normalized_expression(query, transform_batch="a"),
            corrected.get_normalized_expression()[:20],
            rtol=1e-4,
        )
    corrected.annotate(query, transform_batch="a")
    np.testing.assert_allclose(query.obsm["X_scgpcl"], wanted, atol=1e-5)
    with pytest.raises(KeyError, match="batch_key='batch'"):
        corrected.predict(query)


@pytest.mark.parametrize("call", ["predict", "get_latent_representation", "get_normalized_expression"])
def test_bad_transform_batch_is_refused(two_copies, corrected, fit, call):
    with pytest.raises(ValueError, match="batches of the model, 'a', 'b', found 'z'"):
        getattr(corrected, call)(transform_batch="z")
    plain = fit(two_copies.copy(), train={"max_epochs": 1, "pretrain_max_epochs": 1, "cluster_max_epochs": 0})
    with pytest.raises(ValueError, match="for a model without batches"):
        getattr(plain, call)(transform_batch="a")


def test_empty_list_of_batches_is_refused(corrected):
    with pytest.raises(ValueError, match="at least one batch"):
        corrected.get_normalized_expression(transform_batch=[])


def test_transform_batch_equals_a_slow_loop(corrected):
    """Decode every cell on its own, in every batch, from the decoder's weights and in numpy."""
    import torch

    rows = [0, 3, 151, 299]
    decoder = corrected.module.decoder
    array = lambda t: t.detach().double().numpy()
    z_whole = np.concatenate([array(corrected.module.encode(b)) for b in corrected._read(None, rows, 4)])
    weight, bias = array(decoder.hidden.linear.weight), array(decoder.hidden.linear.bias)
    norm, heads = decoder.hidden.norm, decoder.heads
    n_genes = corrected.module.n_genes
    expected = np.empty((2, 4, n_genes))
    for b in range(2):
        one_hot = np.eye(2)[b]
        for i, z in enumerate(z_whole):
            hidden = weight @ np.concatenate([z, one_hot]) + bias
            hidden = (hidden - array(norm.mean)) / np.sqrt(array(norm.var) + norm.eps)
            hidden = np.maximum(hidden * array(norm.weight) + array(norm.bias), 0.0)
            out = array(heads.weight) @ np.concatenate([hidden, one_hot]) + array(heads.bias)
            mean = np.exp(out[:n_genes])
            expected[b, i] = mean / mean.sum()
    get = lambda batch: corrected.get_normalized_expression(indices=rows, transform_batch=batch, return_numpy=True)
    assert torch.is_grad_enabled()
    np.testing.assert_allclose(get("a"), expected[0], rtol=1e-4)
    np.testing.assert_allclose(get("b"), expected[1], rtol=1e-4)
    np.testing.assert_allclose(get(["b"]), expected[1], rtol=1e-4)
    np.testing.assert_allclose(get(["a", "b"]), expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(get(None), np.concatenate([expected[0, :2], expected[1, 2:]]), rtol=1e-4)
    latent = lambda batch: corrected.get_normalized_expression(
        indices=rows, transform_batch=batch, library_size="latent", return_numpy=True
    )
    np.testing.assert_allclose(latent(["a", "b"]), (latent("a") + latent("b")) / 2, rtol=1e-5)


def test_decoding_in_the_other_batch_shows_its_factors(two_copies, corrected):
    """The copies differ by known factors; cells of one decoded as of the other must show them."""
    table = lambda batch: corrected.get_normalized_expression(indices=np.arange(150), transform_batch=batch).mean()
    x = two_copies.X.toarray()
    share = lambda part: part.sum(0) / part.sum()
    true = np.log(share(x[150:]) / share(x[:150]))
    seen = np.log(table("b") / table("a")).loc[two_copies.var_names].to_numpy()
    assert np.corrcoef(seen, true)[0, 1] > 0.9


def test_save_and_load(two_copies, corrected, tmp_path):
    corrected.save(tmp_path / "m")
    wanted = corrected.predict(soft=True)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", two_copies.copy(), accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), wanted)
    alone = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    np.testing.assert_allclose(alone.predict(two_copies[150:].copy(), soft=True), wanted[150:], atol=1e-5)


def test_training_goes_on_and_cells_one_by_one(two_copies, fit):
    adata = two_copies.copy()
    model = fit(adata, setup={"batch_key": "batch"}, train={"train_size": 0.8})
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    z = model.get_latent_representation()
    one_by_one = np.concatenate([model.get_latent_representation(indices=[i]) for i in (0, 170, 299)])
    np.testing.assert_allclose(one_by_one, z[[0, 170, 299]], atol=1e-5)


@pytest.mark.parametrize("sizes", [(1,), (1, 2), (2, 1, 1)])
def test_batches_of_one_or_two_cells_do_no_harm(adata, fit, sizes):
    """Their cells lie as if they were of the large batch, and everything is finite."""
    batch = np.array(["large"] * adata.n_obs, dtype=object)
    start = 0
    for i, size in enumerate(sizes):
        batch[start : start + size] = f"small{i}"
        start += size
    adata.obs["batch"] = batch
    model = fit(adata, setup={"batch_key": "batch"}, train={"pretrain_max_epochs": 8})
    z = model.get_latent_representation()
    assert np.isfinite(z).all()
    assert np.abs(z[:start]).max() < 3 * np.abs(z[start:]).max()
    assert ari(adata.obs["group"], model.predict()) > 0.9
    assert all(np.isfinite(table.to_numpy(dtype=float)).all() for table in model.history_.values())


def test_the_published_preset_corrects_too(two_copies, fit):
    paper = {k: v for k, v in scgpcl.presets.PAPER["model"].items() if k not in ("n_hidden", "n_latent")}
    plan = {**scgpcl.presets.PAPER["train"]["pretrain_plan_kwargs"], "warmup_epochs": 1}
    train = {**scgpcl.presets.PAPER["train"], "pretrain_max_epochs": 2, "cluster_max_epochs": 1}
    model = fit(
        two_copies.copy(),
        setup={"batch_key": "batch"},
        train={**train, "pretrain_plan_kwargs": plan},
        **{**paper, "n_top_genes": None},
    )
    assert pairs_apart(model.get_latent_representation()) < 0.4


def test_training_goes_on_with_batches(adata, fit):
    """An update and more training of the decoder keep the correction."""
    model = fit(adata, setup={"batch_key": "batch"}, train={"pretrain_max_epochs": 5})
    labels = model.predict()
    model.train_decoder(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(model.predict(), labels)
    query = adata[::3].copy()
    model.update(query, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert np.mean(model.predict(query) == labels[::3]) > 0.9


#: Types that a column of batches takes on by joins, files and other libraries.
TYPES = {
    "floats": lambda s: s.astype(float),
    "text": lambda s: s.astype(str),
    "text of floats": lambda s: s.astype(float).astype(str),
    "nullable": lambda s: s.astype("Int64"),
    "nullable floats": lambda s: s.astype("Float32"),
    "strings": lambda s: s.astype(str).astype("string"),
    "objects": lambda s: s.astype(object),
    "bytes": lambda s: s.map(lambda value: str(value).encode()),
    "categories": lambda s: s.astype("category"),
    "categories of text": lambda s: s.astype(str).astype("category"),
    "categories of floats": lambda s: s.astype(float).astype("category"),
    "unused categories": lambda s: s.astype(pd.CategoricalDtype([9, 0, 1, 7])),
    "small": lambda s: s.astype(np.uint8),
}


@pytest.fixture(scope="module")
def of_numbers(two_copies, tmp_path_factory):
    """A model of batches 0 and 1, and a folder with it."""
    adata = two_copies.copy()
    adata.obs["batch"] = np.repeat([0, 1], 150)
    scgpcl.SCGPCL.setup_anndata(adata, batch_key="batch")
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    folder = tmp_path_factory.mktemp("of_numbers") / "m"
    model.save(folder)
    return model, folder


@pytest.mark.parametrize("kind", TYPES)
def test_the_type_of_the_column_does_not_matter(two_copies, of_numbers, kind):
    model, folder = of_numbers
    wanted = model.get_latent_representation()
    new = two_copies.copy()
    new.obs["batch"] = TYPES[kind](pd.Series(np.repeat([0, 1], 150), index=new.obs_names))
    np.testing.assert_array_equal(model.get_latent_representation(new), wanted)
    loaded = scgpcl.SCGPCL.load(folder, new, accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), wanted)
    assert new.obs["_scvi_batch"].tolist() == [0] * 150 + [1] * 150
    scgpcl.SCGPCL.setup_anndata(new, batch_key="batch")
    again = scgpcl.SCGPCL(new, 3, n_hidden=16, n_latent=8)
    again.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(again.get_latent_representation(), wanted)


@pytest.mark.parametrize("name", [1, 1.0, "1", "1.0", np.int8(1), np.float32(1), b"1"], ids=repr)
def test_a_batch_by_any_of_its_names(of_numbers, name):
    model = of_numbers[0]
    np.testing.assert_array_equal(
        model.get_latent_representation(transform_batch=name), model.get_latent_representation(transform_batch="1")
    )
    wanted = model.get_normalized_expression(transform_batch="1", return_numpy=True)
    for form in (name, [name], np.array([name])):
        np.testing.assert_array_equal(model.get_normalized_expression(transform_batch=form, return_numpy=True), wanted)


DAYS = ["2024-01-02", "2024-03-04"]
ZONED = pd.to_datetime(DAYS).tz_localize("Europe/Paris")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pd.to_datetime(DAYS), DAYS),
        (pd.to_datetime(DAYS), [pd.Timestamp(day).date() for day in DAYS]),
        (DAYS, pd.to_datetime(DAYS)),
        (ZONED, ZONED.tz_convert("Asia/Tokyo")),
        (ZONED, ZONED.astype(str)),
        (pd.period_range("2024-01", periods=2, freq="M"), ["2024-01", "2024-02"]),
        ([1, "b"], ["1", "b"]),
        ([True, "b"], ["True", "b"]),
        ([1.5, "b"], ["1.5", "b"]),
        ([True, False], ["True", "False"]),
    ],
)
def test_days_and_mixed_types(two_copies, before, after):
    adata = two_copies.copy()
    adata.obs["batch"] = pd.Series(np.resize(np.array(list(before), dtype=object), 300), index=adata.obs_names)
    scgpcl.SCGPCL.setup_anndata(adata, batch_key="batch")
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    new = two_copies.copy()
    new.obs["batch"] = pd.Series(np.resize(np.array(list(after), dtype=object), 300), index=new.obs_names)
    np.testing.assert_array_equal(model.get_latent_representation(new), model.get_latent_representation())


def test_a_new_batch_is_refused_when_loading_too(two_copies, of_numbers):
    new = two_copies.copy()
    new.obs["batch"] = np.repeat([0, 2], 150)
    with pytest.raises(ValueError, match=r"batches seen in training in `adata.obs\['batch'\]`, found '2'; .*'0', '1'"):
        scgpcl.SCGPCL.load(of_numbers[1], new, accelerator="cpu")
    assert "_scvi_batch" not in new.obs


def test_batches_of_a_collection_go_by_the_same_names(two_copies, of_numbers):
    from anndata.experimental import AnnCollection

    parts = [two_copies[:150].copy(), two_copies[150:].copy()]
    parts[0].obs["batch"], parts[1].obs["batch"] = 0.0, 1.0
    collection = AnnCollection(parts, join_obs="inner", index_unique="-")
    datamodule = scgpcl.data.CollectionDataModule(collection, batch_key="batch")
    assert datamodule.registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"].tolist() == [
        "0",
        "1",
    ]


@pytest.mark.parametrize("stem", ["donor", "scgpcl"])
def test_results_never_replace_the_batches(two_copies, stem, untouched):
    adata = two_copies.copy()
    adata.obs["donor_cluster"] = adata.obs["batch"]
    scgpcl.SCGPCL.setup_anndata(adata, batch_key="donor_cluster")
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    if stem == "scgpcl":
        model.annotate(key_added=stem)
        return
    for target in (None, two_copies.copy()):
        with untouched(adata), pytest.raises(ValueError, match="`batch_key`.*do not overwrite, found 'donor_cluster'"):
            model.annotate(target, key_added=stem)


@pytest.fixture(scope="module")
def nested(two_copies):
    """Donors within studies; the second study has one donor, whose number a file has turned into text."""
    adata = two_copies.copy()
    adata.obs["study"] = ["one"] * 150 + ["two"] * 150
    adata.obs["donor"] = pd.Series([1, 2] * 75 + [1] * 150, index=adata.obs_names, dtype=float)
    scgpcl.SCGPCL.setup_anndata(adata, batch_key="study", categorical_covariate_keys=["donor"])
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(accelerator="cpu", enable_progress_bar=False, **LONGER)
    return model


def test_covariates_are_combined_to_batches(nested, two_copies):
    assert list(nested.registration.batches) == ["one / 1", "one / 2", "two / 1"]
    joined = two_copies.copy()
    joined.obs["sample"] = [f"one / {i}" for i in [1, 2] * 75] + ["two / 1"] * 150
    scgpcl.SCGPCL.setup_anndata(joined, batch_key="sample")
    model = scgpcl.SCGPCL(joined, 3, n_hidden=16, n_latent=8)
    model.train(accelerator="cpu", enable_progress_bar=False, **LONGER)
    np.testing.assert_array_equal(model.get_latent_representation(), nested.get_latent_representation())
    np.testing.assert_array_equal(model.predict(), nested.predict())


@pytest.mark.parametrize("safe", [False, True])
def test_covariates_are_saved_and_matched_by_name(nested, tmp_path, safe):
    nested.save(tmp_path / "m", safe=safe)
    again = nested.adata.copy()
    again.obs["donor"] = again.obs["donor"].astype(str)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", again, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(), nested.predict())
    new = ad.AnnData(again.X[:150], obs=again.obs[["study", "donor"]].iloc[:150], var=again.var)
    np.testing.assert_array_equal(loaded.predict(new), nested.predict()[:150])
    z = loaded.get_latent_representation(new, transform_batch="two / 1")
    new.obs["study"], new.obs["donor"] = "two", 1
    np.testing.assert_array_equal(loaded.get_latent_representation(new), z)
    with pytest.raises(ValueError, match="found 'one'"):
        loaded.predict(new, transform_batch="one")
    with pytest.raises(KeyError, match=r"found columns \['study'\] without 'donor'\. Rename yours"):
        loaded.predict(ad.AnnData(new.X, obs=new.obs[["study"]], var=new.var))


def test_a_new_combination_is_a_new_batch(nested):
    """The donors and studies are known, but not this one of that."""
    new = ad.AnnData(nested.adata.X[150:], obs={"study": ["two"] * 150, "donor": [2] * 150}, var=nested.adata.var)
    with pytest.warns(
        UserWarning, match="The feature means and standard deviations of 'two / 2' are estimated from their own cells"
    ):
        labels = nested.predict(new)
    assert ari(labels, nested.predict()[150:]) > 0.9


def test_covariates_need_no_batch_key(two_copies):
    adata = two_copies.copy()
    scgpcl.SCGPCL.setup_anndata(adata, categorical_covariate_keys=("batch",))
    assert list(scgpcl.SCGPCL(adata, 3).registration.batches) == ["a", "b"]
