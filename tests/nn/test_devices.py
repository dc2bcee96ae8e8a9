"""Every tensor of a step is made where the module is, shown with torch's device without data."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scgpcl.cluster import kmeans
from scgpcl.data import BipartiteBatch, BipartiteSplitter, Cells, bipartite_batch
from scgpcl.module import SCGPCLModule
from scgpcl.nn import Neighborhood, _graph, clustering_loss, instance_loss, prototype_loss, target_distribution
from scgpcl.train import ClusterPlan, DistillationPlan, PretrainPlan

N_CELLS, N_GENES = 30, 20


class Elsewhere(TorchDispatchMode):
    """Operations inside a block that make a tensor on the CPU, and those that read a number back from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []
        self.waited: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.waited.append(str(func))
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor) and made.device.type == "cpu":
                self.made.append(str(func))
        return result


def on_meta(batch: BipartiteBatch) -> BipartiteBatch:
    graph = type(batch.graph)(*(t.to("meta") for t in batch.graph))
    moved = {name: value.to("meta") for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    return batch._replace(graph=graph, **moved)


@pytest.fixture
def block():
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(0.5, (N_CELLS, N_GENES)).astype(np.float32))
    return on_meta(bipartite_batch(counts, np.ones(N_CELLS), np.arange(N_CELLS), np.arange(N_CELLS) % 2))


@pytest.fixture
def _products_without_data(monkeypatch):
    """Sparse matrices have no version without data; the product makes its result beside the dense factor."""
    monkeypatch.setattr(_graph, "_product", lambda csr, dense: dense.new_empty(csr[0].shape[0] - 1, dense.shape[1]))


@pytest.mark.usefixtures("_products_without_data")
@pytest.mark.parametrize("n_batch", [0, 2])
@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_a_step_makes_everything_on_the_modules_device(block, n_batch, dispersion):
    module = SCGPCLModule(
        N_GENES, 3, n_hidden=8, n_latent=4, n_batch=n_batch, dispersion=dispersion, use_graph=True
    ).to("meta")
    view = PretrainPlan(module, seed=0, n_clusters=3).views(2)
    assert {mask.device.type for mask in view} == {"meta"}
    labels = [torch.zeros(N_CELLS, dtype=torch.int64, device="meta")]
    prototypes = [torch.zeros(3, 4, device="meta")]
    with Elsewhere() as elsewhere:
        encoded = module.inference(block, view)
        z = encoded["z"]
        loss = module.reconstruction_loss(block, z)
        loss = loss + instance_loss(module.projection(z), tau=0.25, batch_index=block.batch_index)
        loss = loss + prototype_loss(z, prototypes, labels, tau=0.25)
        q = module.soft_assign(module.represent(z[:, 0], block.size_factor))
        (loss + clustering_loss(q, target_distribution(q.detach()))).backward()
    assert elsewhere.made == []
    assert elsewhere.waited == []


@pytest.mark.usefixtures("_products_without_data")
@pytest.mark.parametrize("stage", [1, 2])
def test_a_training_step_makes_nothing_elsewhere_and_does_not_wait(block, stage, monkeypatch):
    module = SCGPCLModule(N_GENES, 3, n_hidden=8, n_latent=4, n_batch=2, dispersion="gene", use_graph=True).to("meta")
    view = PretrainPlan(module, seed=0, n_clusters=3).views(2)  # its numbers are the CPU's, the same on every device
    monkeypatch.setattr(PretrainPlan, "views", lambda plan, n_views: view)
    if stage == 1:
        unit, radius = torch.zeros(N_CELLS, 5, device="meta"), torch.zeros(N_CELLS, device="meta")
        near = Neighborhood(unit, radius)
        # the edges of some genes are counted on the host, so a step with fewer genes waits once
        plan = PretrainPlan(module, n_clusters=3, seed=0, neighborhood=near, warmup_epochs=0, decoded_genes=1.0)
        plan.prototypes = [torch.zeros(3, 4, device="meta")]
        plan.prototype_labels = [torch.zeros(N_CELLS, dtype=torch.int64, device="meta")]
    else:
        plan = ClusterPlan(module, seed=0)
        plan.target = torch.zeros(N_CELLS, 3, device="meta")
    plan._trainer = SimpleNamespace(is_last_batch=False, current_epoch=0)
    with Elsewhere() as elsewhere:
        plan.training_step(block, 0).backward()
    assert elsewhere.made == []
    assert elsewhere.waited == []
    assert len(plan.step_losses) == 4 - stage  # instance, prototype and reconstruction, or clustering and the last


