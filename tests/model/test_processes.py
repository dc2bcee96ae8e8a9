"""Training on several processes: the same model everywhere, and each cell once per epoch."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl.data import EvenBatchSampler
from scgpcl.train import from_first

TRAIN = {"pretrain_max_epochs": 8, "cluster_max_epochs": 2, "batch_size": 16, "accelerator": "cpu", "label_tol": 0.0}
TRAIN |= {"enable_progress_bar": False, "pretrain_plan_kwargs": {"warmup_epochs": 2}}

SCRIPT = """
    import json, sys, warnings
    warnings.simplefilter("ignore")
    import anndata as ad, lightning.pytorch as pl, numpy as np, torch
    import scgpcl

    class Seen(pl.Callback):
        def __init__(self):
            self.epochs = []

        def on_train_epoch_start(self, trainer, plan):
            self.epochs.append([])

        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            self.epochs[-1].append(batch.cell_index.tolist())

    class Spoil(pl.Callback):
        def on_train_epoch_start(self, trainer, plan):
            if trainer.global_rank == 1:
                next(plan.module.encoder.parameters()).data.fill_(float("nan"))

    def make(order, **more):
        adata = ad.read_h5ad("cells.h5ad")[order].copy()
        scgpcl.SCGPCL.setup_anndata(adata)
        return scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8, **more)

    def refusal(model, **more):
        try:
            model.train(**{**train, **more})
        except Exception as error:
            return type(error).__name__ + ": " + str(error)

    if __name__ == "__main__":
        train = json.loads(sys.argv[1])
        model, seen = make(range(120)), Seen()
        model.train(**train, callbacks=[seen])
        rank = model.trainer.global_rank
        model.save("model")
        found = {
            "seen": seen.epochs,
            "labels": model.predict().tolist(),
            "written": model.adata.obs["scgpcl_cluster"].tolist(),
            "latent": model.get_latent_representation().tolist(),
            "history": {name: table[name].tolist() for name, table in model.history_.items()},
            "denoised": model.get_normalized_expression(indices=[3]).to_numpy().tolist(),
        }
        if train["strategy"] == "ddp":
            shuffled = np.random.default_rng(rank).permutation(120)
            found["other cells"] = refusal(make(shuffled))
            found["no number"] = refusal(model, callbacks=[Spoil()])
            less = {"pretrain_plan_kwargs": {"lambda_instance": 0.0, "warmup_epochs": 1}, "clustering": "self_training"}
            found["no gradients"] = refusal(make(range(120), use_graph=False), **less, max_epochs=2)
        with open(f"found{rank}.json", "w") as file:
            json.dump(found, file)
"""


def run(adata, folder, strategy) -> list[dict]:
    """Results of the script by process."""
    adata.write_h5ad(folder / "cells.h5ad")
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    env |= {"PYTHONPATH": str(Path(scgpcl.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = json.dumps({**TRAIN, "strategy": strategy, "devices": 2})
    done = subprocess.run(
        [sys.executable, str(script), arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("found*.json"))]


@pytest.fixture
def reference(adata, fit):
    """Labels of one process."""
    fit(adata, train=TRAIN)
    return adata.obs["scgpcl_cluster"].to_numpy()


@pytest.mark.slow
def test_two_processes_train_one_model(adata, reference, tmp_path):
    first, second = run(adata, tmp_path, "ddp")
    for name in ("labels", "written", "latent", "history", "denoised"):
        assert first[name] == second[name], name
    assert first["labels"] == first["written"]
    assert len(first["seen"]) == len(second["seen"]) == len(first["history"]["stage"])
    for epoch in zip(first["seen"], second["seen"], strict=True):
        assert len(epoch[0]) == len(epoch[1]) == 4  # 8 batches of 15 cells
        assert sorted(cell for process in epoch for cells in process for cell in cells) == list(range(120))
    assert set(first["history"]["stage"]) == {1, 2}
    assert adjusted_rand_score(adata.obs["group"], first["labels"]) > 0.9
    assert adjusted_rand_score(reference, first["labels"]) > 0.9
    for found in (first, second):
        assert found["other cells"].startswith("ValueError: Expected the same cells and genes in the same order")
        assert found["no number"].startswith("FloatingPointError: Expected finite losses")
        assert (
            found["no gradients"] is None
        )  # of messages that are not sent, and of a projection that is not compared yet
    loaded = scgpcl.SCGPCL.load(tmp_path / "model", ad.read_h5ad(tmp_path / "cells.h5ad"), accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(), first["labels"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "cells.h5ad", "script.py", "model", "found0.json", "found1.json",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="notebooks fork, which is safe on Linux only")
def test_the_notebook_strategy_gives_one_model_with_its_history(adata, reference, tmp_path):
    (found,) = run(adata, tmp_path, "ddp_notebook")
    assert adjusted_rand_score(reference, found["labels"]) > 0.9
    assert found["history"]["stage"] == [1] * (len(found["history"]["stage"]) - 2) + [2] * 2
    assert len(found["history"]["train_loss_epoch"]) == len(found["history"]["stage"])


@pytest.mark.parametrize(("n_cells", "batch_size", "n_ranks"), [(120, 16, 2), (121, 256, 2), (7, 2, 3), (1000, 9, 4)])
def test_processes_share_all_cells_evenly(n_cells, batch_size, n_ranks):
    index = np.arange(n_cells)
    samplers = [EvenBatchSampler(index, batch_size, seed=0, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    for _ in range(2):
        batches = [list(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [len(own) for own in batches] == [len(batches[0])] * n_ranks
        sizes = [len(cells) for own in batches for cells in own]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 2
        assert max(sizes) <= batch_size or max(sizes) <= 3
        np.testing.assert_array_equal(np.sort(np.concatenate([c for own in batches for c in own])), index)


def test_too_few_cells_for_the_processes_are_refused():
    with pytest.raises(ValueError, match="Expected at least 2 cells for each of 3 processes, found 5. Use fewer"):
        EvenBatchSampler(np.arange(5), 2, rank=0, n_ranks=3)


class Strategy:
    """Two processes in one: what the first sends is what the second gets."""

    def __init__(self):
        self.sent = None

    def broadcast(self, value):
        self.sent = value if value else self.sent
        return self.sent


def test_others_take_result_and_buffers_of_the_first_and_hear_of_its_failure(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    strategy = Strategy()
    trainers = [SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy) for rank in (0, 1)]
    modules = [torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)]
    for module in modules:
        module.gene_mean = torch.zeros(2)

    def fit():
        modules[0].running_mean.fill_(5.0)
        return {"labels": torch.arange(3), "k": 2}

    def never():
        pytest.fail("the second process computes nothing")

    for trainer, module, compute in zip(trainers, modules, (fit, never), strict=True):
        found = from_first(trainer, module, compute)
        assert found["labels"].tolist() == [0, 1, 2]
        assert found["k"] == 2
    assert modules[1].running_mean.tolist() == [5.0] * 3

    def fail():
        msg = "the disk is gone"
        raise OSError(msg)

    with pytest.raises(OSError, match="the disk is gone"):
        from_first(trainers[0], modules[0], fail)
    with pytest.raises(RuntimeError, match=r"Expected a result of the first process, .*OSError: the disk is gone"):
        from_first(trainers[1], modules[1], never)
