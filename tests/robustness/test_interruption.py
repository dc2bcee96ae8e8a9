"""Training and saving that end half-way: nothing is half done, nothing is lost, and a run can go on."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

import scgpcl
from scgpcl import _keys
from scgpcl.train import Run

RUN = {
    "pretrain_max_epochs": 3,
    "cluster_max_epochs": 3,
    "batch_size": 32,
    "label_tol": 0.0,
    "accelerator": "cpu",
    "enable_progress_bar": False,
}


class At(pl.Callback):
    """Do something in the second step of an epoch of a stage."""

    def __init__(self, stage, epoch, act):
        self.place, self.act = (stage, epoch), act

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (pl_module.stage, trainer.current_epoch) == self.place and batch_idx == 1:
            self.act()


def fail():
    msg = "a defect in a callback"
    raise RuntimeError(msg)


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained_whole(cells, build):
    """Models of whole runs by the name of the second stage."""
    models = {}
    for clustering in ("distillation", "self_training"):
        models[clustering] = build(cells())
        models[clustering].train(**RUN, clustering=clustering)
    return models


@pytest.fixture
def uninterrupted(trained_whole):
    return trained_whole["distillation"]


STAGES = pytest.mark.parametrize(
    ("stage", "clustering"), [(1, "distillation"), (2, "distillation"), (2, "self_training")]
)


def same(model, other) -> None:
    np.testing.assert_array_equal(model.get_latent_representation(), other.get_latent_representation())
    np.testing.assert_array_equal(model.predict(soft=True), other.predict(soft=True))
    assert set(model.history_) == set(other.history_)
    for name, table in other.history_.items():
        pd.testing.assert_frame_equal(model.history_[name], table)


@STAGES
@pytest.mark.parametrize(
    ("act", "error"),
    [(fail, RuntimeError), (interrupt, KeyboardInterrupt), (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit)],
    ids=["exception", "Ctrl-C", "SIGTERM"],
)
def test_an_interrupted_run_annotates_nothing_and_goes_on_bit_for_bit(
    cells, build, trained_whole, tmp_path, act, error, stage, clustering
):
    run = {**RUN, "clustering": clustering}
    adata, path = cells(), tmp_path / "run.ckpt"
    model = build(adata)
    columns, handler = (list(adata.obs), list(adata.obsm), list(adata.uns)), signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        model.train(**run, checkpoint=path, callbacks=[At(stage, 1, act)])
    assert (list(adata.obs), list(adata.obsm), list(adata.uns)) == columns
    assert signal.getsignal(signal.SIGINT) is handler  # Ctrl-C still works
    done = model.history_[_keys.STAGE][_keys.STAGE].tolist()
    whole = 2 if error is SystemExit else 1  # SIGTERM lets the step end, which is the epoch's last here
    assert done == ([1] * whole if stage == 1 else [1] * 3 + [2] * whole)
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]

    again = build(cells())
    again.train(**run, resume_from=path)
    same(again, trained_whole[clustering])


@pytest.mark.parametrize("step", ["place_centers", "cluster"])
@pytest.mark.parametrize("before", [False, True], ids=["the first time", "again"])
def test_a_model_is_trained_only_once_its_clusters_are_found(cells, build, monkeypatch, refused, step, before):
    model = build(cells())
    if before:
        model.train(**RUN)
    with monkeypatch.context() as patched:
        patched.setattr(Run, step, lambda *args, **kwargs: interrupt())
        with pytest.raises(KeyboardInterrupt):
            model.train(**RUN)
    assert not model.is_trained_
    assert model.history_
    for act in (model.predict, model.annotate, model.get_tree, model.get_latent_representation):
        with refused(model.adata, RuntimeError, "training has not finished", "model.train()"):
            act()
    model.train(**RUN)
    assert set(model.predict()) == {"0", "1", "2"}


def test_a_training_that_fails_before_it_begins_leaves_the_model_trained(cells, build, monkeypatch):
    model = build(cells())
    model.train(**RUN)
    labels = model.predict()
    monkeypatch.setattr(Run, "pretrain", lambda *args, **kwargs: interrupt())
    with pytest.raises(KeyboardInterrupt):
        model.train(**RUN)
    np.testing.assert_array_equal(model.predict(), labels)


@pytest.mark.parametrize("clustering", ["distillation", "self_training"])
def test_a_finished_stage_one_is_not_repeated(cells, build, trained_whole, tmp_path, clustering):
    path, run = tmp_path / "run.ckpt", {**RUN, "clustering": clustering}
    with pytest.raises(RuntimeError):
        build(cells()).train(**run, checkpoint=path, callbacks=[At(2, 0, fail)])
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append((pl_module.stage, trainer.current_epoch))

    again = build(cells())
    again.train(**run, resume_from=path, callbacks=[Watch()])
    assert seen == [(2, 0), (2, 1), (2, 2)]
    same(again, trained_whole[clustering])


def test_a_finished_run_is_not_repeated(cells, build, uninterrupted, tmp_path):
    path = tmp_path / "run.ckpt"
    build(cells()).train(**RUN, checkpoint=path)
    again = build(cells())
    again.train(**RUN, resume_from=path, callbacks=[At(2, 0, fail), At(1, 0, fail)])
    same(again, uninterrupted)


@pytest.mark.parametrize("clustering", ["distillation", "self_training"])
def test_stages_that_stopped_by_themselves_stay_stopped(cells, build, tmp_path, clustering):
    run = {
        **RUN,
        "clustering": clustering,
        "agreement": 0.0,
        "agreement_patience": 1,
        "pretrain_max_epochs": 9,
        "label_tol": 1.0,
    }
    whole = build(cells())
    whole.train(**run)
    assert (whole.history_[_keys.STAGE][_keys.STAGE] == 1).sum() < 9
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError):
        build(cells()).train(**run, checkpoint=path, callbacks=[At(2, 0, fail)])
    again = build(cells())
    again.train(**run, resume_from=path)
    same(again, whole)


@pytest.mark.parametrize("scope", ["epoch", "batch"])
@pytest.mark.parametrize("epoch", [0, 1, 2], ids=["before", "last of the warm-up", "after"])
def test_either_kind_of_prototypes_goes_on_from_any_epoch(cells, build, tmp_path, scope, epoch):
    plan = {"prototypes": scope, "warmup_epochs": 2, "projection": scope == "epoch"}
    run = {**RUN, "pretrain_max_epochs": 4, "cluster_max_epochs": 0, "pretrain_plan_kwargs": plan}
    whole, again = build(cells()), build(cells())
    whole.train(**run)
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError):
        build(cells()).train(**run, checkpoint=path, callbacks=[At(1, epoch + 1, fail)])
    again.train(**run, resume_from=path)
    same(again, whole)


@pytest.mark.filterwarnings("ignore:No number of clusters")
def test_an_estimated_number_and_the_published_optimiser_go_on(cells, build, tmp_path):
    plan = {"optimizer": "Adadelta", "lr": 1.0}
    run = {
        **RUN,
        "clustering": "self_training",
        "cluster_plan_kwargs": plan,
        "pretrain_plan_kwargs": {"one_cycle": False, "warmup_epochs": 0},
    }
    whole = build(cells(), None)
    whole.train(**run)
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError):
        build(cells(), None).train(**run, checkpoint=path, callbacks=[At(2, 1, fail)])
    again = build(cells(), None)
    again.train(**run, resume_from=path)
    same(again, whole)
    pd.testing.assert_frame_equal(again.n_clusters_curve_, whole.n_clusters_curve_)


def test_a_killed_process_leaves_a_whole_checkpoint(cells, build, uninterrupted, tmp_path):
    """SIGKILL while a checkpoint is being written: the one of the epoch before is whole."""
    cells().write_h5ad(tmp_path / "cells.h5ad")
    code = f"""
        import os, signal
        import anndata, torch, scgpcl
        torch.set_num_threads(1)
        from lightning.pytorch import Trainer
        save = Trainer.save_checkpoint
        def killed(self, path, *args, **kwargs):
            if self.lightning_module.stage == 2 and self.current_epoch == 1:
                open(path, "wb").write(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            save(self, path, *args, **kwargs)
        Trainer.save_checkpoint = killed
        adata = anndata.read_h5ad({str(tmp_path / "cells.h5ad")!r})
        scgpcl.SCGPCL.setup_anndata(adata)
        scgpcl.SCGPCL(adata, 3, n_hidden=8, n_latent=4).train(**{RUN!r}, checkpoint={str(tmp_path / "run.ckpt")!r})
    """
    env = {**os.environ, "PYTHONPATH": str(Path(scgpcl.__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    again = build(cells())
    again.train(**RUN, resume_from=tmp_path / "run.ckpt", checkpoint=tmp_path / "run.ckpt")
    same(again, uninterrupted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "run.ckpt"]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_checkpoint_before(cells, build, uninterrupted, tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    save = pl.Trainer.save_checkpoint

    def later_full(self, place, *args, **kwargs):
        if self.current_epoch == 1:
            Path(place).write_bytes(b"half")
            full()
        save(self, place, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "save_checkpoint", later_full)
        with pytest.raises(
            OSError, match="Expected to write .*No space left.*epoch before is still there.*Free some space"
        ):
            build(cells()).train(**RUN, checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]
    again = build(cells())
    again.train(**RUN, resume_from=path)
    same(again, uninterrupted)


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("reported_by", ["system", "torch", "Ctrl-C"])
def test_a_full_disk_keeps_the_saved_model_before(
    uninterrupted, trained, cells, tmp_path, monkeypatch, safe, reported_by
):
    folder = tmp_path / "m"
    uninterrupted.save(folder, safe=safe)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    errors = {"system": OSError, "torch": OSError, "Ctrl-C": KeyboardInterrupt}
    save = torch.save

    def half(content, path, *args, **kwargs):
        save(content, path, *args, **kwargs)
        Path(path).write_bytes(Path(path).read_bytes()[:1000])
        if reported_by == "Ctrl-C":
            raise KeyboardInterrupt
        if reported_by == "torch":
            msg = "PytorchStreamWriter failed writing file data/2: file write failed"
            raise RuntimeError(msg)
        full()

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(
            errors[reported_by], match=None if reported_by == "Ctrl-C" else "Expected to write the model"
        ):
            trained.save(folder, overwrite=True, safe=safe)
        with pytest.raises(errors[reported_by]):
            trained.save(tmp_path / "new", safe=safe)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    same(scgpcl.SCGPCL.load(folder, cells(), accelerator="cpu"), uninterrupted)


class Interrupting:
    """A mapping of an AnnData; Ctrl-C comes right after its first entry is written, if wanted."""

    def __init__(self, mapping, wanted):
        self.mapping, self.wanted = mapping, wanted

    def __contains__(self, name):
        return name in self.mapping

    def __getitem__(self, name):
        return self.mapping[name]

    def __delitem__(self, name):
        del self.mapping[name]

    def __setitem__(self, name, value):
        self.mapping[name] = value
        if self.wanted:
            self.wanted = False
            raise KeyboardInterrupt


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("again", [False, True], ids=["first", "second"])
def test_annotation_is_whole_or_not_at_all(trained, cells, digest, monkeypatch, number, again):
    """Ctrl-C at any of the entries gives back what was there."""
    from scgpcl.model import _annotate

    adata = cells(seed=1)
    if again:
        trained.annotate(adata, min_confidence=0.9)
    before = digest(adata)
    write_all = _annotate._write_all

    def interrupted(*entries):
        count = iter(range(len(entries)))
        write_all(*((Interrupting(mapping, next(count) == number), name, value) for mapping, name, value in entries))

    monkeypatch.setattr(_annotate, "_write_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained.annotate(adata)
    assert digest(adata) == before


def test_a_failing_update_and_decoder_leave_the_model_as_it_was(cells, build):
    adata = cells()
    model = build(adata, train={})
    before = model.predict(soft=True)
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    written = adata.obsm["X_scgpcl"].copy()
    for act in (
        lambda: model.update(cells(seed=1), 2, callbacks=[At(2, 0, interrupt)], batch_size=32, label_tol=0.0,
                             accelerator="cpu", enable_progress_bar=False),
        lambda: model.train_decoder(2, callbacks=[At(3, 0, interrupt)], batch_size=16,
                                    accelerator="cpu", enable_progress_bar=False),
    ):  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            act()
        assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())
        np.testing.assert_array_equal(model.predict(soft=True), before)
        np.testing.assert_array_equal(adata.obsm["X_scgpcl"], written)


def test_files_of_the_command_are_whole_or_absent(tmp_path, monkeypatch):
    """A table that fails half-way leaves the older one; pictures and h5ad files are written the same way."""
    from scgpcl._files import InputError
    from scgpcl._report import _describe

    (tmp_path / "clusters.csv").write_text("older")
    table = pd.DataFrame({"cluster": ["0"]})

    def half(self, path, **kwargs):
        Path(path).write_text("half")
        full()

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(InputError, match="No space left"):
        _describe.write_table(table, tmp_path)
    assert (tmp_path / "clusters.csv").read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["clusters.csv"]


def test_files_of_a_benchmark_are_whole_or_absent(tmp_path, monkeypatch):
    """The summary and every picture of an earlier benchmark survive a disk that fills up."""
    from matplotlib.figure import Figure

    from scgpcl._files import InputError
    from scgpcl.benchmark import _plots, _results, _tables

    row = {"dataset": "d", "method": "m", "seed": 0, "error": "", "ari": 0.5, "nmi": 0.5, "acc": 0.5, "seconds": 1.0}
    table = pd.DataFrame([row]).reindex(columns=_results.COLUMNS)
    names = ("summary.md", "bars.png", "box.png", "time.png")
    for name in names:
        (tmp_path / name).write_text("older")

    def half(path, *args, **kwargs):
        with open(path, "w") as file:
            file.write("half")
        full()

    monkeypatch.setattr(Path, "write_text", half)
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: half(path))
    with pytest.raises(InputError, match="Expected to write .*summary.md, found: .*No space left.*Free some space"):
        _tables.write_summary(table, {}, tmp_path)
    with pytest.raises(InputError, match="Expected to write .*bars.png, found: .*No space left"):
        _plots.write_figures(table, tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(names, "older")