#: Tensors of each plan that its checkpoints hold.
HELD = {
    PretrainPlan: ("prototypes", "prototype_labels", "named_prototypes"),
    DistillationPlan: ("cells", "target", "latent", "accuracy"),
    ClusterPlan: ("target",),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("plan", HELD)
def test_tensors_of_a_checkpoint_are_restored_on_the_modules_device(plan, device):
    module = SCGPCLModule(N_GENES, 3, n_hidden=8, n_latent=4, n_batch=0, dispersion="gene", use_graph=True)
    arguments = {"seed": 0, **({"n_clusters": 3} if plan is PretrainPlan else {})}
    saved, checkpoint = plan(module, **arguments), {}
    for number, name in enumerate(HELD[plan]):
        value = torch.full((number + 2,), float(number))
        setattr(saved, name, [value, -value] if plan is PretrainPlan else value)
    saved.on_save_checkpoint(checkpoint)
    restored = plan(module.to(device), **arguments)
    restored.on_load_checkpoint(checkpoint)
    for name in HELD[plan]:
        found, wanted = (getattr(each, name) for each in (restored, saved))
        found, wanted = (value if isinstance(value, list) else [value] for value in (found, wanted))
        assert {value.device.type for value in found} == {device}
        assert [value.shape for value in found] == [value.shape for value in wanted]
        if device == "cpu":
            assert all(map(torch.equal, found, wanted))


def tensors(batch) -> list[Tensor]:
    return [*batch.graph, *(value for value in batch if isinstance(value, Tensor))]


@pytest.fixture
def splitter(counts):
    n_cells = counts.shape[0]
    source = Cells(counts, np.ones(n_cells), batch_index=np.arange(n_cells) % 2)
    return BipartiteSplitter(source, seed=0, batch_size=30, train_size=0.8)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_are_pinned_for_cuda_only(splitter, kind):
    strategy = SimpleNamespace(root_device=torch.device(kind))
    splitter.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1)
    for loader in (splitter.train_dataloader(), splitter.val_dataloader()):
        assert loader.pin_memory is (kind == "cuda")


def test_the_trainer_moves_every_part_of_a_batch(splitter):
    batch = next(iter(splitter.train_dataloader()))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert len(tensors(moved)) == len(tensors(batch)) == 9
    assert {part.device.type for part in tensors(moved)} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_part_of_a_batch_is_pinned(splitter):
    for batch in splitter.batches(device="cuda"):
        assert all(part.is_pinned() for part in tensors(batch))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_step_on_a_gpu_does_not_wait(splitter):
    module = SCGPCLModule(
        splitter.source.rows(np.arange(1)).shape[1],
        3,
        n_hidden=8,
        n_latent=4,
        dispersion="gene",
        use_graph=True,
        n_batch=2,
    ).cuda()
    # a step with fewer genes waits once, to count their edges
    plan = PretrainPlan(module, n_clusters=3, seed=0, lambda_prototype=0.0, decoded_genes=1.0)
    plan._trainer = SimpleNamespace(is_last_batch=False, current_epoch=0)
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    splitter.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1)
    for step, batch in enumerate(splitter.train_dataloader()):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step sets up the libraries
        try:
            plan.training_step(move_data_to_device(batch, torch.device("cuda")), step).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_finds_the_groups_too(adata, fit):
    from sklearn.metrics import adjusted_rand_score

    fit(adata, train={"pretrain_max_epochs": 8, "accelerator": "gpu", "devices": 1})
    assert adjusted_rand_score(adata.obs["group"], adata.obs["scgpcl_cluster"]) > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kmeans_and_the_read_out_give_the_same_labels_on_a_gpu(counts, adata, fit):
    x = torch.from_numpy(counts.toarray())
    here, there, again = kmeans(x, 3, seed=1), kmeans(x.cuda(), 3, seed=1), kmeans(x.cuda(), 3, seed=1)
    assert torch.equal(here.labels, there.labels.cpu())
    assert torch.equal(there.centers, again.centers)
    labels = []
    for where in ({"accelerator": "cpu"}, {"accelerator": "gpu", "devices": 1}):
        fit(adata, train={"pretrain_max_epochs": 0, **where})
        labels.append(adata.obs["scgpcl_cluster"].tolist())
    assert labels[0] == labels[1]
