"""A model as a reference: new batches, types that it lacks, and genes that were not measured."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

import scgpcl
from scgpcl.model import _new_batches
from scgpcl.model._attributions import gene_parts

N_TYPES = 4
LONGER = {"pretrain_max_epochs": 6, "cluster_max_epochs": 3}
MISSING = "ignore:.* genes that the model uses are missing:UserWarning"


def as_adata(x, batch):
    adata = ad.AnnData(sp.csr_matrix(x.astype(np.float32)))
    adata.var_names = [f"gene{i}" for i in range(x.shape[1])]
    adata.obs["batch"] = batch
    return adata


@pytest.fixture
def simulated(draw_counts):
    """Cells of four types, whole-number factors of the genes of three batches, and the types."""
    x, types = draw_counts(n_cells=450, n_genes=100, n_groups=N_TYPES, seed=5, density_scale=3.0)
    factors = np.random.default_rng(1).integers(1, 5, (3, 100))
    return x.toarray(), factors, types


@pytest.fixture
def reference(simulated, fit):
    x, factors, _ = simulated
    two = as_adata(np.concatenate([x[:150] * factors[0], x[150:300] * factors[1]]), ["a"] * 150 + ["b"] * 150)
    return fit(two, setup={"batch_key": "batch"}, n_clusters=N_TYPES, train=LONGER)


def test_moments_of_a_new_batch_are_measured_on_its_cells(simulated, reference):
    """The third batch in an unequal composition: a type is nearly absent from it."""
    x, factors, types = simulated
    own = np.flatnonzero((np.arange(450) >= 300) & ((types != 0) | (np.arange(450) % 9 == 0)))
    assert len(own) >= 100
    query = as_adata(x[own] * factors[2], "c")
    before = {name: value.clone() for name, value in reference.module.state_dict().items()}
    with pytest.warns(
        UserWarning,
        match="A batch was not in training. The feature means and standard deviations of 'c' are estimated from their own cells",
    ):
        names = reference.predict(query)
    truth = [types[:300][reference.predict() == name] for name in reference.cluster_names_]
    type_of = {name: np.bincount(each).argmax() for name, each in zip(reference.cluster_names_, truth, strict=True)}
    right = np.mean([type_of[name] == each for name, each in zip(names, types[own], strict=True)])
    as_known = [
        np.mean([type_of[n] == t for n, t in zip(reference.predict(query, transform_batch=b), types[own], strict=True)])
        for b in "ab"
    ]
    assert right > 0.95
    assert right >= min(as_known)  # the user does not know which known batch would serve best
    for name, value in before.items():  # the model is as it was
        assert torch.equal(value, reference.module.state_dict()[name])
    with pytest.warns(UserWarning, match="not in training"):  # all cells of the batch count, whichever are asked for
        np.testing.assert_array_equal(reference.predict(query, indices=[3, 1]), names[[3, 1]])
    with pytest.raises(ValueError, match="batches seen in training"):  # decoding needs a batch of the model
        reference.get_normalized_expression(query)


def test_mean_features_and_links_of_clusters_are_those_of_dense_formulas(reference):
    module, adata = reference.module, reference.adata
    x = adata.to_df()[reference.selected_genes_].to_numpy(dtype=float)
    size = adata.X.sum(1).A1[:, None] / reference.unit_size_
    batch = (adata.obs["batch"] == "b").to_numpy().astype(int)
    mean, std, share = (each.numpy()[batch] for each in (module.gene_mean, module.gene_std, module.link_share))
    features = np.minimum((np.log1p(module.feature_scale.item() * x / size) - mean) / std, 10.0)
    links = (x > 0) / np.maximum((x > 0).sum(1, keepdims=True), 1) - share
    names = reference.predict()
    for name, values in (("features", features), ("links", links)):
        wanted = [values[names == cluster].mean(0) for cluster in reference.cluster_names_]
        np.testing.assert_allclose(reference.statistics_[name], wanted, rtol=1e-4, atol=1e-5)


def test_novelty_is_the_mahalanobis_distance_of_scipy(reference):
    z = reference.get_latent_representation().astype(float)
    label = reference.predict()
    means = np.stack([z[label == cluster].mean(0) for cluster in reference.cluster_names_])
    within = z - means[pd.Index(reference.cluster_names_).get_indexer(label)]
    covariance = within.T @ within / (len(z) - 1)
    covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    distance = cdist(z, means, "mahalanobis", VI=np.linalg.inv(covariance)).min(1)
    np.testing.assert_allclose(reference.get_novelty(), distance / np.quantile(distance, 0.99), rtol=1e-4)


def test_moments_of_a_new_batch_agree_with_the_clusters_that_its_cells_get(simulated, reference, monkeypatch):
    """For that, the cells are encoded as of each known batch and then as of their own."""
    x, _, _ = simulated
    query = as_adata(x[300:] * np.rint(1.0 + np.random.default_rng(3).lognormal(0.0, 3.0, 100)), "c")
    calls, codes, measured, represented = [], set(), _new_batches._measured, _new_batches._represented

    def watched(module, parts, statistics, nearest):
        calls.append((nearest, measured(module, parts, statistics, nearest)))
        return calls[-1][1]

    monkeypatch.setattr(_new_batches, "_measured", watched)
    monkeypatch.setattr(
        _new_batches, "_represented", lambda *args: codes.update(args[1].batch_index) or represented(*args)
    )
    with pytest.warns(
        UserWarning, match="The feature means and standard deviations of 'c' are estimated from their own cells"
    ):
        names = reference.predict(query)
    ((nearest, found),) = calls
    module, n_cells, n_prior = reference.module, query.n_obs, _new_batches.PRIOR_CELLS
    share = np.array([(names == cluster).mean() for cluster in reference.cluster_names_])
    counts = query.to_df()[reference.selected_genes_].to_numpy(dtype=float)
    size = query.X.sum(1).A1[:, None] / reference.unit_size_
    log = np.log1p(module.feature_scale.item() * counts / size)
    prior, std = (each[nearest].numpy() for each in (module.gene_mean, module.gene_std))
    own = log.mean(0) - std * (share @ reference.statistics_["features"])
    np.testing.assert_allclose(found.mean, (n_cells * own + n_prior * prior) / (n_cells + n_prior), atol=1e-4)
    assert codes == {0, 1, 2}


@pytest.mark.filterwarnings(MISSING)
def test_messages_are_centred_over_the_measured_genes(simulated, reference):
    """Encoded vectors of cells without some genes are those of a dense formula."""
    x, factors, _ = simulated
    lost = np.random.default_rng(0).permutation(reference.selected_genes_)[: len(reference.selected_genes_) // 2]
    query = as_adata(x[300:] * factors[1], "b")
    query = query[:, ~query.var_names.isin(lost)].copy()
    batch = next(reference._read(query, None, 512, reference=replace(reference.reference, max_missing=0.9)))
    module, encoder = reference.module, reference.module.encoder
    measured = ~np.isin(reference.selected_genes_, lost)
    counts = query.to_df().reindex(columns=reference.selected_genes_, fill_value=0.0).to_numpy(dtype=float)
    mean, std, share = (
        each[1].numpy().astype(float) for each in (module.gene_mean, module.gene_std, module.link_share)
    )
    log = np.log1p(module.feature_scale.item() * counts / batch.size_factor.numpy()[:, None])
    features = np.minimum((log - mean) / std, 10.0) * measured
    linked = (counts > 0) / np.maximum((counts > 0).sum(1, keepdims=True), 1)
    links = linked - share * measured / share[measured].sum()
    weight, message, shift = (
        each.double().numpy() for each in (encoder.state_weight, encoder.state_message, encoder.state_shift)
    )
    wanted = features @ weight + links @ message + shift
    np.testing.assert_allclose(module.encode(batch).numpy(), wanted, rtol=1e-3, atol=1e-3)
    _, messages, _ = gene_parts(module, batch, torch.eye(module.n_latent, dtype=torch.float64)[0])
    depth = module.depth(module.encode(batch), batch.size_factor)
    length = module.represent(module.encode(batch), batch.size_factor).norm(dim=1) / depth.norm(dim=1)
    at_full_depth = batch.size_factor >= 1.0  # deeper cells are not corrected
    found = (messages / length.double().unsqueeze(1))[at_full_depth]
    np.testing.assert_allclose(found.numpy(), (links * message[:, 0])[at_full_depth.numpy()], rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings(MISSING)
def test_links_of_a_new_batch_without_most_genes_refer_to_the_others(simulated, reference, monkeypatch):
    x, factors, _ = simulated
    calls, measured = [], _new_batches._measured
    monkeypatch.setattr(
        _new_batches, "_measured", lambda *args: calls.append((args[3], measured(*args))) or calls[-1][1]
    )
    query = as_adata(x[300:] * factors[2], "c")
    lost = np.random.default_rng(0).permutation(reference.selected_genes_)[: 6 * len(reference.selected_genes_) // 10]
    fewer = query[:, ~query.var_names.isin(lost)].copy()
    with pytest.warns(UserWarning, match="A batch was not in training"):
        names = reference.predict(fewer, max_missing=0.9)
    ((nearest, found),) = calls
    known, n, n_prior = ~np.isin(reference.selected_genes_, lost), query.n_obs, _new_batches.PRIOR_CELLS
    counts = fewer.to_df().reindex(columns=reference.selected_genes_, fill_value=0.0).to_numpy(dtype=float)
    seen = ((counts > 0) / (counts > 0).sum(1, keepdims=True)).mean(0)
    prior = reference.module.link_share[nearest].numpy().astype(float)
    share = np.array([(names == cluster).mean() for cluster in reference.cluster_names_])
    typical, expected = (
        each * known / each[known].sum() for each in (prior, prior + share @ reference.statistics_["links"])
    )
    wanted = (n * (seen - expected + typical) + n_prior * typical) / (n + n_prior)
    np.testing.assert_allclose(found.share, wanted, atol=2e-4)
    assert found.share.sum() == pytest.approx(1.0, abs=1e-5)


def test_few_cells_of_a_new_batch_are_taken_as_of_the_nearest(simulated, reference):
    x, factors, _ = simulated
    query = as_adata(x[300:330] * factors[1], ["new"] * 20 + ["a"] * 10)
    with pytest.warns(UserWarning, match=r"fewer than 100 cells are treated .* 'new' \(20 cells, treated as 'b'\)"):
        z = reference.get_latent_representation(query)
    as_b = reference.get_latent_representation(query, indices=np.arange(20), transform_batch="b")
    np.testing.assert_allclose(z[:20], as_b, atol=1e-6)
    with pytest.warns(UserWarning, match=r"'new' \(1 cells, treated as '[ab]'\)"):
        alone = reference.get_latent_representation(query[:1].copy())
    wanted = [reference.get_latent_representation(query[:1].copy(), transform_batch=batch) for batch in "ab"]
    assert any(np.allclose(alone, each, atol=1e-6) for each in wanted)


def test_a_query_of_a_new_batch_updates_as_of_a_known_one(simulated, reference):
    x, factors, _ = simulated
    query = as_adata(x[300:] * factors[1], "c")
    with pytest.raises(ValueError, match="pass `transform_batch="):
        reference.update(query)
    before = reference.predict()
    reference.update(query, 2, transform_batch="b", accelerator="cpu", enable_progress_bar=False)
    assert (reference.predict() == before).mean() > 0.95


def test_cells_of_a_type_that_the_reference_lacks_are_unassigned(draw_counts, fit, tmp_path):
    x, types = draw_counts(n_cells=400, n_genes=100, n_groups=N_TYPES, seed=5)
    known = np.flatnonzero((types != 0) & (np.arange(400) < 300))
    model = fit(ad.AnnData(x[known]), n_clusters=N_TYPES - 1, train=LONGER)
    query = np.flatnonzero((np.arange(400) >= 300) | (types == 0))
    cells = ad.AnnData(x[query])
    novelty = model.get_novelty(cells)
    assert roc_auc_score(types[query] == 0, novelty) > 0.95
    assert (model.get_novelty() <= 1).mean() == pytest.approx(0.99, abs=0.006)
    names = model.predict(cells, max_novelty=1.0)
    assert ((names == "unassigned") == (novelty > 1)).all()
    np.testing.assert_array_equal(names[novelty <= 1], model.predict(cells)[novelty <= 1])
    model.annotate(cells, max_novelty=1.0)
    np.testing.assert_array_equal(cells.obs["scgpcl_cluster"].astype(str), names)
    assert cells.uns["scgpcl"]["params"]["max_novelty"] == 1.0
    model.module.temperature.fill_(10.0)  # not all cells have a confidence of one
    confidence = model.predict(cells, soft=True).to_numpy().max(1)
    limit = float(np.median(confidence[novelty <= 1]))
    model.annotate(cells, max_novelty=1.0, min_confidence=limit)
    wanted = (novelty > 1) | (confidence < limit)
    assert wanted[novelty <= 1].any()
    assert not wanted.all()
    np.testing.assert_array_equal(cells.obs["scgpcl_cluster"] == "unassigned", wanted)
    model.save(tmp_path / "m", safe=True)
    np.testing.assert_array_equal(
        scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu").get_novelty(cells), novelty
    )
    model.statistics_ = None  # as in models saved by earlier versions
    with pytest.raises(
        RuntimeError, match="^Expected a model with stored statistics.*, found one saved by an earlier version"
    ):
        model.get_novelty(cells)


@pytest.mark.filterwarnings(MISSING)
def test_confidence_falls_with_the_share_of_missing_genes(draw_counts, fit):
    x, types = draw_counts(n_cells=300, n_genes=100, n_groups=N_TYPES, seed=5)
    adata = ad.AnnData(x)
    adata.var_names = [f"gene{i}" for i in range(100)]
    model = fit(adata, n_clusters=N_TYPES, n_top_genes=60, train=LONGER)
    lost = np.random.default_rng(0).permutation(model.selected_genes_)
    assert model.statistics_["temperatures"][-1] > 1.1 * model.statistics_["temperatures"][2]
    whole, confidence, right = model.predict(), [], []
    for n_lost in (0, 18, 30, 42, 54):
        query = adata[:, ~adata.var_names.isin(lost[:n_lost])].copy()
        if n_lost:
            with pytest.raises(ValueError, match="If so, pass a larger `max_missing`"):
                model.predict(query)
        found = model.predict(query, soft=True, max_missing=0.95).to_numpy()
        z = torch.from_numpy(model.get_latent_representation(query, max_missing=0.95))
        step = (
            model.statistics_["hidden"].tolist().index(n_lost / 60)
        )  # the shares are those of the fitted temperatures
        flat = model.module.probabilities(z).double().numpy() ** (1.0 / model.statistics_["temperatures"][step])
        np.testing.assert_allclose(found, flat / flat.sum(1, keepdims=True), atol=1e-5)
        confidence.append(found.max(1).mean())
        right.append((found.argmax(1).astype(str) == whole).mean())
    assert (np.diff(confidence) < 0.01).all()  # some genes matter more than others
    assert np.abs(np.subtract(confidence, right))[1:].max() < 0.15
    assert right[1] > 0.9


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_missing": 1.5}, "max_missing"),
        ({"max_novelty": -1}, "max_novelty"),
        ({"max_novelty": 1, "soft": True}, "soft"),
    ],
)
def test_bad_limits_are_refused(adata, fit, arguments, match):
    with pytest.raises(ValueError, match=match):
        fit(adata, n_top_genes=40).predict(**arguments)
