"""Model files and checkpoints that are damaged, foreign, or of other versions, each with its own error."""

import copy
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import scgpcl
from scgpcl.model._saving import read_safe, write_safe

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
    "something else": ("pickle", pickled(lambda c: {"a": 1}), ValueError, "something else", "Check the path"),
    "a list": ("pickle", pickled(lambda c: [1]), ValueError, "something else"),
    "other class": ("pickle", pickled(of_class), ValueError, "class SCGPCL", "found one of SCVI", "Load it with SCVI"),
    "later version": ("pickle", attributes(file_format_=NEWER), ValueError, "format 99", "scgpcl 9.9", "Install"),
    "without an attribute": (
        "pickle",
        attributes(n_clusters_=None),
        ValueError,
        "'n_clusters_'",
        "Save the model again",
    ),
    "without weights": ("pickle", weights(gene_mean=None), ValueError, "gene_mean", "found others"),
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
