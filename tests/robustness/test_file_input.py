"""Model files and checkpoints that are damaged, foreign, or of other versions, each with its own error."""

import copy
import errno
import os
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scgpcl
from scgpcl import _files
from scgpcl.model import _saving
from scgpcl.model._saving import read_safe, write_safe
from scgpcl.train._arguments import check_device

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """Folder with a model in both forms and a checkpoint."""
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder / "pickle")
    trained.save(folder / "safe", safe=True)
    return folder


def pickled(change):
    """Change the content of a pickle file."""

    def act(folder):
        content = torch.load(folder / "model.pt", weights_only=False)
        torch.save(change(copy.deepcopy(content)) or content, folder / "model.pt")

    return act


def attributes(**values):
    def change(content):
        for name, value in values.items():
            if value is None:
                del content["attr_dict"][name]
            else:
                content["attr_dict"][name] = value
        return content

    return pickled(change)


def of_class(content):
    content["attr_dict"]["registry_"]["model_name"] = "SCVI"
    return content


def weights(**values):
    def change(content):
        for name, value in values.items():
            if value is None:
                del content["model_state_dict"][name]
            else:
                content["model_state_dict"][name] = value
        return content

    return pickled(change)


def cut(name, share):
    def act(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return act


def flipped(name):
    def act(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return act


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def edited(change):
    """Change the content of a file without pickle, and sign it again."""

    def act(folder):
        content = read_safe(folder / "model.h5")
        change(content)
        write_safe(content, folder / "model.h5")

    return act


NEWER = {"format": 99, "scgpcl": "9.9"}

# name: (form, damage, error, words)
FILES = {
    "truncated": ("pickle", cut("model.pt", 0.5), ValueError, "damaged file", "bytes", "Save the model again"),
    "nearly whole": ("pickle", cut("model.pt", 0.98), ValueError, "damaged file"),
    "empty": ("pickle", cut("model.pt", 0), ValueError, "0 bytes", "EOFError"),
    "text": ("pickle", text("model.pt", "hello"), ValueError, "damaged file or one of another kind"),
    "something else": ("pickle", pickled(lambda c: {"a": 1}), ValueError, "different kind of file", "Check the path"),
    "a list": ("pickle", pickled(lambda c: [1]), ValueError, "different kind of file"),
    "other class": ("pickle", pickled(of_class), ValueError, "class SCGPCL", "found one of SCVI", "Load it with SCVI"),
    "later version": ("pickle", attributes(file_format_=NEWER), ValueError, "format 99", "scgpcl 9.9", "Install"),
    "no version": ("pickle", attributes(file_format_=None), ValueError, "format 0", "scgpcl unknown", "Install"),
    "without an attribute": (
        "pickle",
        attributes(n_clusters_=None),
        ValueError,
        "'n_clusters_'",
        "Save the model again",
    ),
    "without weights": ("pickle", weights(gene_mean=None), ValueError, "gene_mean", "found different ones"),
    "other weights": ("pickle", weights(gene_mean=torch.ones(3)), ValueError, "gene_mean", "[3]"),
    "no file": (
        "pickle",
        lambda f: (f / "model.pt").unlink(),
        FileNotFoundError,
        "no model.pt or model.h5",
        "prefix",
    ),
    "safe: truncated": ("safe", cut("model.h5", 0.5), ValueError, "damaged file", "Save the model again"),
    "safe: nearly whole": ("safe", cut("model.h5", 0.999), ValueError, "damaged file", "digest"),
    "safe: empty": ("safe", cut("model.h5", 0), ValueError, "damaged file"),
    "safe: text": ("safe", text("model.h5", "[1]"), ValueError, "damaged file"),
    "safe: binary": ("safe", lambda f: (f / "model.h5").write_bytes(b"\xff\xfe\x00"), ValueError, "damaged"),
    "safe: another byte": ("safe", flipped("model.h5"), ValueError, "damaged file", "digest"),
    "safe: other weights": (
        "safe",
        edited(lambda c: c["model_state_dict"].update(gene_mean=torch.ones(3))),
        ValueError,
        "gene_mean",
        "[3]",
    ),
    "safe: later version": (
        "safe",
        edited(lambda c: c["attr_dict"].update(file_format_=NEWER)),
        ValueError,
        "format 99",
    ),
    "safe: other class": (
        "safe",
        edited(lambda c: c["attr_dict"]["registry_"].update(model_name="SCVI")),
        ValueError,
        "found one of SCVI",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_are_refused(saved, cells, refused, tmp_path, case):
    form, damage, error, *words = FILES[case]
    folder = tmp_path / "m"
    shutil.copytree(saved / form, folder)
    damage(folder)
    adata = cells()
    with refused([adata, tmp_path], error, *words):
        scgpcl.SCGPCL.load(folder, adata, accelerator="cpu")


def renamed(adata):
    adata.var_names = [f"x{i}" for i in range(adata.n_vars)]
    return adata


def halves(adata):
    adata.X = adata.X * 0.5
    return adata


# name: (other data, error, words)
OTHER_DATA = {
    "fewer genes": (lambda a: a[:, :30].copy(), ValueError, "40 genes of the model", "found 30 genes", "adata=False"),
    "other genes": (renamed, ValueError, "0 are the model's", "'gene0'"),
    "halves": (halves, ValueError, "whole counts", "found 0.5"),
}


@pytest.mark.parametrize("form", ["pickle", "safe"])
@pytest.mark.parametrize("case", OTHER_DATA)
def test_other_data_are_refused(saved, cells, refused, form, case):
    change, error, *words = OTHER_DATA[case]
    adata = change(cells())
    with refused([adata, saved], error, *words):
        scgpcl.SCGPCL.load(saved / form, adata, accelerator="cpu")


def test_a_table_and_a_missing_folder_are_refused(saved, tmp_path):
    with pytest.raises(TypeError, match="Expected `adata` to be an AnnData, found DataFrame"):
        scgpcl.SCGPCL.load(saved / "pickle", pd.DataFrame(), accelerator="cpu")
    with pytest.raises(FileNotFoundError, match="Check the folder and the prefix"):
        scgpcl.SCGPCL.load(tmp_path / "none")


# name: (where to save, error, words)
PLACES = {
    "there already": (lambda f: {"dir_path": f / "pickle"}, ValueError, "already exists", "overwrite=True"),
    "a file": (lambda f: {"dir_path": f / "pickle" / "model.pt", "overwrite": True}, ValueError, "already exists"),
    "safe as text": (lambda f: {"dir_path": f / "m", "safe": "yes"}, TypeError, "`safe`", "found 'yes'"),
}


@pytest.mark.parametrize("case", PLACES)
def test_places_are_refused(trained, saved, refused, case):
    place, error, *words = PLACES[case]
    with refused([trained.adata, saved], error, *words):
        trained.save(**place(saved))


@pytest.fixture(scope="module")
def checkpoint(cells, build, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.ckpt"
    build(cells(), train={"checkpoint": path})
    return path


def remade(change):
    def act(path):
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return act


# name: (damage, model arguments, error, words)
CHECKPOINTS = {
    "none": (lambda p: p.unlink(), {}, FileNotFoundError, "no file", "train(checkpoint=...)"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:2000]), {}, ValueError, "damaged", "Train from the start"),
    "empty": (lambda p: p.write_bytes(b""), {}, ValueError, "damaged"),
    "text": (lambda p: p.write_text("hello"), {}, ValueError, "damaged"),
    "of another": (remade(lambda c: c.pop("scgpcl")), {}, ValueError, "another or a damaged file", "KeyError"),
    "later version": (remade(lambda c: c["scgpcl"].update(format=9)), {}, ValueError, "found format 9"),
    "other seed": (lambda p: None, {"seed": 5}, ValueError, "seed 5", "seed 0", "Make the model as it was"),
    "other width": (lambda p: None, {"n_hidden": 9}, ValueError, "n_hidden 9", "n_hidden 8"),
    "other number": (lambda p: None, {"n_clusters": 4}, ValueError, "n_clusters 4", "n_clusters 3"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_are_refused_before_any_work(checkpoint, cells, build, refused, tmp_path, case):
    damage, arguments, error, *words = CHECKPOINTS[case]
    path = tmp_path / "run.ckpt"
    shutil.copy(checkpoint, path)
    damage(path)
    model = build(cells(), **arguments)
    with refused([model.adata, tmp_path], error, *words):
        model.train(max_epochs=1, resume_from=path, **QUIET)
    assert model.gene_names_ is None


def test_checkpoints_of_other_data_are_refused(checkpoint, cells, build, refused):
    fewer = build(cells(n_cells=50))
    with refused(fewer.adata, ValueError, "number of cells 50", "number of cells 60"):
        fewer.train(max_epochs=1, resume_from=checkpoint, **QUIET)
    others = build(renamed(cells()))
    with refused(others.adata, ValueError, "same genes in the same order", "Give the AnnData the genes"):
        others.train(max_epochs=1, resume_from=checkpoint, **QUIET)
    changed = cells()
    changed.X[0, 0] += 1
    model = build(changed)
    with refused(changed, ValueError, "counts '60x"):
        model.train(max_epochs=1, resume_from=checkpoint, **QUIET)


# name: (arguments of setup_anndata, of the model, and of training; words)
OTHERS = {
    "batches": ({"batch_key": "batch"}, {}, {}, "batch_columns ['batch'], batches ["),
    "labels": ({"labels_key": "batch"}, {}, {}, "labels_key 'batch'"),
    "genes to keep": ({}, {"keep_genes": ["gene3", "gene7"]}, {}, "keep_genes ['gene3', 'gene7']", "keep_genes None"),
    "prototypes": (
        {},
        {},
        {"pretrain_plan_kwargs": {"n_prototypes": (2, 3)}},
        "pretrain_plan_kwargs['n_prototypes'] [2, 3]",
    ),
    "mini-batches": ({}, {}, {"batch_size": 7}, "batch_size 7"),
    "held-out cells": ({}, {}, {"train_size": 0.8}, "train_size 0.8", "train_size 1.0"),
    "another second stage": ({}, {}, {"clustering": "self_training"}, "clustering 'self_training'"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_checkpoints_of_other_arguments_are_refused(checkpoint, cells, build, refused, case):
    setup, arguments, training, *words = OTHERS[case]
    model = build(cells(), setup=setup, **arguments)
    with refused(model.adata, ValueError, *words, "Make the model as it was"):
        model.train(max_epochs=1, resume_from=checkpoint, **training, **QUIET)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        (lambda f: f, ValueError, ("found a folder", "run.ckpt")),
        (lambda f: f / "no" / "run.ckpt", FileNotFoundError, ("existing folder", "Make it first")),
    ],
    ids=["folder", "no folder"],
)
def test_places_of_checkpoints_are_refused(untrained, refused, tmp_path, place, error, words):
    with refused([untrained.adata, tmp_path], error, *words):
        untrained.train(checkpoint=place(tmp_path), **QUIET)


def test_a_folder_without_permission_for_a_checkpoint_is_refused(untrained, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with refused([untrained.adata, tmp_path], ValueError, "a folder that can be written to", str(tmp_path)):
        untrained.train(checkpoint=tmp_path / "run.ckpt", **QUIET)


def test_both_forms_give_the_same_model(trained, saved, cells, build, tmp_path):
    wanted = trained.predict(soft=True).to_numpy()
    for form in ("pickle", "safe"):
        loaded = scgpcl.SCGPCL.load(saved / form, cells(), accelerator="cpu")
        np.testing.assert_array_equal(loaded.predict(soft=True).to_numpy(), wanted)
        alone = scgpcl.SCGPCL.load(saved / form, False, accelerator="cpu")
        np.testing.assert_array_equal(alone.predict(cells()), trained.predict())
        assert set(loaded.history_) == set(trained.history_)
        for name, table in trained.history_.items():
            pd.testing.assert_frame_equal(loaded.history_[name], table)
        assert loaded.init_params_ == trained.init_params_
        np.testing.assert_array_equal(loaded.train_indices, trained.train_indices)
        loaded.train(max_epochs=1, **QUIET)


def test_safe_form_holds_batches_size_factors_and_the_estimate(cells, build, tmp_path):
    adata = cells()
    model = build(adata, None, train={}, setup={"batch_key": "batch", "size_factor_key": "size"})
    model.save(tmp_path / "m", safe=True, save_anndata=True)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["adata.h5ad", "model.h5"]
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), model.predict(soft=True))
    np.testing.assert_array_equal(loaded.predict(transform_batch="b"), model.predict(transform_batch="b"))
    pd.testing.assert_frame_equal(loaded.n_clusters_curve_, model.n_clusters_curve_)
    assert loaded.n_clusters_ == model.n_clusters_


def test_saving_over_a_model_replaces_either_form_and_keeps_other_files(trained, tmp_path):
    folder = tmp_path / "m"
    trained.save(folder, safe=True)
    (folder / "notes.txt").write_text("mine")
    trained.save(folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt", "notes.txt"]
    trained.save(folder, overwrite=True, safe=True)
    assert sorted(path.name for path in folder.iterdir()) == ["model.h5", "notes.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("safe", [False, True])
def test_folders_above_that_of_a_model_are_made(trained, tmp_path, safe):
    for name in ("one", "two"):  # the second of which needs one folder more
        folder = tmp_path / "new" / name / "m"
        trained.save(folder, safe=safe)
        loaded = scgpcl.SCGPCL.load(folder, trained.adata, accelerator="cpu")
        np.testing.assert_array_equal(loaded.predict(), trained.predict())


def test_the_safe_form_runs_no_code(saved):
    """Reading it asks neither pickle nor eval; the pickle file is one that pickle alone can read."""
    import h5py

    with h5py.File(saved / "safe" / "model.h5") as file:
        assert set(file) == {"attr_dict", "model_state_dict", "var_names"}
        kinds = set()
        file.visititems(lambda name, item: kinds.add(item.dtype.kind) if isinstance(item, h5py.Dataset) else None)
    assert kinds <= set("biufO")  # objects are text, which h5py stores as such
    with pytest.raises(Exception, match="[Ww]eights"):
        torch.load(saved / "pickle" / "model.pt", weights_only=True)


@pytest.mark.parametrize("safe", [False, True])
def test_a_backed_anndata_keeps_its_file(cells, build, tmp_path, safe):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = build(adata, train={})
    wanted = model.predict()
    for name in ("one", "two"):
        model.save(tmp_path / name, safe=safe, save_anndata=True)
        assert adata.filename == tmp_path / "cells.h5ad"
    np.testing.assert_array_equal(model.predict(), wanted)
    adata.file.close()
    np.testing.assert_array_equal(model.predict(), wanted)
    adata.write_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(scgpcl.SCGPCL.load(tmp_path / "one", accelerator="cpu").predict(), wanted)
    adata.file.close()


def test_saving_over_the_file_that_backs_the_cells(cells, build, tmp_path):
    (tmp_path / "m").mkdir()
    cells().write_h5ad(tmp_path / "m" / "adata.h5ad")
    adata = ad.read_h5ad(tmp_path / "m" / "adata.h5ad", backed="r")
    model = build(adata, train={})
    model.save(tmp_path / "m", overwrite=True, save_anndata=True)
    np.testing.assert_array_equal(model.predict(), scgpcl.SCGPCL.load(tmp_path / "m", accelerator="cpu").predict())
    adata.file.close()


def test_no_links_are_made(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "m", safe=True, save_anndata=True)

    def refuse(*args, **kwargs):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    np.testing.assert_array_equal(scgpcl.SCGPCL.load(tmp_path / "m", accelerator="cpu").predict(), trained.predict())


@pytest.mark.parametrize("place", [".", "", "sub/..", "./sub", "sub/../sub", "link"])
def test_a_folder_by_any_name(trained, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub", target_is_directory=True)
    trained.save(place, overwrite=True)
    folder = (tmp_path / place).resolve()
    assert (folder / "model.pt").is_file()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link", "model.pt", "sub"]


def test_a_folder_in_which_alone_can_be_written(trained, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    mkdir = Path.mkdir

    def guarded(self, *args, **kwargs):
        if self.parent == tmp_path and not self.exists():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", guarded)
    trained.save(folder, overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["model.pt"]
    with pytest.raises(OSError, match="Permission denied.*Check the permissions"):
        trained.save(tmp_path / "other")


# name: (what the system or a library says, the error, words)
REFUSALS = {
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left.*Free some space"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), OSError, "Free some space"),
    "full disk, told by HDF5": (
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        OSError,
        "Free some space",
    ),
    "full disk, told by torch": (
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/2"),
        OSError,
        "Free some space",
    ),
    "permission": (PermissionError(errno.EACCES, "Permission denied"), OSError, "denied.*Check the permissions"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), OSError, "Check the permissions"),
    "long name": (OSError(errno.ENAMETOOLONG, "File name too long"), OSError, "Choose a shorter name"),
    "gone": (FileNotFoundError(errno.ENOENT, "No such file or directory"), OSError, "Make the folder around it"),
    # what is no matter of the disk is told as it is
    "another library": (RuntimeError("nullable strings cannot be written"), RuntimeError, "^nullable strings"),
    "no number": (OSError("something else"), OSError, "^something else"),
    "not implemented": (NotImplementedError("no writer for this"), NotImplementedError, "^no writer"),
    "type": (TypeError("Can't implicitly convert"), TypeError, "^Can't implicitly"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_to_write_is_told_as_what_it_is(trained, files_of, tmp_path, monkeypatch, case):
    said, error, words = REFUSALS[case]
    trained.save(tmp_path / "m")
    before = files_of(tmp_path)

    def refuse(*args, **kwargs):
        raise said

    monkeypatch.setattr(_saving, "write_h5ad", refuse)
    with pytest.raises(error, match=words) as caught:
        trained.save(tmp_path / "m", overwrite=True, save_anndata=True)
    if words[0] == "^":
        assert caught.value is said
    else:
        assert str(caught.value).startswith("Expected to write the model to ")
        assert "permissions" not in str(caught.value) or "space" not in str(caught.value)[-60:]
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_tells_the_same(tmp_path, case):
    said, _, words = REFUSALS[case]
    if not isinstance(said, OSError) or isinstance(said, NotImplementedError):
        return
    with pytest.raises(_files.InputError, match=words.replace("^", "found: ")), _files.writing(tmp_path / "a.h5ad"):
        raise said


def test_what_anndata_cannot_write_is_told_by_anndata(cells, build, tmp_path):
    model = build(cells(), train={})
    model.adata.uns["thing"] = object()
    with pytest.raises(Exception, match="thing|writer|object") as caught:
        model.save(tmp_path / "m", save_anndata=True)
    assert "space" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# name: (arguments of load, words of the error)
DEVICES = {
    "text": ({"device": "gpu0"}, "`device` to be .*found 'gpu0'"),
    "negative": ({"device": -1}, "found -1"),
    "fraction": ({"accelerator": "cpu", "device": 1.5}, "found 1.5"),
    "flag": ({"device": True}, "found True"),
    "list": ({"device": [0]}, r"found \[0\]"),
    "none": ({"device": None}, "found None"),
    "accelerator": ({"accelerator": "nothing"}, "`accelerator` to be one of.*found 'nothing'"),
    "mps": ({"accelerator": "mps"}, "sparse matrices"),
    "mps as device": ({"device": "mps"}, "found 'mps'"),
    "both": ({"accelerator": "gpu", "device": "cpu"}, "that agree, found 'gpu' and 'cpu'"),
}


@pytest.mark.parametrize("case", DEVICES)
def test_wrong_devices_are_told_as_such(saved, refused, case):
    arguments, words = DEVICES[case]
    with refused(saved, ValueError, match=words):
        scgpcl.SCGPCL.load(saved / "pickle", False, **arguments)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 0), "gpu"])
def test_a_gpu_that_is_not_there(saved, refused, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with refused(saved, ValueError, match="Expected a GPU.*found 0 GPUs. Pass `device='cpu'`"):
        scgpcl.SCGPCL.load(saved / "pickle", False, device=device)


@pytest.mark.parametrize(
    ("device", "found"), [("cuda", "auto"), ("cuda:1", [1]), (1, [1]), ("cuda:2", None), (5, None)]
)
def test_a_gpu_is_one_of_those_that_are_there(monkeypatch, device, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    accelerator = "gpu" if device == 5 else "auto"
    if found is None:
        with pytest.raises(ValueError, match=f"Expected a GPU for `device={device!r}`, found 2 GPUs"):
            check_device(accelerator, device)
    else:
        assert check_device(accelerator, device)["device"] == found


@pytest.mark.parametrize(
    "arguments",
    [{"device": "cpu"}, {"device": torch.device("cpu")}, {"device": "cpu:0"}, {"accelerator": "cpu", "device": 0}],
)
def test_devices_by_their_names(saved, trained, arguments):
    loaded = scgpcl.SCGPCL.load(saved / "pickle", False, **arguments)
    assert loaded.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("device", [0, np.int64(0), "0", "cuda", "cuda:0", torch.device("cuda:0"), "gpu", "auto"])
def test_gpus_by_their_names(saved, trained, device):
    loaded = scgpcl.SCGPCL.load(saved / "pickle", False, device=device)
    assert loaded.device == torch.device("cuda", 0)
