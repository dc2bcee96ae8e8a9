"""The stages against literal training loops on dense matrices: equal parameters after every step.

What the loops share with the package are the order of the cells, the streams of random numbers, k-means, the consensus and
torch's optimisers; each of these has tests of its own.
"""

from types import SimpleNamespace
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, relu, softplus

from scgpcl._random import cpu_generator, derived_seed
from scgpcl.cluster import Evidence, kmeans
from scgpcl.data import BipartiteSplitter, Cells, _cells
from scgpcl.module import SCGPCLModule
from scgpcl.nn import neighborhood
from scgpcl.train import (
    ClusterPlan,
    DecoderPlan,
    Devices,
    DistillationPlan,
    PretrainPlan,
    Run,
    TargetUpdate,
    _plans,
    _read_out,
    fit_stage,
)
from scgpcl.train._callbacks import PrototypeUpdate, encode_all

SEED = 7
N_CELLS, N_GENES, N_LATENT, N_CLUSTERS = 60, 24, 6, 3
EPS = 1e-5  # of batch normalisation
QUIET = Devices("cpu", 1, {"enable_progress_bar": False})


# ---- dense counterparts of what the package computes sparsely


class Dense(NamedTuple):
    """Counts, features and links (n_cells, n_genes), size factors (n_cells,)."""

    counts: torch.Tensor
    features: torch.Tensor
    linked: torch.Tensor
    size: torch.Tensor

    def __getitem__(self, index):
        return Dense(*(part[index] for part in (self.counts, self.features, self.linked, self.size)))


def dense(module, counts, size):
    features = ((torch.log1p(counts / size[:, None]) - module.gene_mean) / module.gene_std).clamp(max=10.0)
    return Dense(counts, features, (counts > 0).to(counts.dtype), size)


class Masks(NamedTuple):
    """What a view keeps: neighbours and features (n_genes,), columns of the embedding (n_latent,)."""

    neighbor: torch.Tensor
    feature: torch.Tensor
    embedding: torch.Tensor


def draw_masks(generator, *, n_views=2, neighbor_keep, feature_drop):
    """Views, in the order in which the package draws them."""
    order = torch.rand(N_GENES, n_views, generator=generator).argsort(0)
    feature = torch.rand(N_GENES, n_views, generator=generator) >= feature_drop
    embedding = torch.rand(N_LATENT, n_views, generator=generator) >= feature_drop
    keep = order < round(neighbor_keep * N_GENES)
    return [Masks(*(mask[:, i].double() for mask in (keep, feature, embedding))) for i in range(n_views)]


class Norms:
    """Batch normalisation with moments of the rows it is given; it remembers them, and ``fixed`` keeps to them."""

    def __init__(self, p, fixed=None):
        self.p, self.moments, self.fixed = p, {}, fixed

    def __call__(self, name, x):
        mean, var = (x.mean(0), x.var(0, correction=0)) if self.fixed is None else self.fixed[name]
        self.moments[name] = mean, var
        return (x - mean) / (var + EPS).sqrt() * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]


def linear(p, name, x):
    return x @ p[f"{name}.weight"].t() + p.get(f"{name}.bias", 0.0)


def sage(p, name, mean, own):
    return linear(p, f"encoder.{name}.lin_l", mean) + linear(p, f"encoder.{name}.lin_r", own)


def encode(p, cells, masks=None, *, graph=True, norm=None, gene1=None):
    """Latent vectors, and the states of the genes in the first layer."""
    norm = norm or Norms(p)
    features, linked, embedding = cells.features, cells.linked, p["encoder.gene_embedding"]
    if masks is not None:
        features, embedding, linked = (
            features * masks.feature,
            embedding * masks.embedding,
            linked * masks.neighbor,
        )
    if not graph:
        x = norm("encoder.cell1_norm", linear(p, "encoder.cell1.lin_r", features) + p["encoder.cell1.lin_l.bias"])
        return norm("encoder.cell2_norm", linear(p, "encoder.cell2.lin_r", x) + p["encoder.cell2.lin_l.bias"]), None
    to_cells = linked / linked.sum(1, keepdim=True).clamp(min=1.0)
    to_genes = (cells.linked / cells.linked.sum(0).clamp(min=1.0)).t()
    cell1 = norm("encoder.cell1_norm", sage(p, "cell1", to_cells @ embedding, features))
    if gene1 is None:
        gene1 = norm("encoder.gene1_norm", sage(p, "gene1", to_genes @ features, embedding))
    return norm("encoder.cell2_norm", sage(p, "cell2", to_cells @ gene1, cell1)), gene1


