"""The registered AnnData changes after training: in no way may it pass for the cells that were trained on."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import scgpcl

GETTERS = {
    "get_latent_representation": {},
    "predict": {},
    "predict, soft": {"soft": True},
    "get_normalized_expression": {},
    "get_likelihood_parameters": {},
    "posterior_predictive_sample": {},
    "annotate": {},
    "train_decoder": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    "train": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    "save": {"save_anndata": True},
}


def normalised(adata):
    sc.pp.normalize_total(adata)


def logged(adata):
    sc.pp.log1p(adata)


def scaled(adata):
    sc.pp.scale(adata)


def one_value(value):
    def change(adata):
        adata.X = adata.X.copy()
        adata.X.data[-3] = value

    return change


def emptied(adata):
    x = adata.X.toarray()
    x[-1] = 0
    adata.X = sp.csr_matrix(x)


def without_genes(adata):
    adata._inplace_subset_var(np.arange(adata.n_vars) % 4 > 0)


def renamed(adata):
    adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]


def without_counts(adata):
    adata.X = None


# name: (change in place, words of the message)
CHANGES = {
    "normalised": (normalised, "looks normalised"),
    "logged": (logged, "looks normalised"),
    "scaled": (scaled, "zero or more"),
    "half a count in one cell": (one_value(0.5), "found 0.5"),
    "nan in one cell": (one_value(np.nan), "NaN or infinite"),
    "negative in one cell": (one_value(-1), "found -1"),
    "too many in one cell": (one_value(2.0**25), "at most 16777216"),
    "a cell without counts": (emptied, "1 empty cells"),
    "genes removed": (without_genes, "registered genes"),
    "genes renamed": (renamed, "registered genes"),
    "counts removed": (without_counts, "found None"),
}


@pytest.fixture(scope="module")
def source(cells, build):
    return build(cells(), train={})


@pytest.fixture
def model(source):
    """The trained model with an AnnData of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, when a network is copied
        return copy.deepcopy(source)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:zero-centering", "ignore:Received a view", "ignore:.*converting sparse")
def test_every_getter_and_save_notice(model, refused, tmp_path, change):
    act, words = CHANGES[change]
    act(model.adata)
    for getter, arguments in GETTERS.items():
        more = {"dir_path": tmp_path / "m"} if getter == "save" else {}
        with refused([model.adata, tmp_path], ValueError, words):
            getattr(model, getter.split(",")[0])(**more, **arguments)


@pytest.mark.parametrize("indices", [[57], [0, 57, 59]])
def test_cells_that_are_asked_for_are_looked_at(model, refused, indices):
    one_value(0.5)(model.adata)
    row = np.searchsorted(model.adata.X.indptr, model.adata.X.nnz - 3, side="right") - 1
    with refused(model.adata, ValueError, "found 0.5"):
        model.predict(indices=[row, *indices])


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("change", ["normalised", "half a count in one cell", "negative in one cell"])
def test_cells_that_are_left_are_looked_at_too(cells, build, refused, layer, change):
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    model = build(adata, train={"pretrain_max_epochs": 0}, setup={"layer": layer})
    adata._inplace_subset_obs(np.arange(adata.n_obs) % 3 > 0)
    act, words = CHANGES[change]
    act(adata)
    if layer is not None:
        adata.layers[layer], adata.X = adata.X, adata.layers[layer]
    with refused(adata, ValueError, words, "adata.X" if layer is None else "adata.layers['counts']"):
        model.predict()


def test_the_named_registered_anndata_is_the_registered_one(model, refused):
    normalised(model.adata)
    with refused(model.adata, ValueError, "looks normalised"):
        model.predict(model.adata)


OTHER_COUNTS = {
    "doubled": lambda a: a.X * 2,
    "zeros and ones": lambda a: (a.X > 0).astype(np.float32),
    "rounded after normalising": lambda a: np.rint(sc.pp.normalize_total(a, inplace=False)["X"] * 100),
    "one more molecule in each cell": lambda a: sp.csr_matrix(a.X.toarray() + np.eye(*a.shape, dtype=np.float32)),
}


@pytest.mark.parametrize("case", OTHER_COUNTS)
def test_other_counts_are_warned_of(model, case):
    model.adata.X = OTHER_COUNTS[case](model.adata)
    with pytest.warns(UserWarning, match="registered counts to be unchanged.*found other counts in adata.X"):
        found = model.get_latent_representation()
    np.testing.assert_array_equal(found, model.get_latent_representation(model.adata.copy()))


SAME = {
    "dense": lambda a: setattr(a, "X", a.X.toarray()),
    "by column": lambda a: setattr(a, "X", a.X.tocsc()),
    "integers": lambda a: setattr(a, "X", a.X.astype(np.int64)),
    "fewer cells": lambda a: a._inplace_subset_obs(np.arange(a.n_obs) % 3 > 0),
    "more columns": lambda a: a.obs.insert(0, "x", 1),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_counts_in_another_form_are_the_same(model, case):
    before = pd.DataFrame(model.get_latent_representation(), index=model.adata.obs_names)
    SAME[case](model.adata)
    np.testing.assert_array_equal(model.get_latent_representation(), before.loc[model.adata.obs_names].to_numpy())


def test_a_layer_of_counts_survives_what_is_done_to_x(cells, build, tmp_path):
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    model = build(adata, train={}, setup={"layer": "counts"})
    before = model.get_latent_representation()
    logged(adata)
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    model.save(tmp_path / "m", save_anndata=True)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(), before)
    adata.layers["counts"] = adata.X
    with pytest.raises(ValueError, match="looks normalised"):
        model.predict()


def test_a_loaded_model_notices_too(model, cells, tmp_path):
    model.save(tmp_path / "m")
    adata = cells()
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    adata.X = adata.X * 2
    with pytest.warns(UserWarning, match="registered counts to be unchanged"):
        loaded.predict()
    normalised(adata)
    with pytest.raises(ValueError, match="looks normalised"):
        loaded.predict()


def test_a_mask_of_a_table_goes_by_the_names_of_its_cells(trained):
    adata = trained.adata
    mask = adata.obs["group"] == "type 0"
    wanted = trained.predict(indices=mask.to_numpy())
    turned = mask.iloc[::-1]
    np.testing.assert_array_equal(trained.predict(indices=turned), wanted)
    np.testing.assert_array_equal(trained.predict(indices=turned[turned]), wanted)  # those that are True alone
    np.testing.assert_array_equal(trained.predict(indices=mask.reset_index(drop=True)), wanted)
