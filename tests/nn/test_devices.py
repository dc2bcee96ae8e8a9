"""Every tensor of a step is made where the module is, shown with torch's device without data."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scgpcl.data import BipartiteBatch, bipartite_batch
from scgpcl.module import SCGPCLModule
from scgpcl.nn import _aggregate, clustering_loss, instance_loss, prototype_loss, target_distribution

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


@pytest.fixture(autouse=True)
def _products_without_data(monkeypatch):
    """Sparse matrices have no version without data; the product makes its result beside the dense factor."""
    monkeypatch.setattr(_aggregate, "_product", lambda csr, dense: dense.new_empty(csr[0].shape[0] - 1, dense.shape[1]))


@pytest.mark.parametrize("n_batch", [0, 2])
@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
@pytest.mark.parametrize("reconstruction", ["zinb", "mse"])
def test_a_step_makes_everything_on_the_modules_device(block, n_batch, dispersion, reconstruction):
    module = SCGPCLModule(
        N_GENES, 3, n_hidden=8, n_latent=4, n_batch=n_batch, dispersion=dispersion, reconstruction=reconstruction
    ).to("meta")
    view = module.draw_view(torch.Generator().manual_seed(0))
    assert {mask.device.type for mask in view} == {"meta"}
    labels = [torch.zeros(N_CELLS, dtype=torch.int64, device="meta")]
    prototypes = [torch.zeros(3, 4, device="meta")]
    with Elsewhere() as elsewhere:
        encoded = module.inference(block, view)
        z = encoded["z"]
        loss = module.reconstruction_loss(block, z, encoded["features"])
        loss = loss + instance_loss(module.project(z), tau=0.25, batch_index=block.batch_index)
        loss = loss + prototype_loss(z, prototypes, labels, tau=0.25)
        q = module.soft_assign(module.shorten(z[:, 0]))
        (loss + clustering_loss(q, target_distribution(q.detach()))).backward()
    assert elsewhere.made == []
    assert elsewhere.waited == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_finds_the_groups_too(adata, fit):
    from sklearn.metrics import adjusted_rand_score

    fit(adata, train={"pretrain_max_epochs": 8, "accelerator": "gpu", "devices": 1})
    assert adjusted_rand_score(adata.obs["group"], adata.obs["scgpcl_cluster"]) > 0.9