def project(p, z):
    return linear(
        p, "projection.out", relu(Norms(p)("projection.hidden.norm", linear(p, "projection.hidden.linear", z)))
    )


def zinb(p, cells, z, genes=slice(None)):
    """Mean negative log-likelihood."""
    hidden = relu(Norms(p)("decoder.hidden.norm", linear(p, "decoder.hidden.linear", z)))
    log_mean, logits = (part[:, genes] for part in linear(p, "decoder.heads", hidden).split(N_GENES, 1))
    mu, pi, x = log_mean.exp() * cells.size[:, None], logits.sigmoid(), cells.counts[:, genes]
    theta = softplus(p["decoder.raw_theta"])[genes] + 1e-4
    nb = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1.0)
    nb = nb + theta * (theta / (theta + mu)).log() + x * (mu / (theta + mu)).log()
    return -torch.where(x == 0, (pi + (1.0 - pi) * nb.exp()).log(), (1.0 - pi).log() + nb).mean()


def instance(views, tau, near):
    """Mean over rows of the mean log-probability of their positives; the negatives are all other rows."""
    rows = normalize(torch.cat(views), dim=1)
    n = len(rows) // 2
    logits = (rows @ rows.t() / tau).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    positive = torch.eye(n) if near is None else torch.eye(n) + near
    positive = positive.repeat(2, 2).fill_diagonal_(0.0)
    chosen = torch.where(positive > 0, logits.log_softmax(1), 0.0)
    return -(chosen.sum(1) / positive.sum(1)).mean()


def shrunk(z, power):
    return z / (z.square().mean(1, keepdim=True) + 1e-6) ** (power / 2)


def assign(z, centers, alpha):
    similarity = (1.0 + (z[:, None] - centers).square().sum(2) / alpha) ** (-(alpha + 1.0) / 2.0)
    return similarity / similarity.sum(1, keepdim=True)


def divergence(target, q):
    return (target * (target.clamp(min=1e-30) / q).log()).sum(1).mean()


class Optimizer:
    """torch's, with a rate of its own for the encoder and a schedule over all steps; parameters without gradients stay."""

    def __init__(self, p, trained, options, n_steps):
        encoder = [p[name] for name in trained if name.startswith("encoder.")]
        rest = [p[name] for name in trained if not name.startswith("encoder.")]
        rates = options["lr"] * options["encoder_lr"], options["lr"]
        groups = [{"params": each, "lr": lr} for each, lr in zip((encoder, rest), rates, strict=True) if each]
        more = {"rho": 0.95} if options["optimizer"] == "Adadelta" else {}
        kind = getattr(torch.optim, options["optimizer"])
        self.torch = kind(groups, weight_decay=options["weight_decay"], **more)
        max_lr = [group["lr"] for group in groups]
        self.schedule = None
        if options["one_cycle"]:
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                self.torch, max_lr=max_lr, total_steps=n_steps, cycle_momentum=options["optimizer"] == "AdamW"
            )

    def step(self, loss):
        self.torch.zero_grad()
        loss.backward()
        self.torch.step()
        if self.schedule is not None:
            self.schedule.step()


# ---- the package's side


