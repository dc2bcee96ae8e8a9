"""Cells that the model has not seen: genes in another order, missing and extra ones, and training that goes on."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl.nn import neighbor_mean

N_MODEL = 40
MAPPING = "ignore:.* genes that the model uses are missing:UserWarning"


@pytest.fixture
def model(adata, fit):
    return fit(adata, n_top_genes=N_MODEL)


@pytest.fixture
def query(adata):
    return ad.AnnData(adata.X[:30].copy(), obs=adata.obs[:30][["group"]].copy(), var=adata.var[[]].copy())


def lacking(query, genes):
    return query[:, ~query.var_names.isin(genes)].copy()


def test_missing_genes_take_the_training_mean_and_send_no_messages(adata, model, query):
    """A slow dense encoding: feature 0 for the missing genes, -mean / sd for silent ones, means over expressed genes."""
    missing = model.selected_genes_[[3, 17, 30]]
    with pytest.warns(UserWarning, match=rf"^3 of the {N_MODEL} genes .*{missing[0]}.* take their training mean"):
        found = model.get_latent_representation(lacking(query, missing))

    known = ~adata.var_names.isin(missing)
    counts = query.X.toarray()[:, known]
    training = adata.X.toarray()
    share = (training / (training.sum(1) / np.median(training.sum(1)))[:, None]).mean(0)
    factor = counts.sum(1) / (share[known].sum() / share.sum()) / np.median(training.sum(1))
    x = query.to_df()[list(model.selected_genes_)].to_numpy()
    absent = np.isin(model.selected_genes_, missing)
    mean, std = model.module.gene_mean.numpy(), model.module.gene_std.numpy()
    features = np.minimum((np.log1p(x / factor[:, None]) - mean) / std, 10.0)
    features[:, absent] = 0.0
    neighbors = (x > 0) & ~absent
    encoder = model.module.encoder
    message, weight, shift = (t.numpy() for t in (encoder.state_message, encoder.state_weight, encoder.state_shift))
    z = neighbors @ message / neighbors.sum(1, keepdims=True) + features @ weight + shift
    wanted = model.module.represent(torch.from_numpy(z).float(), torch.from_numpy(factor).float())
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_a_missing_gene_is_not_a_silent_gene(model, query):
    genes = list(model.selected_genes_[:8])
    silent = query.copy()
    silent.X = sp.csr_matrix(np.where(query.var_names.isin(genes), 0.0, query.X.toarray()))
    with pytest.warns(UserWarning, match="8 of the 40"):
        missing = model.get_latent_representation(lacking(query, genes))
    assert np.abs(missing - model.get_latent_representation(silent)).max() > 0.01


def test_library_sizes_do_not_fall_with_the_genes_that_a_query_lacks(adata, fit):
    """Counts in equal proportions: whichever genes are left out, size factors stay as they were."""
    rng = np.random.default_rng(0)
    profile = rng.integers(1, 9, adata.n_vars)
    adata.X = sp.csr_matrix(np.outer(rng.integers(1, 5, adata.n_obs), profile).astype(np.float32))
    adata.X[0, 0] += 1  # standard deviations above zero
    model = fit(adata, n_top_genes=20)
    others = adata.var_names[~adata.var_names.isin(model.selected_genes_)]
    whole = next(iter(model._read(None, np.arange(1, 20), 50)))
    fewer = lacking(ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]]), others[:25])
    part = next(iter(model._read(fewer, np.arange(1, 20), 50)))
    np.testing.assert_allclose(part.size_factor, whole.size_factor, rtol=1e-2)


def test_as_many_genes_as_allowed_may_be_missing_and_no_more(model, query, untouched):
    fifth = lacking(query, model.selected_genes_[:8])
    with pytest.warns(UserWarning, match=r"8 of the 40 .*'gene\d+'"), untouched(fifth):
        assert len(model.predict(fifth)) == 30
    more = lacking(query, model.selected_genes_[:9])
    with untouched(more), pytest.raises(ValueError, match=r"at least 80% of the 40 genes .* found 9 missing: 'gene"):
        model.predict(more)
    renamed = query.copy()
    renamed.var_names = [f"ENSG{i}" for i in range(query.n_vars)]
    with untouched(renamed), pytest.raises(ValueError, match="found 40 missing.*name genes alike"):
        model.get_latent_representation(renamed)


@pytest.mark.filterwarnings(MAPPING)
def test_order_and_extra_genes_change_nothing_when_some_are_missing(model, query):
    some = lacking(query, model.selected_genes_[:5])
    wanted = model.get_latent_representation(some)
    extra = ad.AnnData(sp.csr_matrix(np.full((30, 4), 50.0, dtype=np.float32)), obs=some.obs[[]])
    extra.var_names = [f"extra{i}" for i in range(4)]
    mixed = ad.concat([extra, some], axis=1)
    mixed = mixed[:, np.random.default_rng(0).permutation(mixed.n_vars)].copy()
    np.testing.assert_allclose(model.get_latent_representation(mixed), wanted, atol=1e-5)
    one = np.concatenate([model.get_latent_representation(mixed, indices=[i]) for i in range(5)])
    np.testing.assert_allclose(one, wanted[:5], atol=1e-5)


@pytest.mark.filterwarnings(MAPPING)
def test_labels_and_denoised_expression_survive_missing_genes(adata, fit, query):
    model = fit(adata, n_top_genes=N_MODEL, train={"pretrain_max_epochs": 8})
    some = lacking(query, np.random.default_rng(0).choice(model.selected_genes_, 8, replace=False))
    assert adjusted_rand_score(adata.obs["group"], model.predict()) > 0.9
    assert adjusted_rand_score(model.predict(query), model.predict(some)) > 0.9
    table = model.get_normalized_expression(some)
    np.testing.assert_array_equal(table.columns, model.selected_genes_)  # missing genes are estimated too
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)
    model.annotate(some)
    np.testing.assert_array_equal(some.obs["scgpcl_cluster"].astype(str), model.predict(some))


def test_masked_genes_are_no_neighbours():
    """The messages of a batch go along its edges, and an unmeasured gene has none."""
    from scgpcl.data import bipartite_batch

    batch = bipartite_batch(sp.csr_matrix([[1.0, 0.0, 2.0]]), np.ones(1), np.zeros(1))
    x = torch.tensor([[1.0], [10.0], [100.0]]).unsqueeze(1)
    assert neighbor_mean(batch.graph, x).item() == pytest.approx(50.5)


def test_update_keeps_reference_and_learns_the_query(adata, fit, untouched, tmp_path):
    kept, new = adata[:90].copy(), adata[90:].copy()
    model = fit(kept, n_top_genes=N_MODEL, train={"pretrain_max_epochs": 8})
    new.obs = new.obs[["group"]].copy()
    before, query_before = model.predict(), model.predict(new)
    z = model.get_latent_representation()
    fixed = {name: getattr(model, name).copy() for name in ("selected_genes_", "gene_names_", "gene_shares_")}
    moments = {name: getattr(model.module, name).clone() for name in ("gene_mean", "gene_std", "shrinkage")}
    epochs = len(model.history_["stage"])
    with untouched(new):
        model.update(new, max_epochs=3, label_tol=0.0, accelerator="cpu", enable_progress_bar=False)
    assert (model.predict() == before).mean() > 0.97
    assert not np.array_equal(model.get_latent_representation(), z)
    score = adjusted_rand_score(new.obs["group"], model.predict(new))
    assert score >= adjusted_rand_score(new.obs["group"], query_before) - 0.02
    for name, value in fixed.items():
        np.testing.assert_array_equal(getattr(model, name), value)
    for name, value in moments.items():
        assert torch.equal(getattr(model.module, name), value)
    np.testing.assert_array_equal(kept.obs["scgpcl_cluster"].astype(str), model.predict())
    assert model.history_["stage"]["stage"].tolist()[epochs:] == [2, 2, 2]
    assert model.is_trained_
    assert len(model.train_indices) == 90
    model.save(tmp_path / "m")
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", kept, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(new), model.predict(new))


def test_update_computes_states_from_reference_and_query(adata, fit):
    """Without epochs only the states change, to those of all cells together."""
    from scgpcl.data import Cells, bipartite_loader
    from scgpcl.pp import library_sizes

    kept, new = adata[:90].copy(), adata[90:].copy()
    model = fit(kept, n_top_genes=N_MODEL)
    weights = model.module.encoder.cell1.lin_r.weight.clone()
    model.update(new, max_epochs=0, accelerator="cpu")
    updated = model.get_latent_representation()
    assert torch.equal(weights, model.module.encoder.cell1.lin_r.weight)
    both = ad.concat([kept, new])
    columns = both.var_names.get_indexer(model.selected_genes_)
    source = Cells(both.X, library_sizes(both.X) / model.unit_size_, columns)
    model.module.refresh(lambda: bipartite_loader(source, np.arange(120), batch_size=50))
    np.testing.assert_allclose(model.get_latent_representation(), updated, atol=1e-4)


def test_failed_update_leaves_the_model_as_it_was(adata, fit):
    import lightning.pytorch as pl

    class Fail(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            msg = "stop here"
            raise RuntimeError(msg)

    kept, new = adata[:90].copy(), adata[90:].copy()
    model = fit(kept, n_top_genes=N_MODEL)
    z, labels, epochs = model.get_latent_representation(), model.predict(), len(model.history_["stage"])
    with pytest.raises(RuntimeError, match="stop here"):
        model.update(new, max_epochs=2, accelerator="cpu", enable_progress_bar=False, callbacks=[Fail()])
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    np.testing.assert_array_equal(model.predict(), labels)
    assert len(model.history_["stage"]) == epochs
    assert model.is_trained_


BAD_UPDATE = {
    "epochs": ({"max_epochs": -1}, "cluster_max_epochs"),
    "batch size": ({"batch_size": 1}, "batch_size"),
    "tolerance": ({"label_tol": 2.0}, "label_tol"),
    "mps": ({"accelerator": "mps"}, 'accelerator="cpu"'),
    "early stopping": ({"early_stopping": True}, "no `early_stopping`"),
}


@pytest.mark.parametrize("case", BAD_UPDATE)
def test_bad_update_arguments_are_refused(model, query, case, untouched):
    kwargs, message = BAD_UPDATE[case]
    before = model.get_latent_representation()
    with untouched(query), pytest.raises(ValueError, match=message):
        model.update(query, **kwargs)
    np.testing.assert_array_equal(model.get_latent_representation(), before)


def test_update_needs_a_trained_model_its_data_and_all_genes(adata, model, query, tmp_path):
    with pytest.raises(ValueError, match="to learn from, found 2 missing"):
        model.update(lacking(query, model.selected_genes_[:2]), max_epochs=1)
    bad = query.copy()
    bad.X = bad.X.log1p()
    with pytest.raises(ValueError, match="looks normalised"):
        model.update(bad, max_epochs=1)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="Expected cells to train on"):
        scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu").update(query, max_epochs=1)
    with pytest.raises(RuntimeError, match="model.train"):
        scgpcl.SCGPCL(adata, 3).update(query)
