"""What a model of scvi-tools owes the tools around it."""

from importlib.metadata import version

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from scvi.criticism import PosteriorPredictiveCheck

import scgpcl
from scgpcl import _keys


@pytest.fixture
def model(adata, fit):
    return fit(adata, n_top_genes=40)


def test_posterior_predictive_samples_follow_the_likelihood(adata, model):
    """Mean and variance of a zero-inflated negative binomial: (1 - pi) mu, and (1 - pi) (mu + mu^2 / theta + pi mu^2)."""
    n_samples, cells = 4000, np.arange(6)
    drawn = model.posterior_predictive_sample(indices=cells, n_samples=n_samples).todense()
    assert drawn.shape == (6, 40, n_samples)
    assert np.array_equal(drawn, np.round(drawn))
    assert drawn.min() == 0
    p = model.get_likelihood_parameters(indices=cells)
    mu, theta, pi = p["mean"], p["dispersions"], 1.0 / (1.0 + np.exp(-p["dropout"]))
    mean, var = (1 - pi) * mu, (1 - pi) * (mu + mu**2 / theta + pi * mu**2)
    z = (drawn.mean(-1) - mean) / np.sqrt(var / n_samples)
    assert np.abs(z).max() < 5
    assert z.std() == pytest.approx(1.0, abs=0.2)
    ratio = drawn.var(-1).sum() / var.sum()
    assert ratio == pytest.approx(1.0, abs=0.1)
    zeros = pi + (1 - pi) * (theta / (theta + mu)) ** theta
    np.testing.assert_allclose((drawn == 0).mean(-1), zeros, atol=5 * 0.5 / np.sqrt(n_samples))


def test_posterior_predictive_samples_are_repeatable_and_leave_random_state_alone(model):
    state = torch.random.get_rng_state()
    first = model.posterior_predictive_sample(n_samples=2).todense()
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(first, model.posterior_predictive_sample(n_samples=2).todense())
    assert not np.array_equal(first, model.posterior_predictive_sample(n_samples=2, seed=5).todense())


def test_posterior_predictive_samples_of_chosen_cells_and_genes(adata, model, tmp_path):
    genes = list(model.selected_genes_[[7, 2]])
    assert model.posterior_predictive_sample().shape == (adata.n_obs, 40)
    assert model.posterior_predictive_sample(indices=[3, 1], gene_list=genes, n_samples=3).shape == (2, 2, 3)
    assert model.posterior_predictive_sample(indices=[]).shape == (0, 40)
    assert model.posterior_predictive_sample(indices=[], n_samples=2).shape == (0, 40, 2)
    with pytest.raises(ValueError, match="n_samples"):
        model.posterior_predictive_sample(n_samples=0)
    with pytest.raises(KeyError, match="'no gene'"):
        model.posterior_predictive_sample(gene_list=["no gene"])
    model.save(tmp_path / "m")
    alone = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    with pytest.raises(ValueError, match="was loaded without data"):
        alone.posterior_predictive_sample()


def test_posterior_predictive_check_runs(adata, model):
    used = adata[:, model.selected_genes_].copy()
    used.X = used.X.astype(np.int64)  # scvi-tools cannot compare sparse floats
    check = PosteriorPredictiveCheck(used, {"scgpcl": model}, n_samples=3)
    assert check.samples_dataset["scgpcl"].shape == (adata.n_obs, 40, 3)
    check.zero_fraction()
    table = check.metrics["zero_fraction"]  # in truth the share of counts above zero
    wanted = (used.X.toarray() > 0).mean(0)
    np.testing.assert_allclose(table["Raw"], wanted, atol=1e-6)
    p = model.get_likelihood_parameters()
    mu, theta, pi = p["mean"], p["dispersions"], 1.0 / (1.0 + np.exp(-p["dropout"]))
    expected = 1.0 - (pi + (1 - pi) * (theta / (theta + mu)) ** theta).mean(0)
    np.testing.assert_allclose(table["scgpcl"], expected, atol=0.12)
    assert np.corrcoef(table["scgpcl"], expected)[0, 1] > 0.98


def test_save_with_anndata(adata, model, tmp_path):
    wanted = model.predict(soft=True)
    model.save(tmp_path / "m", save_anndata=True)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), wanted)
    np.testing.assert_array_equal(loaded.adata.obsm["X_scgpcl"], adata.obsm["X_scgpcl"])
    loaded.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match="already exists"):
        model.save(tmp_path / "m")