@pytest.fixture
def setting(draw_counts, monkeypatch):
    """Maker of a module, its splitter and the same cells as dense matrices: ``setting(dtype, use_graph=...)``."""

    def make(dtype=torch.float64, *, use_graph=True, batch_size=20):
        x, _ = draw_counts(N_CELLS, N_GENES, N_CLUSTERS, seed=3)
        size = np.asarray(x.sum(1)).ravel()
        size = (size / np.median(size)).astype(np.float32)
        log = np.log1p(x.toarray() / size[:, None])
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            module = SCGPCLModule(
                N_GENES, N_CLUSTERS, n_hidden=8, n_latent=N_LATENT, dispersion="gene", use_graph=use_graph, n_batch=0
            )
            module.centers.data.normal_()
        module.gene_mean.copy_(torch.from_numpy(log.mean(0)))
        module.gene_std.copy_(torch.from_numpy(log.std(0).clip(min=0.1)))
        module.to(dtype)
        build = _cells.bipartite_batch

        def in_dtype(*args):
            batch = build(*args)
            return batch._replace(counts=batch.counts.to(dtype), size_factor=batch.size_factor.to(dtype))

        monkeypatch.setattr(_cells, "bipartite_batch", in_dtype)
        splitter = BipartiteSplitter(Cells(x, size), seed=SEED, batch_size=batch_size, train_size=1.0)
        cells = dense(module, torch.from_numpy(x.toarray()).to(dtype), torch.from_numpy(size).to(dtype))
        return SimpleNamespace(module=module, splitter=splitter, cells=cells)

    return make


