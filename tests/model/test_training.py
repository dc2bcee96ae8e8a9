import inspect
import random

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl import _keys

STAGE1 = {f"{n}_train" for n in (_keys.RECONSTRUCTION_LOSS, _keys.INSTANCE_LOSS, _keys.PROTOTYPE_LOSS)} | {
    _keys.LABEL_AGREEMENT
}
STAGE2 = {f"{_keys.CLUSTERING_LOSS}_train", _keys.LABEL_CHANGE}
BOTH = pytest.mark.parametrize("clustering", ["distillation", "self_training"])


@BOTH
def test_finds_the_groups(adata, fit, clustering):
    model = fit(adata, train={"pretrain_max_epochs": 8, "clustering": clustering})
    assert adjusted_rand_score(adata.obs["group"], adata.obs["scgpcl_cluster"]) > 0.9
    assert model.is_trained_


@BOTH
def test_same_seed_same_labels_bit_for_bit(adata, fit, clustering):
    results = []
    for seed in (1, 1, 2):
        model = fit(adata.copy(), seed=seed, train={"clustering": clustering})
        results.append((model.get_latent_representation(), model.predict(soft=True).to_numpy()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert not np.array_equal(results[0][0], results[2][0])


def test_seed_is_scvis_unless_given(adata):
    import scvi

    scgpcl.SCGPCL.setup_anndata(adata)
    assert scgpcl.SCGPCL(adata, 3).seed_ == 0
    before = scvi.settings.seed
    try:
        scvi.settings.seed = 7
        assert scgpcl.SCGPCL(adata, 3).seed_ == 7
        assert scgpcl.SCGPCL(adata, 3, seed=4).seed_ == 4
    finally:
        scvi.settings._seed = before


def test_global_random_state_is_the_users(adata, fit):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state())  # noqa: NPY002
    fit(adata, n_clusters=None)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_result_does_not_depend_on_the_users_random_state(adata, fit):
    torch.manual_seed(5)
    first = fit(adata.copy()).get_latent_representation()
    torch.manual_seed(6)
    np.testing.assert_array_equal(first, fit(adata.copy()).get_latent_representation())


@BOTH
def test_history_has_every_metric_of_both_stages(adata, fit, tmp_path, clustering):
    model = fit(adata, train={"pretrain_max_epochs": 5, "label_tol": 0.0, "clustering": clustering})
    model.save(tmp_path / "m")
    for history in (model.history_, scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu").history_):
        assert set(history) == STAGE1 | STAGE2 | {_keys.STAGE, _keys.TRAIN_LOSS}
        stage = history[_keys.STAGE][_keys.STAGE]
        assert stage.tolist() == [1] * 5 + [2] * 2
        assert stage.index.tolist() == list(range(7))
        assert history[_keys.TRAIN_LOSS].index.tolist() == list(range(7))
        assert history[_keys.LABEL_CHANGE].index.tolist() == ([5, 6] if clustering == "self_training" else [6])
        assert history[_keys.LABEL_AGREEMENT].index.tolist() == [1, 2, 3, 4]
        assert all(np.isfinite(table.to_numpy()).all() for table in history.values())


def test_losses_fall(adata, fit):
    model = fit(adata, train={"pretrain_max_epochs": 10, "pretrain_plan_kwargs": {"decoded_genes": 1.0}})
    for name in (f"{_keys.RECONSTRUCTION_LOSS}_train", f"{_keys.INSTANCE_LOSS}_train"):
        loss = model.history_[name][name][:10]
        assert loss.iloc[-3:].mean() < loss.iloc[:3].mean()


def test_training_goes_on_from_where_it_stopped(adata, fit):
    model = fit(adata, train={"label_tol": 0.0})
    before = model.get_latent_representation()
    genes = model.selected_genes_.copy()
    model.train(pretrain_max_epochs=1, cluster_max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert model.history_[_keys.STAGE][_keys.STAGE].tolist() == [1, 1, 2, 2, 1, 2]
    after = model.get_latent_representation()
    assert not np.array_equal(before, after)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.8
    np.testing.assert_array_equal(genes, model.selected_genes_)


@pytest.mark.parametrize(("clustering", "n_epochs"), [("distillation", 2), ("self_training", 1)])
def test_stages_stop_by_themselves(adata, fit, clustering, n_epochs):
    model = fit(
        adata,
        train={
            "pretrain_max_epochs": 30,
            "cluster_max_epochs": 30,
            "agreement": -0.0,
            "agreement_patience": 1,
            "label_tol": 1.0,
            "clustering": clustering,
        },
    )
    stage = model.history_[_keys.STAGE][_keys.STAGE]
    warmup = inspect.signature(scgpcl.train.PretrainPlan).parameters["warmup_epochs"].default
    assert (stage == 1).sum() == warmup + 2  # the first agreement of two epochs with prototypes
    assert (stage == 2).sum() == n_epochs


def test_pre_training_runs_all_epochs_unless_an_agreement_is_given(adata, fit):
    train = {"pretrain_max_epochs": 6, "pretrain_plan_kwargs": {"warmup_epochs": 0, "lr": 1e-9}}  # labels never change
    assert (fit(adata, train=train).history_[_keys.STAGE][_keys.STAGE] == 1).sum() == 6
    stopped = fit(adata.copy(), train={**train, "agreement": 0.99})
    assert (stopped.history_[_keys.STAGE][_keys.STAGE] == 1).sum() == 2


@pytest.mark.parametrize(("scope", "first"), [("epoch", 1), ("batch", 3)])
def test_agreement_of_successive_epochs_is_logged_once_there_are_two(adata, fit, scope, first):
    """Without prototypes of all cells, the first labels are those of the first epoch after the warm-up, as published."""
    plan = {"prototypes": scope, "warmup_epochs": 2, "projection": scope == "epoch"}
    model = fit(adata, train={"pretrain_max_epochs": 6, "cluster_max_epochs": 0, "pretrain_plan_kwargs": plan})
    agreement = model.history_[_keys.LABEL_AGREEMENT][_keys.LABEL_AGREEMENT]
    assert agreement.index.tolist() == list(range(first, 6))
    assert agreement.between(-1, 1).all()


@BOTH
def test_a_finished_run_keeps_no_counts(adata, fit, clustering):
    model = fit(adata, train={"clustering": clustering})
    assert len(model.trainer.datamodule.source) == 0
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)  # reads the cells again
    assert len(model.predict()) == adata.n_obs


@BOTH
def test_logged_change_is_that_of_the_labels(adata, fit, clustering):
    import lightning.pytorch as pl

    from scgpcl.train._callbacks import encode_all

    labels = []

    class Watch(pl.Callback):
        def look(self, trainer, plan):
            size = torch.from_numpy(trainer.datamodule.source.size_factor)
            labels.append(plan.module.assign_all(encode_all(plan.module, trainer.datamodule), size).argmax(1))

        def on_train_epoch_start(self, trainer, plan):
            if plan.stage == 2 and not labels and clustering == "self_training":
                self.look(trainer, plan)

        def on_train_epoch_end(self, trainer, plan):
            if plan.stage == 2:
                self.look(trainer, plan)

    lr = {"distillation": 3.0, "self_training": 0.1}[clustering]  # so large that labels do change
    train = {"cluster_max_epochs": 5, "label_tol": 0.0, "clustering": clustering, "callbacks": [Watch()]}
    model = fit(adata, train={**train, "cluster_plan_kwargs": {"lr": lr}})
    wanted = [(new != old).float().mean().item() for old, new in zip(labels, labels[1:], strict=False)]
    assert 0 < max(wanted) < 1
    np.testing.assert_allclose(model.history_[_keys.LABEL_CHANGE][_keys.LABEL_CHANGE], wanted, rtol=1e-6)


def test_failure_in_stage_two_keeps_stage_one(adata, fit):
    import lightning.pytorch as pl

    class Fail(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if pl_module.stage == 2:
                msg = "stop here"
                raise RuntimeError(msg)

    scgpcl.SCGPCL.setup_anndata(adata)
    columns = list(adata.obs)
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    with pytest.raises(RuntimeError, match="stop here"):
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, callbacks=[Fail()])
    assert list(adata.obs) == columns  # nothing was annotated
    assert f"{_keys.INSTANCE_LOSS}_train" in model.history_
    model.train(pretrain_max_epochs=0, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    assert model.history_[_keys.STAGE][_keys.STAGE].tolist()[:2] == [1, 1]
    assert "scgpcl_cluster" in adata.obs


def test_without_clustering_epochs_cells_go_to_the_nearest_centre_of_the_consensus(adata, fit, monkeypatch):
    from scgpcl.train import _run

    found = []

    targets = _run.targets
    monkeypatch.setattr(_run, "targets", lambda support: found.append(support) or targets(support))
    model = fit(adata, train={"cluster_max_epochs": 0, "pretrain_max_epochs": 8})
    labels = model.predict()
    assert adjusted_rand_score(labels, found[0].argmax(1)) > 0.95
    z, centers = torch.from_numpy(model.get_latent_representation()), model.module.centers.detach()
    np.testing.assert_array_equal(labels, torch.cdist(z, centers).argmin(1).numpy().astype(str))


def test_without_epochs_of_self_training_labels_are_those_of_k_means(adata, fit):
    from sklearn.cluster import KMeans

    model = fit(adata, train={"cluster_max_epochs": 0, "clustering": "self_training"})
    z = model.get_latent_representation()
    wanted = KMeans(3, n_init=20, random_state=0).fit_predict(z)
    assert adjusted_rand_score(model.predict(), wanted) > 0.95


def test_number_of_clusters_is_estimated(adata, fit, tmp_path):
    model = fit(adata, n_clusters=None, train={"pretrain_max_epochs": 8})
    assert model.n_clusters_ == adata.obs["group"].nunique()
    assert model.module.centers.shape[0] == model.n_clusters_
    curve = model.n_clusters_curve_
    assert curve["K"].tolist() == list(range(2, len(curve) + 2))
    assert model.n_clusters_ == 1 + curve["holds"].sum()
    model.save(tmp_path / "m")
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(), model.predict())
    assert loaded.n_clusters_ == model.n_clusters_
    pd.testing.assert_frame_equal(loaded.n_clusters_curve_, curve)
    assert [text.get_text() for text in scgpcl.pl.n_clusters(loaded).texts] == [str(model.n_clusters_)]
    model.train(pretrain_max_epochs=1, cluster_max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    pd.testing.assert_frame_equal(model.n_clusters_curve_, curve)  # training goes on with the number it has


def test_a_given_number_is_not_estimated(adata, fit):
    model = fit(adata, n_clusters=4)
    assert model.n_clusters_ == 4
    assert model.n_clusters_curve_ is None


@pytest.mark.filterwarnings("ignore:Category 0 in")  # scvi: few cells in the batch
def test_too_few_cells_to_estimate_from_are_refused_before_any_work(adata, untouched):
    two = adata[:2].copy()
    scgpcl.SCGPCL.setup_anndata(two)
    model = scgpcl.SCGPCL(two)
    with untouched(two), pytest.raises(ValueError, match="at least 3 cells.*found 2"):
        model.train(accelerator="cpu", enable_progress_bar=False)


def test_validation_split_and_early_stopping(adata, fit):
    model = fit(adata, train={"train_size": 0.8, "early_stopping": True, "check_val_every_n_epoch": 1})
    assert len(model.train_indices) == 96
    assert len(model.validation_indices) == 24
    assert np.isfinite(model.history_["validation_loss"].to_numpy()).all()
    assert len(adata.obs["scgpcl_cluster"]) == adata.n_obs


@pytest.mark.parametrize("option", ["paper", "no_graph"])
def test_options_train(adata, fit, option):
    paper = scgpcl.presets.PAPER
    kwargs = {
        "paper": {**{k: v for k, v in paper["model"].items() if k not in ("n_hidden", "n_latent")}, "n_top_genes": 0.5},
        "no_graph": {"use_graph": False},
    }[option]
    train = {}
    if option == "paper":
        plan = {**paper["train"]["pretrain_plan_kwargs"], "warmup_epochs": 1}
        train = {**paper["train"], "pretrain_max_epochs": 3, "cluster_max_epochs": 2, "pretrain_plan_kwargs": plan}
    model = fit(adata, train=train, **kwargs)
    assert np.isfinite(model.get_latent_representation()).all()
    if option == "paper":
        assert len(model.selected_genes_) == adata.n_vars // 2
        assert f"{_keys.PROTOTYPE_LOSS}_train" in model.history_


def test_finds_the_groups_from_the_reconstruction_of_random_genes(adata, fit):
    part, all_of_them = {"decoded_genes": 0.25}, {"decoded_genes": 1.0}
    train = {"pretrain_max_epochs": 8, "clustering": "self_training"}
    whole = fit(adata.copy(), train={**train, "pretrain_plan_kwargs": all_of_them, "cluster_plan_kwargs": all_of_them})
    train |= {"pretrain_plan_kwargs": part, "cluster_plan_kwargs": part}
    models = [fit(adata.copy(), train=train) for _ in range(2)]
    assert adjusted_rand_score(adata.obs["group"], models[0].predict()) > 0.9
    np.testing.assert_array_equal(*(model.get_latent_representation() for model in models))
    assert not np.array_equal(whole.get_latent_representation(), models[0].get_latent_representation())


def test_genes_to_decode_are_drawn_anew_for_every_mini_batch():
    from scgpcl.train import ClusterPlan

    module = scgpcl.SCGPCLModule(40, 3, n_hidden=8, n_latent=4, dispersion="gene", use_graph=True, n_batch=0)
    plan = ClusterPlan(module, seed=0, decoded_genes=0.25)
    drawn = torch.stack([plan.decoded(torch.device("cpu")) for _ in range(200)])
    assert drawn.shape == (200, 10)
    assert (drawn.diff(dim=1) > 0).all()
    times = drawn.flatten().bincount(minlength=40)
    assert times.min() > 20  # each gene 50 times on average
    assert ClusterPlan(module, seed=0).decoded(torch.device("cpu")) is None


def test_the_published_preset_differs_from_the_defaults_in_every_value():
    from scgpcl.train import ClusterPlan, PretrainPlan

    paper = scgpcl.presets.PAPER
    plans = {"pretrain_plan_kwargs": PretrainPlan, "cluster_plan_kwargs": ClusterPlan}
    given = [(scgpcl.SCGPCL, paper["model"]), (scgpcl.SCGPCL.train, paper["train"])]
    given += [(plan, paper["train"][name]) for name, plan in plans.items()]
    for function, values in given:
        parameters = inspect.signature(function).parameters
        for name, value in values.items():
            assert name in plans or parameters[name].default != value, name


def test_progress_says_how_each_stage_ended(adata, capsys):
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3, n_hidden=8, n_latent=4)
    model.train(pretrain_max_epochs=8, cluster_max_epochs=1, agreement=0.0, agreement_patience=2, accelerator="cpu")
    said = capsys.readouterr().err
    n_epochs = int((model.history_["stage"]["stage"] == 1).sum())
    assert n_epochs < 8
    loss = model.history_["train_loss_epoch"].iloc[n_epochs - 1, 0]
    assert f"Pre-training: converged after {n_epochs} of 8 epochs" in said
    assert f"loss {loss:.4g}]" in said
    assert "Clustering: 1 epoch [" in said
    assert "Partitions of the cells: 100%" in said
    assert "nan" not in said
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert capsys.readouterr().err == ""
