"""Finite numbers for extreme counts and logits, right gradients, and a stop at the first loss that is none."""

import math

import lightning.pytorch as pl
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scgpcl import _keys, nn
from scgpcl.data import bipartite_batch
from scgpcl.nn import _zinb

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def extreme(adata):
    """Libraries from ten to a million counts and single counts of a million."""
    rng = np.random.default_rng(0)
    share = adata.X.toarray() + 0.1
    share /= share.sum(1, keepdims=True)
    x = rng.poisson(share * np.logspace(1, 6, adata.n_obs)[:, None]).astype(np.float32)
    x[:, 0] = np.maximum(x[:, 0], 1)
    x[3, 4] = 1e6
    adata.X = sp.csr_matrix(x)
    return adata


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("options", [{}, {"dispersion": "gene-cell", "gene_scaling": 1.0, "start": "random"}], ids=str)
@pytest.mark.filterwarnings("ignore:.*bf16")
def test_extreme_counts_stay_finite(cells, build, precision, options):
    adata = extreme(cells())
    model = build(adata, train={"precision": precision, "pretrain_max_epochs": 3}, **options)
    assert all(torch.isfinite(value).all() for value in model.module.state_dict().values())
    assert all(np.isfinite(table.to_numpy(dtype=float)).all() for table in model.history_.values())
    parameters = model.get_likelihood_parameters()
    assert all(np.isfinite(values).all() for values in parameters.values())
    assert (parameters["mean"] > 0).all()
    assert (parameters["dispersions"] > 0).all()


LIMIT = st.floats(-60.0, 60.0)


@given(
    log_mean=LIMIT,
    logit=LIMIT,
    raw_theta=LIMIT,
    size=st.sampled_from([1e-4, 1.0, 1e3]),
    count=st.sampled_from([0, 1, 10**6]),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_likelihood_of_extreme_outputs_is_that_of_scvi_and_does_not_overflow(
    log_mean, logit, raw_theta, size, count
):
    """Single precision against scvi-tools' density in double precision."""
    from scvi.distributions import ZeroInflatedNegativeBinomial

    batch = bipartite_batch(sp.csr_matrix([[count, 1]], dtype=np.float32), np.array([size]), np.arange(1))
    bias = torch.tensor([log_mean, 0.0, logit, 0.0], requires_grad=True)  # log means, then dropout logits, of two genes
    hidden, weight = torch.zeros(1, 1, 1, requires_grad=True), torch.zeros(4, 1, requires_grad=True)
    raw = torch.tensor([raw_theta, 0.0], requires_grad=True)
    loss = nn.fused_zinb_loss(hidden, weight, bias, raw, batch.counts, batch.graph, batch.size_factor.log())
    grads = torch.autograd.grad(loss, (bias, raw))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() for grad in grads)

    low, high = _zinb.LOG_MEAN_BOUNDS
    mu = torch.tensor([log_mean, 0.0]).double().clamp(low, high).exp() * size
    theta = nn.inverse_dispersion(torch.tensor([raw_theta, 0.0]).double())
    px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=torch.tensor([logit, 0.0]).double())
    wanted = -px.log_prob(torch.tensor([float(count), 1.0]).double()).mean()
    if mu.min() > 1e-4:  # below, scvi-tools' own epsilon of 1e-8 in its logarithms shows
        # log-gamma of a million is 1e7, of which single precision keeps seven digits
        rounding = 2 * torch.finfo(torch.float32).eps * math.lgamma(count + 1)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-3, abs=1e-3 + rounding)


class Poison(pl.Callback):
    """Make weights no numbers in a step: before it, so that its losses are none, or after it."""

    def __init__(self, stage, epoch, batch, *, after=False):
        self.place, self.after = (stage, epoch, batch), after
        self.kept = None

    def poison(self, plan):
        encoder = [parameter for parameter in plan.module.encoder.parameters() if parameter.requires_grad]
        with torch.no_grad():
            (encoder[0] if encoder else plan.module.centers).fill_(float("nan"))

    def on_train_epoch_start(self, trainer, pl_module):
        if (pl_module.stage, trainer.current_epoch) == self.place[:2]:
            self.kept = {name: value.clone() for name, value in pl_module.module.state_dict().items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.after and (pl_module.stage, trainer.current_epoch, batch_idx) == self.place:
            self.poison(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.after and (pl_module.stage, trainer.current_epoch, batch_idx) == self.place:
            self.poison(pl_module)


STAGES = pytest.mark.parametrize(
    ("stage", "clustering"), [(1, "distillation"), (2, "distillation"), (2, "self_training")]
)


@STAGES
def test_a_loss_that_is_no_number_stops_training_at_the_last_good_state(cells, build, stage, clustering):
    adata = cells()
    model = build(adata)
    before = list(adata.obs)
    poison = Poison(stage, 1, 1)
    run = {"max_epochs": 3, "batch_size": 20, "clustering": clustering, "label_tol": 0.0, **QUIET}
    with pytest.raises(FloatingPointError) as caught:
        model.train(**run, callbacks=[poison])
    message = str(caught.value)
    assert message.startswith(f"Expected finite losses, found `{_keys.RECONSTRUCTION_LOSS}` nan") or stage == 2
    assert f"nan in batch 1 of epoch 1 of stage {stage}" in message
    assert f"`{_keys.CLUSTERING_LOSS if stage == 2 else _keys.INSTANCE_LOSS}`" in message
    assert "Lower the learning rate" in message
    state = model.module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in poison.kept.items())
    assert list(adata.obs) == before
    model.train(**run)  # and goes on from there
    assert np.isfinite(model.get_latent_representation()).all()


@STAGES
def test_weights_that_the_last_step_spoilt_stop_training_too(cells, build, stage, clustering):
    """A gradient can overflow where the loss did not, and no later loss would show it."""
    adata = cells()
    model = build(adata)
    before = list(adata.obs)
    poison = Poison(stage, 2, 2, after=True)
    name = "centers" if (stage, clustering) == (2, "distillation") else "encoder"
    run = {"max_epochs": 3, "batch_size": 20, "clustering": clustering, "label_tol": 0.0, **QUIET}
    with pytest.raises(
        FloatingPointError,
        match=f"Expected finite weights, found others in `{name}.*batch 2 of epoch 2 of stage {stage}",
    ):
        model.train(**run, callbacks=[poison])
    state = model.module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in poison.kept.items())
    assert list(adata.obs) == before


