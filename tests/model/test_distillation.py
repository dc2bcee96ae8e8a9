"""Second stage by distillation: centres alone learn the consensus from cells of any depth."""

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl import _keys
from scgpcl.train import DistillationPlan, _read_out

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
N_MODEL = 40


@pytest.fixture
def pretrained(adata, fit):
    return fit(adata, n_top_genes=N_MODEL, train={"pretrain_max_epochs": 4, "cluster_max_epochs": 0})


def test_only_the_centres_change(pretrained):
    model = pretrained
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    latent = model.get_latent_representation()
    model.train(pretrain_max_epochs=0, cluster_max_epochs=3, label_tol=0.0, **QUIET)
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"centers", "temperature"}  # the latter is that of the centres
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    assert all(parameter.requires_grad for parameter in model.module.parameters())


def test_shallow_cells_get_the_clusters_of_deep_ones(draw_counts):
    """Of a tenth of the molecules of the same cells, centres that have seen thinned cells make more of the labels."""
    x, _ = draw_counts(300, 80, 4, seed=2, density_scale=2.0)
    cells = ad.AnnData(x)
    shallow = cells.copy()
    shallow.X.data = np.random.default_rng(0).binomial(x.data.astype(int), 0.1).astype(np.float32)
    kept = np.asarray(shallow.X.sum(1)).ravel() > 0
    score = {}
    for depth in (1.0, 0.05):
        scgpcl.SCGPCL.setup_anndata(cells)
        model = scgpcl.SCGPCL(cells, 4, n_hidden=16, n_latent=8)
        plan = {"depth": depth}
        model.train(
            pretrain_max_epochs=8,
            cluster_max_epochs=10,
            batch_size=64,
            label_tol=0.0,
            cluster_plan_kwargs=plan,
            **QUIET,
        )
        score[depth] = adjusted_rand_score(model.predict()[kept], model.predict(shallow[kept].copy()))
    assert score[0.05] > score[1.0] + 0.1


def test_loss_falls_and_labels_stay_those_of_the_consensus(adata, fit):
    model = fit(adata, train={"pretrain_max_epochs": 8, "cluster_max_epochs": 10, "batch_size": 30, "label_tol": 0.0})
    loss = model.history_[f"{_keys.CLUSTERING_LOSS}_train"].iloc[:, 0]
    assert len(loss) == 10
    assert loss.iloc[-3:].mean() < loss.iloc[:3].mean()
    assert adjusted_rand_score(adata.obs["group"], model.predict()) > 0.9


def test_of_many_cells_a_sample_is_distilled_and_all_are_labelled(adata, fit, monkeypatch):
    monkeypatch.setattr(_read_out, "MAX_CLUSTERED_CELLS", 80)
    seen = []
    step = DistillationPlan.training_step

    def watched(plan, batch, batch_idx):
        seen.append(batch.cell_index)
        return step(plan, batch, batch_idx)

    monkeypatch.setattr(DistillationPlan, "training_step", watched)
    train = {"pretrain_max_epochs": 8, "cluster_max_epochs": 4, "label_tol": 0.0, "batch_size": 20}
    model = fit(adata, train=train)
    index = _read_out.sampled_positions(adata.n_obs, 80)
    assert len(index) == 80
    assert (np.diff(index) > 0).all()
    epochs = torch.cat(seen).view(4, 80).sort().values
    assert all(np.array_equal(epoch, index) for epoch in epochs)
    assert adjusted_rand_score(adata.obs["group"], model.predict()) > 0.9
    again = fit(adata.copy(), train=train)
    np.testing.assert_array_equal(again.predict(soft=True), model.predict(soft=True))


def test_cells_left_for_validation_are_labelled_but_not_trained_on(adata, fit):
    model = fit(adata, train={"pretrain_max_epochs": 8, "cluster_max_epochs": 3, "train_size": 0.75, "label_tol": 0.0})
    assert len(model.train_indices) == 90
    assert adjusted_rand_score(adata.obs["group"], model.predict()) > 0.9


def test_clusters_are_in_the_order_of_their_sizes(adata, fit):
    for n_epochs in (0, 3):
        model = fit(adata.copy(), train={"pretrain_max_epochs": 6, "cluster_max_epochs": n_epochs})
        sizes = np.bincount(model.predict().astype(int), minlength=3)
        assert (np.diff(sizes) <= 0).all()