class Recorder(pl.Callback):
    """Cells and parameters of every step, by epoch; every parameter that is trained must have a gradient (DDP asks for it)."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, plan):
        self.epochs.append([])

    def on_after_backward(self, trainer, plan):
        named = plan.module.named_parameters()
        assert [name for name, value in named if value.requires_grad and value.grad is None] == []

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
        values = {name: value.detach().clone() for name, value in plan.module.named_parameters()}
        self.epochs[-1].append((batch.cell_index, values))


def parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def fitted(setting, plan, callbacks, n_epochs):
    recorder = Recorder()
    where = Devices("cpu", 1, {"enable_progress_bar": False, "callbacks": [recorder]})
    fit_stage(plan, setting.splitter, callbacks, max_epochs=n_epochs, where=where, history={})
    assert len(recorder.epochs) == n_epochs
    return recorder.epochs


def assert_steps(recorded, literal, **tolerance):
    """The loop, a generator, gives the parameters after each step."""
    for i, ((_, wanted), found) in enumerate(zip((s for epoch in recorded for s in epoch), literal, strict=True)):
        for name, value in wanted.items():
            torch.testing.assert_close(
                found[name].detach(), value, **tolerance, msg=lambda m, i=i, n=name: f"{i} {n}: {m}"
            )


# ---- pre-training

PRETRAIN = {
    "tau": 0.25,
    "neighbor_keep": 0.75,
    "feature_drop": 0.25,
    "projection": True,
    "n_neighbors": 4,
    "lambda_instance": 1.0,
    "lambda_prototype": 0.5,
    "prototypes": "epoch",
    "granularity": (1.0, 1.5, 2.0),
    "warmup_epochs": 1,
    "optimizer": "AdamW",
    "lr": 1e-2,
    "encoder_lr": 0.3,
    "weight_decay": 0.5,
    "one_cycle": True,
    "decoded_genes": 0.5,
}


def literal_pretraining(setting, recorded, o, near, graph):
    p = {name: value.requires_grad_() for name, value in setting.start.items()}
    optimizer = Optimizer(p, list(p), o, sum(map(len, recorded)))
    numbers = [3, 4, 6][: len(o["granularity"])] if o["granularity"] else o["n_prototypes"]
    centers, found = {}, []

    def prototypes():
        """Means of the unit projections of the groups of all cells, and the groups."""
        with torch.no_grad():
            z, _ = encode(p, setting.cells, graph=graph)
            unit = normalize(project(p, z) if o["projection"] else z, dim=1)
            groups = []
            for k in numbers:
                result = kmeans(normalize(z, dim=1), k, n_init=10, init=centers.get(k), seed=SEED)
                centers[k] = result.centers
                groups.append(result.labels)
            return [(torch.stack([unit[own == c].mean(0) for c in range(int(own.max()) + 1)]), own) for own in groups]

    for epoch, steps in enumerate(recorded):
        generator = cpu_generator(SEED, 1, epoch)
        for index, _ in steps:
            cells = setting.cells[index]
            masks = draw_masks(generator, neighbor_keep=o["neighbor_keep"], feature_drop=o["feature_drop"])
            z = [encode(p, cells, each, graph=graph)[0] for each in masks]
            genes = slice(None)
            if o["decoded_genes"] < 1:
                genes = torch.randperm(N_GENES, generator=generator)[: int(o["decoded_genes"] * N_GENES)]
            loss = sum(zinb(p, cells, each, genes) for each in z) / 2
            views = [project(p, each) for each in z] if o["projection"] else z
            if o["lambda_instance"]:
                loss = loss + o["lambda_instance"] * instance(
                    views, o["tau"], None if near is None else near[index][:, index]
                )
            if not o["lambda_instance"] and o["lambda_prototype"] and epoch < o["warmup_epochs"]:
                loss = loss + 0.0 * sum(views).sum()  # weights decay
            if o["lambda_prototype"] and epoch >= o["warmup_epochs"]:
                if o["prototypes"] == "batch":  # published: of the second view's own vectors, pulling the first view
                    rows, seed = views[1].detach(), int(torch.randint(2**31, (), generator=generator))
                    groups = [kmeans(rows, k, n_init=20, seed=seed).labels for k in numbers]
                    now = [
                        (torch.stack([rows[own == c].mean(0) for c in range(k)]), own)
                        for own, k in zip(groups, numbers, strict=True)
                    ]
                    pulled = views[:1]
                else:
                    now, pulled = [(centre, own[index]) for centre, own in found], views
                losses = [
                    cross_entropy(normalize(each, dim=1) @ normalize(centre, dim=1).t() / o["tau"], own)
                    for centre, own in now
                    for each in pulled
                ]
                loss = loss + o["lambda_prototype"] * sum(losses) / len(losses)
            optimizer.step(loss)
            yield p
        if o["prototypes"] == "epoch" and o["lambda_prototype"]:
            found = prototypes()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"projection": False},
        {"n_neighbors": 0},
        {"lambda_instance": 0.0},
        {"lambda_instance": 3.0, "lambda_prototype": 0.0},
        {"lambda_prototype": 4.0, "granularity": (1.0,)},
        {"granularity": None, "n_prototypes": (5, 7)},
        {"lambda_instance": 0.0, "lambda_prototype": 0.0},
        {"weight_decay": 0.0},
        {"one_cycle": False},
        {"encoder_lr": 1.0},
        {"decoded_genes": 1.0},
        {"tau": 1.0},
        {"neighbor_keep": 1.0, "feature_drop": 0.0},
        {"optimizer": "Adadelta", "lr": 1.0},
        {"prototypes": "batch", "projection": False},
        {"use_graph": False},
    ],
    ids=str,
)
def test_pre_training(setting, change):
    o = {**PRETRAIN, **change}
    graph = o.pop("use_graph", True)
    here = setting(use_graph=graph)
    near = None
    x = here.cells.features[:, :8]
    if o["n_neighbors"]:
        nearest = (normalize(x, dim=1) @ normalize(x, dim=1).t()).fill_diagonal_(-2.0).argsort(1, descending=True)
        near = torch.zeros(N_CELLS, N_CELLS, dtype=x.dtype).scatter_(1, nearest[:, : o["n_neighbors"]], 1.0)
        near = torch.maximum(near, near.t())
    plan = PretrainPlan(here.module, seed=SEED, n_clusters=N_CLUSTERS, **o)
    if o["n_neighbors"]:
        plan.neighborhood = neighborhood(x, o["n_neighbors"])
    here.start = parameters(here.module)
    update = PrototypeUpdate(here.splitter, n_clusters=N_CLUSTERS, agreement=None, patience=1, seed=SEED)
    recorded = fitted(here, plan, [update], 3)
    assert_steps(recorded, literal_pretraining(here, recorded, o, near, graph), rtol=1e-7, atol=1e-8)


# ---- self-training

SELF_TRAINING = {
    "alpha": 3.0,
    "shrinkage": 0.5,
    "neighbor_keep": 0.75,
    "feature_drop": 0.25,
    "lambda_reconstruction": 2.0,
    "optimizer": "AdamW",
    "lr": 1e-2,
    "encoder_lr": 0.3,
    "weight_decay": 0.5,
    "one_cycle": True,
    "decoded_genes": 0.5,
}


def literal_self_training(setting, recorded, o):
    p = {name: value.requires_grad_() for name, value in setting.start.items()}
    trained = [name for name in p if not name.startswith("projection.")]
    optimizer = Optimizer(p, trained, o, sum(map(len, recorded)))
    for epoch, steps in enumerate(recorded):
        with torch.no_grad():  # all cells, unmasked
            q = assign(shrunk(encode(p, setting.cells)[0], o["shrinkage"]), p["centers"], o["alpha"])
            target = q**2 / q.sum(0)
            target = target / target.sum(1, keepdim=True)
        generator = cpu_generator(SEED, 2, epoch)
        for index, _ in steps:
            cells, masks = setting.cells[index], None
            if o["neighbor_keep"] < 1 or o["feature_drop"] > 0:
                options = {name: o[name] for name in ("neighbor_keep", "feature_drop")}
                (masks,) = draw_masks(generator, n_views=1, **options)
            z = encode(p, cells, masks)[0]
            genes = slice(None)
            if o["decoded_genes"] < 1:
                genes = torch.randperm(N_GENES, generator=generator)[: int(o["decoded_genes"] * N_GENES)]
            q = assign(shrunk(z, o["shrinkage"]), p["centers"], o["alpha"])
            optimizer.step(divergence(target[index], q) + o["lambda_reconstruction"] * zinb(p, cells, z, genes))
            yield p


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"alpha": 1.0},
        {"shrinkage": 0.0},
        {"shrinkage": 1.0},
        {"neighbor_keep": 1.0, "feature_drop": 0.0},
        {"feature_drop": 0.0},
        {"lambda_reconstruction": 0.0},
        {"weight_decay": 0.0},
        {"one_cycle": False},
        {"encoder_lr": 1.0},
        {"decoded_genes": 1.0},
        {"optimizer": "Adadelta", "lr": 1.0},
    ],
    ids=str,
)
def test_self_training(setting, change):
    """From the centres that k-means finds, in all cells at every epoch, with the target of the assignment before it."""
    o = {**SELF_TRAINING, **change}
    here = setting()
    plan = ClusterPlan(here.module, seed=SEED, **o)
    here.start = parameters(here.module)
    run = Run(
        here.module,
        here.splitter,
        QUIET,
        seed=SEED,
        axes=SimpleNamespace(start=None, principal=None),
        n_clusters=N_CLUSTERS,
    )
    run.place_centers(plan, false_splits=0.01)
    with torch.no_grad():
        z = shrunk(encode(here.start, here.cells)[0], o["shrinkage"])
    found = kmeans(z, N_CLUSTERS, n_init=20, seed=derived_seed(SEED, 21))
    centers = here.module.centers.detach().clone()
    order = torch.cdist(centers, found.centers).argmin(1)  # equally large clusters come in any order
    torch.testing.assert_close(centers, found.centers[order])
    assert (torch.bincount(found.labels)[order].diff() <= 0).all()
    here.start["centers"] = centers
    recorded = fitted(here, plan, [TargetUpdate(here.splitter, tol=0.0)], 3)
    assert_steps(recorded, literal_self_training(here, recorded, o), rtol=1e-7, atol=1e-8)


# ---- distillation

DISTILLATION = {
    "alpha": 5.0,
    "shrinkage": 0.5,
    "depth": 0.1,
    "optimizer": "AdamW",
    "lr": 1e-2,
    "weight_decay": 0.5,
    "one_cycle": True,
}


def corrected(weight, z, size):
    """Latent vectors corrected for the depth of their cells."""
    t, n = size.log().clamp(max=0.0)[:, None], z.shape[1]
    a1, b1, a2, b2 = weight.split([n, 1, n, 1])
    return z + t * (z @ a1 + b1) + t**2 * (z @ a2 + b2)


class Distillation:
    """The stage on dense matrices, with its encoder as it was and centres that it moves itself."""

    def __init__(self, setting, o):
        self.setting, self.o, self.p = setting, o, parameters(setting.module)
        self.norm = Norms(self.p)
        self.z, self.gene1 = encode(self.p, setting.cells, norm=self.norm)
        self.weight = torch.zeros(2 * (N_LATENT + 1), N_LATENT)

    def fewer(self, index, share, generator):
        """Cells whose molecules are kept with a probability, that of their cell, drawn edge by edge."""
        cells = self.setting.cells[index]
        counts, (row, gene) = torch.zeros_like(cells.counts), cells.counts.nonzero(as_tuple=True)
        counts[row, gene] = torch.binomial(cells.counts[row, gene], share[row], generator=generator)
        return dense(self.setting.module, counts, share * cells.size)

    def latent(self, cells):
        return encode(self.p, cells, norm=Norms(self.p, self.norm.moments), gene1=self.gene1)[0]

    def represent(self, z, size):
        return shrunk(corrected(self.weight, z, size), self.o["shrinkage"])

    def fit_depth(self):
        """Ridge regression of the whole cells on their thinnings."""
        rows, wanted = [], []
        for draw in range(_read_out.N_DEPTH_DRAWS):
            generator = cpu_generator(0, 25, draw)
            cells = self.fewer(slice(None), self.o["depth"] ** torch.rand(N_CELLS, generator=generator), generator)
            z, t = self.latent(cells).double(), cells.size.log().clamp(max=0.0)[:, None].double()
            x = torch.cat([z, torch.ones(N_CELLS, 1)], 1)
            rows.append(torch.cat([t * x, t**2 * x], 1))
            wanted.append(self.z.double() - z)
        x, y = torch.cat(rows), torch.cat(wanted)
        ridge = 1e-3 * x.square().sum(0).mean()
        self.weight = torch.linalg.solve(x.t() @ x + ridge * torch.eye(x.shape[1]), x.t() @ y).float()

    def place(self, axes):
        """Targets from the partitions of the trained space, the components and five draws of the molecules; the centres."""
        size = self.setting.cells.size
        self.fit_depth()
        centred = lambda cells: (s := cells.features @ axes.t()) - s.mean(0)
        draws = [corrected(self.weight, self.z, size), centred(self.setting.cells)]
        for draw in range(5):
            generator = cpu_generator(0, 24, draw)
            torch.rand(N_CELLS, generator=generator)  # of the shares, all of which are the same here
            draws.append(centred(self.fewer(slice(None), torch.full((N_CELLS,), 0.7), generator)))
        support = Evidence.of(draws, N_CLUSTERS, seed=0).support(N_CLUSTERS)
        support = support[:, torch.bincount(support.argmax(1), minlength=N_CLUSTERS).argsort(descending=True)]
        power = (32 * (support.log() - support.max(1, keepdim=True).values.log())).exp().clamp(min=1e-6)
        self.target = power / power.sum(1, keepdim=True)
        self.rows = self.represent(self.z, size)

    def misfit(self, centers):
        """Divergence of the targets, and the distance from their means with the weight of one cell; its gradient's norm."""
        rows, target = self.rows.double(), self.target.double()
        means = (target.t() @ rows) / target.sum(0)[:, None]
        centers = (means if centers is None else centers.detach().double()).clone().requires_grad_()
        loss = divergence(target, assign(rows, centers, self.o["alpha"]))
        loss = loss + (centers - means).square().sum() / len(rows)
        return torch.autograd.grad(loss, centers)[0].norm().item()

    def steps(self, recorded):
        p, o = self.p, {**self.o, "encoder_lr": 1.0}
        optimizer = Optimizer(p, ["centers"], o, sum(map(len, recorded)))
        for epoch, steps in enumerate(recorded):
            generator = cpu_generator(SEED, 2, epoch)
            for index, _ in steps:
                cells = self.fewer(index, o["depth"] ** torch.rand(len(index), generator=generator), generator)
                both = self.rows[index], self.represent(self.latent(cells), cells.size)
                losses = [divergence(self.target[index], assign(z, p["centers"], o["alpha"])) for z in both]
                optimizer.step(sum(losses) / 2)
                yield p


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"alpha": 30.0},
        {"shrinkage": 0.0},
        {"shrinkage": 1.0},
        {"depth": 0.5},
        {"weight_decay": 0.0},
        {"one_cycle": False},
        {"optimizer": "Adadelta", "lr": 1.0},
    ],
    ids=str,
)
def test_distillation(setting, change):
    """From the consensus of all partitions to the centres that learn it from cells of any depth."""
    o = {**DISTILLATION, **change}
    here = setting(torch.float32)
    axes = torch.linalg.svd(here.cells.features, full_matrices=False)[2][:5]
    plan = DistillationPlan(here.module, seed=SEED, **o)
    literal = Distillation(here, o)
    run = Run(
        here.module,
        here.splitter,
        QUIET,
        seed=SEED,
        axes=SimpleNamespace(start=axes.numpy(), principal=axes.numpy()),
        n_clusters=N_CLUSTERS,
    )
    run.place_centers(plan, false_splits=0.01)
    literal.place(axes)
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(plan.latent, literal.rows, **close)
    torch.testing.assert_close(plan.target, literal.target, **close)
    assert here.module.depth.weight.abs().max() > 0.01
    assert literal.misfit(here.module.centers) < 1e-3 * literal.misfit(None)
    plan.target[:10] = torch.eye(N_CLUSTERS)[torch.arange(10) % N_CLUSTERS]  # certain cells, whose targets have zeros
    literal.weight, literal.rows, literal.target = here.module.depth.weight, plan.latent, plan.target
    literal.p["centers"] = here.module.centers.detach().clone().requires_grad_()
    recorded = fitted(here, plan, [], 3)
    assert_steps(recorded, literal.steps(recorded), rtol=1e-4, atol=1e-5)


