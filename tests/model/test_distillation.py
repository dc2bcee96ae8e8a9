"""Second stage by distillation: centres alone learn the consensus from cells of any depth."""

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl import _keys
from scgpcl._random import cpu_generator
from scgpcl.train import DistillationPlan, _run

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
N_MODEL = 40


@pytest.fixture
def pretrained(adata, fit):
    return fit(adata, n_top_genes=N_MODEL, train={"pretrain_max_epochs": 4, "cluster_max_epochs": 0})


def dense(batch):
    counts = torch.zeros(batch.graph.n_cells, batch.graph.n_genes)
    counts[batch.graph.rows, batch.graph.indices.long()] = batch.counts
    return counts


class Literal:
    """The stage on dense matrices, with centres that it moves itself."""

    def __init__(self, module, *, lr):
        self.module = module
        self.centers = module.centers.detach().clone().requires_grad_(True)
        self.optimizer = torch.optim.AdamW([self.centers], lr=lr, weight_decay=0.0)

    def latent(self, counts, size_factor):
        module, encoder = self.module, self.module.encoder
        log = torch.log1p(counts / size_factor[:, None])
        features = ((log - module.gene_mean) / module.gene_std).clamp(max=10.0)
        linked = (counts > 0).float()
        mean = linked @ encoder.state_message / linked.sum(1, keepdim=True).clamp(min=1.0)
        return mean + features @ encoder.state_weight + encoder.state_shift

    def represent(self, z, size_factor):
        t = size_factor.log().clamp(max=0.0)[:, None]
        n = z.shape[1]
        a1, b1, a2, b2 = self.module.depth.weight.split([n, 1, n, 1])
        z = z + t * (z @ a1 + b1) + t**2 * (z @ a2 + b2)
        return z / (z.square().mean(1, keepdim=True) + 1e-6).sqrt()  # directions only

    def assign(self, z, alpha):
        distance = (z[:, None] - self.centers).square().sum(2)
        similarity = (1.0 + distance / alpha) ** (-(alpha + 1.0) / 2.0)
        return similarity / similarity.sum(1, keepdim=True)

    def step(self, batch, target, whole, generator, *, depth, alpha):
        counts = dense(batch)
        share = depth ** torch.rand(len(counts), generator=generator)
        fewer = torch.zeros_like(counts)
        edges = batch.graph.rows, batch.graph.indices.long()
        fewer[edges] = torch.binomial(batch.counts, share[edges[0]], generator=generator)
        loss = 0.0
        shallow = share * batch.size_factor
        for z in (whole, self.represent(self.latent(fewer, shallow), shallow)):
            q = self.assign(z, alpha)
            divergence = target * (target.clamp(min=1e-30) / q).log()
            loss = loss + divergence.sum(1).mean() / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def test_steps_equal_a_literal_loop(adata, pretrained):
    model, depth = pretrained, 0.1
    module = model.module
    module.temperature.fill_(1.0)
    batch = next(iter(model._read(None, None, adata.n_obs)))
    target = torch.rand(adata.n_obs, 3, generator=torch.Generator().manual_seed(0))
    target[:10] = torch.eye(3)[torch.arange(10) % 3]  # certain cells, whose targets have zeros
    target /= target.sum(1, keepdim=True)
    plan = DistillationPlan(module, seed=7, depth=depth, one_cycle=False)
    plan.cells, plan.target = torch.arange(adata.n_obs), target
    plan.latent = module.represent(module.encode(batch), batch.size_factor)
    plan.log_losses = lambda batch, total, parts: None
    for parameter in plan.idle:
        parameter.requires_grad_(False)
    optimizer = plan.configure_optimizers()
    literal, alpha = Literal(module, lr=plan.lr), module.alpha.item()
    latent = literal.represent(literal.latent(dense(batch), batch.size_factor), batch.size_factor)
    torch.testing.assert_close(latent, plan.latent, rtol=1e-4, atol=1e-4)
    assert module.depth.weight.abs().max() > 0.01

    generator = cpu_generator(7, plan.stage)
    rows = torch.randperm(adata.n_obs, generator=torch.Generator().manual_seed(1))
    for index in (rows[:50].sort().values, rows[50:90], rows[90:]):  # cells of a mini-batch in any order
        part = next(iter(model._read(None, index.numpy(), len(index))))._replace(cell_index=index)
        wanted = literal.step(part, target[index], plan.latent[index], generator, depth=depth, alpha=alpha)
        optimizer.zero_grad()
        loss = plan.training_step(part, 0)
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(module.centers.detach(), literal.centers.detach(), rtol=1e-5, atol=1e-5)


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
    monkeypatch.setattr(_run, "MAX_CLUSTERED_CELLS", 80)
    seen = []
    step = DistillationPlan.training_step

    def watched(plan, batch, batch_idx):
        seen.append(batch.cell_index)
        return step(plan, batch, batch_idx)

    monkeypatch.setattr(DistillationPlan, "training_step", watched)
    train = {"pretrain_max_epochs": 8, "cluster_max_epochs": 4, "label_tol": 0.0, "batch_size": 20}
    model = fit(adata, train=train)
    index = _run.clustered_cells(adata.n_obs)
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