def test_truncated_model_file_is_refused(model, adata, tmp_path):
    model.save(tmp_path / "m")
    file = tmp_path / "m" / "model.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Expected a saved model.*found a damaged file"):
        scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")


def test_minified_data_are_refused_by_the_base_class(adata, fit):
    fit(adata, n_top_genes=40)
    adata.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"
    with pytest.raises(NotImplementedError, match="SCGPCL model currently does not support minified data"):
        scgpcl.SCGPCL(adata, 3)
    assert not hasattr(scgpcl.SCGPCL, "minify_adata")


def test_hub_model_on_disk(adata, model, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import ModelCard
    from scvi.hub import HubMetadata, HubModel

    folder = str(tmp_path / "m")
    model.save(folder, save_anndata=True)
    metadata = HubMetadata.from_dir(folder, anndata_version=version("anndata"), model_parent_module="scgpcl")
    assert metadata.model_cls_name == "SCGPCL"
    HubModel(folder, metadata=metadata, model_card=ModelCard("---\nlicense: mit\n---\n")).save()
    hub = HubModel(folder)  # from the files alone, as after a download
    assert "license: mit" in hub.model_card.content
    np.testing.assert_array_equal(hub.model.predict(), model.predict())


def test_callbacks_loggers_and_trainer_arguments_reach_both_stages(adata, fit, tmp_path):
    class Watch(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.seen.append((pl_module.stage, trainer.gradient_clip_val, type(trainer.logger).__name__))

    watch = Watch()
    callbacks = [watch]
    train = {
        "callbacks": callbacks,
        "logger": CSVLogger(tmp_path),
        "gradient_clip_val": 0.5,
        "agreement": 2.0,
        "label_tol": 0.0,
    }
    model = fit(adata, train=train)
    assert watch.seen == [(1, 0.5, "CSVLogger")] * 2 + [(2, 0.5, "CSVLogger")] * 2
    assert callbacks == [watch]  # the user's list is not added to
    written = (tmp_path / "lightning_logs").rglob("metrics.csv")
    assert _keys.TRAIN_LOSS in next(iter(written)).read_text()
    assert model.is_trained_


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # stage 2 writes where stage 1 has written
def test_checkpoints_of_scvi_tools_are_models(adata, fit, tmp_path):
    from scvi.train import SaveCheckpoint

    save = SaveCheckpoint(dirpath=str(tmp_path), filename="{epoch}-{validation_loss:.3f}", monitor="validation_loss")
    fit(adata, train={"train_size": 0.8, "callbacks": [save], "agreement": 2.0, "label_tol": 0.0})
    loaded = scgpcl.SCGPCL.load(save.best_model_path, adata, accelerator="cpu")
    assert loaded.get_latent_representation().shape == (adata.n_obs, 8)
    assert loaded.is_trained_


def test_lightning_checkpoints_hold_the_network(adata, fit, tmp_path, monkeypatch):
    import scvi
    from lightning.pytorch.callbacks import ModelCheckpoint

    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)  # scvi-tools' own checkpoint goes there
    save = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", monitor=_keys.TRAIN_LOSS)
    train = {"callbacks": [save], "enable_checkpointing": True, "checkpointing_monitor": _keys.TRAIN_LOSS}
    model = fit(adata, train={**train, "default_root_dir": str(tmp_path), "pretrain_max_epochs": 0})
    state = torch.load(save.best_model_path, weights_only=False)["state_dict"]
    assert {f"module.{name}" for name in model.module.state_dict()} <= set(state)


def test_early_stopping_watches_the_validation_loss(adata, fit):
    train = {
        "train_size": 0.8,
        "early_stopping": True,
        "early_stopping_patience": 1,
        "early_stopping_min_delta": 1e6,  # no fall is large enough
        "max_epochs": 9,
        "agreement": 2.0,
        "label_tol": 0.0,
    }
    model = fit(adata, train={**train, "pretrain_max_epochs": 9, "cluster_max_epochs": 9})
    assert model.history_["stage"]["stage"].tolist() == [1, 1, 2, 2]


def test_validation_sees_the_network_of_its_own_epoch(adata, fit):
    train = {"train_size": 0.8, "check_val_every_n_epoch": 1, "pretrain_max_epochs": 1, "cluster_max_epochs": 0}
    model = fit(adata, n_top_genes=40, train=train)
    cells = np.asarray(model.validation_indices)
    batch = next(iter(model._read(None, cells, 100)))
    z = model.module.encode(batch).unsqueeze(1)
    with torch.no_grad():
        wanted = model.module.reconstruction_loss(batch, z).item()
    assert model.history_["validation_loss"].iloc[0, 0] == pytest.approx(wanted, rel=1e-4)


def test_the_module_has_a_loss_as_every_module_of_scvi_tools(adata, fit):
    model = fit(adata)
    batch = next(iter(model._read(None, np.arange(50), 50)))
    with torch.no_grad():
        z = model.module.encode(batch).unsqueeze(1)
        found = model.module.loss(batch, {"z": z}, None)
        assert torch.equal(found.loss, model.module.reconstruction_loss(batch, z))
    assert found.n_obs_minibatch == 50


def test_settings_seed_gives_the_same_model_twice(adata, fit):
    import scvi

    before = scvi.settings.seed
    try:
        found = []
        for seed in (3, 3, 4):
            scvi.settings.seed = seed
            found.append(fit(adata.copy()).get_latent_representation())
    finally:
        scvi.settings._seed = before
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_autotune_runs(adata, tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("scib_metrics")
    pytest.importorskip("hyperopt")  # asked for whatever the searcher
    from ray import tune
    from scvi.autotune import run_autotune

    scgpcl.SCGPCL.setup_anndata(adata)
    space = {
        "model_params": {"n_clusters": 3, "n_hidden": 16, "n_latent": tune.choice([4, 8])},
        "train_params": {"max_epochs": 2, "train_size": 0.8, "accelerator": "cpu"},
    }
    experiment = run_autotune(
        scgpcl.SCGPCL,
        adata,
        metrics="validation_loss",
        mode="min",
        search_space=space,
        num_samples=2,
        scheduler="fifo",
        searcher="random",
        seed=0,
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
    )
    table = experiment.result_grid.get_dataframe()
    assert len(table) == 2
    assert np.isfinite(table["validation_loss"]).all()
    assert set(table["config/model_params/n_latent"]) <= {4, 8}


def test_registry_and_names_survive_loading(adata, model, tmp_path):
    model.save(tmp_path / "m")
    registry = scgpcl.SCGPCL.load_registry(tmp_path / "m")
    assert registry["model_name"] == "SCGPCL"
    alone = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    np.testing.assert_array_equal(alone.get_var_names(), adata.var_names)
    query = ad.AnnData(adata.X.copy(), obs=adata.obs[["group"]].copy(), var=adata.var[[]].copy())
    np.testing.assert_array_equal(
        alone.posterior_predictive_sample(query, n_samples=2).todense(),
        model.posterior_predictive_sample(n_samples=2).todense(),
    )


def test_text_of_a_model_follows_its_training(adata, tmp_path):
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_top_genes=30, n_hidden=8, n_latent=4)
    assert repr(model).startswith("SCGPCL model, not trained\n  genes: 30 of 60\n  clusters: to be estimated\n")
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert f"trained for 2 epochs\n  genes: 30 of 60\n  clusters: {model.n_clusters_} (estimated" in repr(model)
    model.save(tmp_path / "m")
    assert repr(scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")) == repr(model)
    assert f"{adata.n_obs} cells in" in adata.uns["scgpcl"]["summary"]
    assert "obs['scgpcl_cluster']" in adata.uns["scgpcl"]["summary"]


def test_no_completion_is_a_method_for_other_models(model):
    assert "differential_abundance" not in dir(model)
    assert {"train", "predict", "annotate", "save", "history"} <= set(dir(model))


def test_settings_are_those_of_scvi_tools():
    import scvi

    assert scgpcl.settings is scvi.settings
    assert "settings" in dir(scgpcl)


def test_counts_on_a_gpu_are_refused_with_the_line_that_moves_them():
    from types import SimpleNamespace

    from scgpcl._input import counts_of

    matrix = type("csr_matrix", (), {"__module__": "cupyx.scipy.sparse._csr"})()
    with pytest.raises(TypeError, match=r"on a GPU.*rapids_singlecell\.get\.anndata_to_CPU\(adata"):
        counts_of(SimpleNamespace(X=matrix, layers={}), None)