def test_centres_that_explain_the_targets_stay(setting, monkeypatch):
    """By default, nothing but the targets moves the centres, such as a decay towards the origin."""
    monkeypatch.setattr(_plans, "thinned", lambda batch, share, generator: batch)
    here = setting()
    module = here.module
    plan = DistillationPlan(module, seed=SEED, optimizer="Adadelta", lr=1.0)  # AdamW magnifies rounding errors
    z = encode_all(module, here.splitter)
    plan.cells, plan.latent = torch.arange(N_CELLS), module.represent(z, here.cells.size).detach()
    plan.target = module.soft_assign(plan.latent).detach()
    before = module.centers.detach().clone()
    fitted(here, plan, [], 5)
    torch.testing.assert_close(module.centers.detach(), before, rtol=1e-5, atol=1e-5)
    plan.target = plan.target.roll(1, 0)  # others move them
    fitted(here, plan, [], 1)
    assert (module.centers - before).abs().min() > 1e-4


# ---- the decoder alone


def literal_decoder(setting, recorded, z, o):
    p = {name: value.requires_grad_() for name, value in setting.start.items()}
    options = {**o, "optimizer": "AdamW", "one_cycle": False, "encoder_lr": 1.0}
    optimizer = Optimizer(p, [name for name in p if name.startswith("decoder.")], options, sum(map(len, recorded)))
    for epoch, steps in enumerate(recorded):
        generator = cpu_generator(SEED, 3, epoch)
        for index, _ in steps:
            noise = torch.randn(len(index), N_LATENT, generator=generator)
            genes = slice(None)
            if o["decoded_genes"] < 1:
                genes = torch.randperm(N_GENES, generator=generator)[: int(o["decoded_genes"] * N_GENES)]
            optimizer.step(zinb(p, setting.cells[index], z[index] + o["noise"] * z.std(0) * noise, genes))
            yield p


@pytest.mark.parametrize("change", [{}, {"noise": 0.0}, {"weight_decay": 0.0}, {"decoded_genes": 1.0}], ids=str)
def test_decoder(setting, change):
    o = {"noise": 0.5, "lr": 1e-2, "weight_decay": 0.5, "decoded_genes": 0.5, **change}
    here = setting()
    here.start = parameters(here.module)
    z = encode(here.start, here.cells)[0]
    plan = DecoderPlan(here.module, seed=SEED, z=z, batch_index=None, **o)
    recorded = fitted(here, plan, [], 2)
    assert_steps(recorded, literal_decoder(here, recorded, z, o), rtol=1e-7, atol=1e-8)