def test_a_learning_rate_that_is_far_too_high_is_told_so(cells, build):
    model = build(cells())
    plan = {"optimizer": "Adadelta", "lr": 1e30, "one_cycle": False}
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        model.train(max_epochs=9, batch_size=20, pretrain_plan_kwargs=plan, **QUIET)
    assert all(torch.isfinite(value).all() for value in model.module.state_dict().values())


def double(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(grad)


def test_gradients_of_the_losses():
    z = double(5, 2, 3)
    assert torch.autograd.gradcheck(lambda v: nn.instance_loss(v, tau=0.25), z)
    prototypes = torch.nn.functional.normalize(double(2, 3, seed=1, grad=False), dim=1)
    labels = torch.tensor([0, 1, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda v: nn.prototype_loss(v, [prototypes], [labels], tau=0.25), z)
    centers = double(3, 4, seed=2)
    cells = double(6, 4, seed=3)
    target = nn.target_distribution(nn.soft_assign(cells, centers, alpha=1.0)).detach()
    for alpha in (1.0, 10.0):
        loss = lambda v, c, a=alpha: nn.clustering_loss(nn.soft_assign(v, c, alpha=a), target)
        assert torch.autograd.gradcheck(loss, (cells, centers))
    shortened = lambda v, c: nn.clustering_loss(
        nn.soft_assign(nn.shrink_length(v, torch.tensor(0.5)), c, alpha=1.0), target
    )
    assert torch.autograd.gradcheck(shortened, (cells, centers))


SCALES = [1e-30, 1e-8, 1.0, 1e8, 1e15]


@pytest.mark.parametrize("scale", SCALES)
def test_contrast_and_assignment_of_extreme_latents_are_those_in_double_precision(scale):
    """Latent vectors of any length: cosines do not see it, and distances to far centres do not overflow."""
    z = (scale * double(8, 2, 4, grad=False)).requires_grad_()
    labels, prototypes = torch.arange(8) % 3, double(3, 4, seed=1, grad=False)
    centers = scale * double(3, 4, seed=2, grad=False)

    def clustering(v):
        q = nn.soft_assign(v[:, 0], centers.to(v), alpha=1.0)
        return nn.clustering_loss(q, nn.target_distribution(q).detach())

    losses = {
        "instance": lambda v: nn.instance_loss(v, tau=0.25),
        "cold instance": lambda v: nn.instance_loss(v, tau=1e-3),
        "prototype": lambda v: nn.prototype_loss(v, [prototypes.to(v)], [labels], tau=1e-3),
        "clustering": clustering,
    }
    for name, loss in losses.items():
        single = z.detach().float().requires_grad_()
        ours, wanted = loss(single), loss(z)
        (gradient,) = torch.autograd.grad(ours, single)
        assert torch.isfinite(gradient).all(), name
        if scale > 1e-12 or name == "clustering":  # shorter vectors are shorter than torch's own epsilon
            assert ours.item() == pytest.approx(wanted.item(), rel=1e-3, abs=1e-4), name


def test_cells_at_the_origin_and_on_a_centre_have_finite_gradients():
    z = torch.zeros(4, 2, 3, requires_grad=True)
    centers = torch.zeros(2, 3, requires_grad=True)
    q = nn.soft_assign(z[:, 0], centers, alpha=1.0)
    total = (
        nn.instance_loss(z, tau=0.25)
        + nn.prototype_loss(z, [torch.zeros(2, 3)], [torch.tensor([0, 1, 0, 1])], tau=0.25)
        + nn.clustering_loss(q, nn.target_distribution(q).detach())
    )
    assert torch.isfinite(total)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, (z, centers)))
