import inspect

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl
from scgpcl._rules import check_kwargs
from scgpcl.train import SET_BY_RUN, ClusterPlan, DecoderPlan, DistillationPlan, PretrainPlan


def changed(adata, value):
    x = adata.X.toarray()
    x[3, 4] = value
    adata.X = sp.csr_matrix(x)
    return adata


def no_cell(adata):
    x = adata.X.toarray()
    x[7] = 0
    adata.X = sp.csr_matrix(x)
    return adata


def log_normalised(adata):
    adata.X = adata.X.log1p()
    return adata


def scaled(adata):
    adata.X = adata.X.toarray() - 1.0
    return adata


def renamed(adata, axis):
    names = getattr(adata, axis).tolist()
    names[1] = names[0]
    setattr(adata, axis, names)
    return adata


def with_x(adata, x):
    adata.X = x
    return adata


def with_obs(adata, **columns):
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


BAD_SETUP = {
    "negative": (lambda a: changed(a, -1.0), {}, ValueError, "zero or more in adata.X, found -1"),
    "fraction": (lambda a: changed(a, 0.5), {}, ValueError, "whole counts in adata.X, found 0.5"),
    "nan": (lambda a: changed(a, np.nan), {}, ValueError, "found NaN or infinite"),
    "inf": (lambda a: changed(a, np.inf), {}, ValueError, "found NaN or infinite"),
    "log-normalised": (log_normalised, {}, ValueError, "looks normalised or log-transformed"),
    "scaled": (scaled, {}, ValueError, "found -1"),
    "empty cell": (no_cell, {}, ValueError, r"1 empty cells \(the first is row 7\)"),
    "no layer": (lambda a: a, {"layer": "counts"}, KeyError, "found layers"),
    "no batch": (lambda a: a, {"batch_key": "plate"}, KeyError, "found columns"),
    "missing batch": (
        lambda a: with_obs(a, batch=[None] + ["a"] * 119),
        {"batch_key": "batch"},
        ValueError,
        "found 1 missing",
    ),
    "batches alike as text": (
        lambda a: with_obs(a, batch=pd.Series([1, "1"] * 60, index=a.obs_names, dtype=object)),
        {"batch_key": "batch"},
        ValueError,
        "found '1' as values of different types",
    ),
    "no size": (lambda a: a, {"size_factor_key": "size"}, KeyError, "size_factor_key='size'"),
    "zero size": (lambda a: with_obs(a, size=0.0), {"size_factor_key": "size"}, ValueError, "positive finite"),
    "text size": (lambda a: with_obs(a, size="x"), {"size_factor_key": "size"}, ValueError, "positive finite"),
    "repeated cells": (lambda a: renamed(a, "obs_names"), {}, ValueError, "repeated 'cell0'"),
    "repeated genes": (lambda a: renamed(a, "var_names"), {}, ValueError, "var_names_make_unique"),
    "no counts": (lambda a: with_x(a, None), {}, ValueError, "found None"),
    "batches alike as numbers": (
        lambda a: with_obs(a, batch=["1", "1.0"] * 60),
        {"batch_key": "batch"},
        ValueError,
        "found '1' as values",
    ),
    "batches alike as days": (
        lambda a: with_obs(
            a, batch=pd.Series(["2024-01-02", pd.Timestamp("2024-01-02")] * 60, a.obs_names, dtype=object)
        ),
        {"batch_key": "batch"},
        ValueError,
        "found '2024-01-02' as values",
    ),
    "results as batches": (
        lambda a: with_obs(a, scgpcl_cluster=["0", "1"] * 60),
        {"batch_key": "scgpcl_cluster"},
        ValueError,
        "do not overwrite, found 'scgpcl_cluster'.*Keep a copy",
    ),
    "confidence as batches": (
        lambda a: with_obs(a, scgpcl_confidence=[0.5, 1.0] * 60),
        {"batch_key": "scgpcl_confidence"},
        ValueError,
        "found 'scgpcl_confidence'",
    ),
    "confidence as size": (
        lambda a: with_obs(a, scgpcl_confidence=0.5),
        {"size_factor_key": "scgpcl_confidence"},
        ValueError,
        "`size_factor_key` to be a column that the results do not overwrite",
    ),
    "codes of scvi-tools as batches": (
        lambda a: with_obs(a, _scvi_batch=[0, 1] * 60),
        {"batch_key": "_scvi_batch"},
        ValueError,
        "one of your own columns, found '_scvi_batch'",
    ),
    "parts that do not add up": (
        lambda a: with_x(
            a, sp.csr_matrix((np.full(240, 0.3), np.repeat(np.arange(120) % 60, 2), np.arange(0, 241, 2)), a.shape)
        ),
        {},
        ValueError,
        "whole counts in adata.X, found 0.6",
    ),
    "results as labels": (
        lambda a: with_obs(a, scgpcl_cluster=["0", "1"] * 60),
        {"labels_key": "scgpcl_cluster"},
        ValueError,
        "`labels_key` to be a column that the results do not overwrite",
    ),
    "text as covariates": (
        lambda a: with_obs(a, donor=["a", "b"] * 60),
        {"categorical_covariate_keys": "donor"},
        TypeError,
        "`categorical_covariate_keys` to be a list of column names, found 'donor'",
    ),
    "unknown covariate": (
        lambda a: a,
        {"categorical_covariate_keys": ["donor"]},
        KeyError,
        "`categorical_covariate_keys='donor'` to be a column",
    ),
    "covariate twice": (
        lambda a: with_obs(a, donor=["a", "b"] * 60),
        {"categorical_covariate_keys": ["donor", "donor"]},
        ValueError,
        "different columns, found 'donor', 'donor'",
    ),
    "batch as covariate": (
        lambda a: with_obs(a, donor=["a", "b"] * 60),
        {"batch_key": "donor", "categorical_covariate_keys": ["donor"]},
        ValueError,
        "beside `batch_key`, found 'donor' in both",
    ),
    "results as covariate": (
        lambda a: with_obs(a, scgpcl_cluster=["0", "1"] * 60),
        {"categorical_covariate_keys": ["scgpcl_cluster"]},
        ValueError,
        "`categorical_covariate_keys` to be a column that the results do not overwrite",
    ),
    "two combinations of one name": (
        lambda a: with_obs(a, study=["s", "s / a"] * 60, donor=["a / b", "b"] * 60),
        {"batch_key": "study", "categorical_covariate_keys": ["donor"]},
        ValueError,
        "joined names differ, found 's / a / b' more than once",
    ),
    "continuous covariates": (lambda a: a, {"continuous_covariate_keys": None}, TypeError, "omit this argument"),
    "raw": (lambda a: a, {"use_raw": True}, TypeError, "adata.raw.X"),
    "unknown argument of set-up": (
        lambda a: a,
        {"layers": "x"},
        TypeError,
        "`setup_anndata`, found 'layers'. It takes",
    ),
    "one cell": (lambda a: a[:1].copy(), {}, ValueError, "found 1 cells"),
    "one gene": (lambda a: a[:, :1].copy(), {}, ValueError, "1 genes"),
    "view": (lambda a: a[:50], {}, ValueError, "adata.copy()"),
    "complex": (lambda a: with_x(a, a.X.toarray().astype(complex)), {}, TypeError, "complex128.*astype"),
    "half precision": (lambda a: with_x(a, a.X.toarray().astype("float16")), {}, TypeError, "float16.*astype"),
    "text counts": (lambda a: with_x(a, np.full(a.shape, "1")), {}, TypeError, "<U1"),
    "objects": (lambda a: with_x(a, np.ones(a.shape, dtype=object)), {}, TypeError, "object"),
    "more than single precision holds": (lambda a: changed(a, 2.0**25), {}, ValueError, "at most 16777216.*3.35544e"),
    "overflow": (lambda a: with_x(a, a.X.toarray().astype(float) * 1e200), {}, ValueError, "single precision"),
    "list of layers": (lambda a: a, {"layer": ["counts"]}, TypeError, "`layer` to be a name or None"),
    "list of batches": (lambda a: a, {"batch_key": ["batch"]}, TypeError, "`batch_key` to be a name or None"),
    "nan size": (
        lambda a: with_obs(a, size=[np.nan] + [1.0] * 119),
        {"size_factor_key": "size"},
        ValueError,
        "1 missing.*drop these cells",
    ),
    "inf size": (lambda a: with_obs(a, size=np.inf), {"size_factor_key": "size"}, ValueError, "found 'inf'"),
    "flags as size": (lambda a: with_obs(a, size=True), {"size_factor_key": "size"}, ValueError, "found 'True'"),
}


@pytest.mark.parametrize("thing", [None, "a.h5ad", np.ones((3, 3)), pd.DataFrame(np.ones((3, 3)))], ids=repr)
def test_what_is_no_anndata_is_refused(thing):
    with pytest.raises(TypeError, match="Expected `adata` to be an AnnData, found .* Read one with"):
        scgpcl.SCGPCL.setup_anndata(thing)


@pytest.mark.parametrize("case", BAD_SETUP)
@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
def test_bad_setup_is_refused_and_changes_nothing(adata, case, refused):
    spoil, kwargs, error, message = BAD_SETUP[case]
    bad = spoil(adata)
    with refused(bad, error, match=message):
        scgpcl.SCGPCL.setup_anndata(bad, **kwargs)


def test_dask_is_told_how_to_load(adata):
    class DaskLike:
        dtype, shape, ndim = np.dtype(float), (120, 60), 2

        def compute(self):
            return None

    from scgpcl import _input

    class Holder:
        X, layers = DaskLike(), {}

    with pytest.raises(TypeError, match=r"adata.X = adata.X.compute\(\)"):
        _input.counts_of(Holder(), None)


def test_csc_on_disk_is_told_how_to_convert(adata, tmp_path):
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(TypeError, match="CSR format"):
        scgpcl.SCGPCL.setup_anndata(backed)


BAD_MODEL = {
    "one cluster": ({"n_clusters": 1}, ValueError, "at least 2, found 1"),
    "too many clusters": ({"n_clusters": 121}, ValueError, "no more clusters than cells"),
    "fraction of clusters": ({"n_clusters": 2.5}, TypeError, "whole number or None"),
    "true clusters": ({"n_clusters": True}, TypeError, "whole number or None"),
    "labels as clusters": ({"n_clusters": "cell_type"}, TypeError, "found 'cell_type'"),
    "dispersion": ({"dispersion": "gene-batch"}, ValueError, "found 'gene-batch'"),
    "start": ({"start": "zero"}, ValueError, "start"),
    "flavor": ({"gene_flavor": "cell_ranger"}, ValueError, "gene_flavor"),
    "latent": ({"n_latent": 0}, ValueError, "n_latent"),
    "hidden": ({"n_hidden": 2.5}, ValueError, "whole number"),
    "scaling": ({"gene_scaling": 1.5}, ValueError, "`gene_scaling` to be a number from 0 to 1, found 1.5"),
    "scaling as text": ({"gene_scaling": "all"}, ValueError, "found 'all'"),
    "genes": ({"n_top_genes": 1}, ValueError, "n_top_genes"),
    "share of genes": ({"n_top_genes": -0.5}, ValueError, "n_top_genes"),
    "all genes as text": ({"n_top_genes": "all"}, ValueError, "found 'all'"),
    "nan clusters": ({"n_clusters": np.nan}, TypeError, "found nan"),
    "negative seed": ({"seed": -1}, ValueError, "`seed` to be a whole number from 0.*found -1"),
    "seed as text": ({"seed": "a"}, ValueError, "found 'a'"),
    "seed with a fraction": ({"seed": 1.5}, ValueError, "found 1.5"),
    "seed too large": ({"seed": 2**70}, ValueError, "4294967295"),
    "graph": ({"use_graph": None}, TypeError, "True or False, found None"),
}


@pytest.mark.parametrize("case", BAD_MODEL)
def test_bad_model_arguments_are_refused(adata, case, refused):
    kwargs, error, message = BAD_MODEL[case]
    scgpcl.SCGPCL.setup_anndata(adata)
    with refused(adata, error, match=message):
        scgpcl.SCGPCL(adata, **kwargs)


@pytest.mark.parametrize("name", ["tau", "neighbor_keep", "feature_drop", "projection", "alpha", "shrinkage"])
def test_arguments_that_moved_are_refused_with_their_new_place(adata, refused, name):
    place = "cluster_plan_kwargs" if name in ("alpha", "shrinkage") else "pretrain_plan_kwargs"
    scgpcl.SCGPCL.setup_anndata(adata)
    with refused(adata, TypeError, match=f"Expected `{name}`.*found it in.*{place}=..{name}.: 0.5"):
        scgpcl.SCGPCL(adata, 3, **{name: 0.5})
    with refused(adata, TypeError, match="Expected known arguments in `SCGPCL`, found 'n_layer'"):
        scgpcl.SCGPCL(adata, 3, n_layer=2)


def test_numbers_of_numpy_are_taken_wherever_those_of_python_are(adata, fit):
    train = {
        "batch_size": np.int64(40),
        "agreement": np.float32(0.5),
        "shuffle_set_split": np.bool_(True),
        "devices": np.int64(1),
    }
    plan = {"tau": np.float64(0.5), "projection": np.bool_(False), "n_neighbors": np.int32(3)}
    train |= {"pretrain_plan_kwargs": plan, "cluster_plan_kwargs": {"alpha": np.float32(2.0)}}
    model = fit(adata, n_clusters=np.int64(3), n_top_genes=np.float64(0.5), use_graph=np.bool_(True), train=train)
    assert type(model.init_params_["non_kwargs"]["n_clusters"]) is int
    assert len(model.selected_genes_) == adata.n_vars // 2
    assert model.predict(batch_size=np.int32(50)).shape == (adata.n_obs,)


BAD_TRAIN = {
    "epochs": ({"max_epochs": -1}, "pretrain_max_epochs"),
    "cluster epochs": ({"cluster_max_epochs": 1.5}, "cluster_max_epochs"),
    "batch size": ({"batch_size": 1}, "batch_size"),
    "early stopping": ({"early_stopping": True}, "train_size"),
    "mps": ({"accelerator": "mps"}, 'accelerator="cpu"'),
    "agreement": ({"agreement_patience": 0}, "agreement_patience"),
    "tolerance": ({"label_tol": 2.0}, "label_tol"),
    "epochs as text": ({"max_epochs": "3"}, "found '3'"),
    "nan epochs": ({"max_epochs": np.nan}, "found nan"),
    "flag as epochs": ({"max_epochs": True}, "found True"),
    "whole batch": ({"batch_size": "all"}, "found 'all'"),
    "no training": ({"train_size": 0}, "`train_size`.*found 0"),
    "too much training": ({"train_size": 1.5}, "found 1.5"),
    "nan training": ({"train_size": np.nan}, "found nan"),
    "one training cell": ({"train_size": 0.001}, "at least 2 cells to train on.*Raise it"),
    "validation": ({"train_size": 0.8, "validation_size": 0.5}, "sum to 1.*Lower one"),
    "validation of all": ({"validation_size": 0.5}, "sum to 1"),
    "unknown accelerator": ({"accelerator": "warp"}, "'auto'.*found 'warp'"),
    "accelerator as a number": ({"accelerator": 3}, "found 3"),
    "no device": ({"devices": 0}, "at least 1.*found 0"),
    "devices as text": ({"devices": "two"}, "found 'two'"),
    "rate": ({"pretrain_plan_kwargs": {"lr": -1.0}}, r"`pretrain_plan_kwargs\['lr'\]`.*found -1"),
    "rate as text": ({"cluster_plan_kwargs": {"lr": "small"}}, "found 'small'"),
    "optimiser": ({"pretrain_plan_kwargs": {"optimizer": "SGD"}}, "'AdamW', 'Adadelta'.*found 'SGD'"),
    "no granularity": ({"pretrain_plan_kwargs": {"granularity": ()}}, r"\(1.0, 1.5, 2.0\), found \(\)"),
    "one prototype": ({"pretrain_plan_kwargs": {"n_prototypes": (1,)}}, "n_prototypes.*found 1"),
    "granularity of zero": ({"pretrain_plan_kwargs": {"granularity": (0,)}}, "found 0"),
    "no genes to decode": ({"pretrain_plan_kwargs": {"decoded_genes": 0}}, r"from 1e-09 to 1, found 0"),
    "more genes than there are": ({"pretrain_plan_kwargs": {"decoded_genes": 1.5}}, r"found 1\.5"),
    "prototypes": ({"pretrain_plan_kwargs": {"prototypes": "never"}}, "'epoch', 'batch'.*found 'never'"),
    "weight": ({"pretrain_plan_kwargs": {"lambda_instance": np.nan}}, "found nan"),
    "negative weight": (
        {"clustering": "self_training", "cluster_plan_kwargs": {"lambda_reconstruction": -1}},
        "found -1",
    ),
    "clustering": ({"clustering": "k-means"}, "'distillation', 'self_training'.*found 'k-means'"),
    "negative agreement": ({"agreement": -0.5}, "`agreement`.*found -0.5"),
    "no depth": ({"cluster_plan_kwargs": {"depth": 0.0}}, r"`cluster_plan_kwargs\['depth'\]`.*found 0"),
    "more than all molecules": ({"cluster_plan_kwargs": {"depth": 1.5}}, "found 1.5"),
    "tau": ({"pretrain_plan_kwargs": {"tau": 0.0}}, "tau"),
    "infinite tau": ({"pretrain_plan_kwargs": {"tau": np.inf}}, "finite number.*found inf"),
    "nan tau": ({"pretrain_plan_kwargs": {"tau": np.nan}}, "found nan"),
    "keep": ({"pretrain_plan_kwargs": {"neighbor_keep": 0.0}}, "neighbor_keep"),
    "drop": ({"pretrain_plan_kwargs": {"feature_drop": 1.0}}, "feature_drop"),
    "alpha": ({"cluster_plan_kwargs": {"alpha": 0.0}}, "alpha"),
    "infinite alpha": ({"cluster_plan_kwargs": {"alpha": np.inf}}, "found inf"),
    "shrinkage": ({"cluster_plan_kwargs": {"shrinkage": 2}}, "shrinkage"),
    "no shrinkage": ({"cluster_plan_kwargs": {"shrinkage": None}}, "found None"),
    "shrinkage as text": ({"cluster_plan_kwargs": {"shrinkage": "auto"}}, "found 'auto'"),
    "warm-up": ({"pretrain_plan_kwargs": {"warmup_epochs": -1}}, "found -1"),
    "double precision": ({"precision": "64-true"}, "`precision` to be one of.*found '64-true'"),
    "double precision as a number": ({"precision": 64}, "found 64"),
    "half weights": ({"precision": "bf16-true"}, "found 'bf16-true'"),
    "no gradients": ({"accumulate_grad_batches": 0}, "`accumulate_grad_batches`.*found 0"),
    "workers": ({"datasplitter_kwargs": {"num_workers": -1}}, "found -1"),
    "parts": ({"datasplitter_kwargs": {"external_indexing": [np.arange(3)]}}, "each of the 120 cells once.*1 arrays"),
    "parts with cells that do not exist": (
        {"datasplitter_kwargs": {"external_indexing": [np.arange(300), np.array([], int), np.array([], int)]}},
        "300 positions",
    ),
}


@pytest.mark.parametrize("plan", [PretrainPlan, ClusterPlan, DistillationPlan, DecoderPlan])
def test_every_argument_of_a_plan_has_a_rule_that_takes_its_default(plan):
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(plan).parameters.items()
        if name not in SET_BY_RUN and parameter.default is not parameter.empty
    }
    checked = check_kwargs(defaults, plan, "plan_kwargs", without=SET_BY_RUN)
    assert checked == defaults


def test_numbers_of_prototypes_are_taken(adata, fit):
    fit(adata, train={"pretrain_max_epochs": 1, "pretrain_plan_kwargs": {"n_prototypes": (3, 5), "granularity": None}})


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_bad_train_arguments_are_refused(adata, case, refused):
    kwargs, message = BAD_TRAIN[case]
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    with refused(adata, ValueError, match=message):
        model.train(**kwargs)
    assert not model.is_trained_


UNKNOWN_TRAIN = {
    "trainer": ({"max_epoch": 3}, "found 'max_epoch'. Check the spelling"),
    "plan": ({"pretrain_plan_kwargs": {"lrr": 1}}, "found 'lrr'. It takes decoded_genes, encoder_lr"),
    "fixed here": ({"pretrain_plan_kwargs": {"n_clusters": 4}}, "found 'n_clusters'"),
    "plan of the other stage": ({"cluster_plan_kwargs": {"warmup_epochs": 1}}, "found 'warmup_epochs'"),
    "plan of the other clustering": (
        {"cluster_plan_kwargs": {"lambda_reconstruction": 1.0}},
        "found 'lambda_reconstruction'. It takes alpha, depth",
    ),
    "rate of scvi-tools": ({"plan_kwargs": {"lr": 0.1}}, "found 'plan_kwargs'. Pass `pretrain_plan_kwargs`"),
    "rate": ({"lr": 0.1}, r"found 'lr', .*`pretrain_plan_kwargs=\{'lr': ...\}` or `cluster_plan_kwargs"),
    "temperature": ({"tau": 0.1}, r"found 'tau', .*Pass `pretrain_plan_kwargs=\{'tau': ...\}`\."),
    "learning rate": ({"learning_rate": 0.1}, "found 'learning_rate'. Pass"),
    "gpu": ({"use_gpu": True}, "found 'use_gpu'. Pass `accelerator='gpu'`"),
    "gpu, off": ({"use_gpu": False}, "`accelerator='cpu'`"),
    "epochs of old": ({"n_epochs": 3}, "Pass `max_epochs`"),
    "early stopping of old": ({"early_stopping_kwargs": {}}, "`early_stopping=True`"),
    "seed": ({"seed": 1}, r"`SCGPCL\(adata, seed=...\)`"),
    "one batch": ({"fast_dev_run": True}, "found 'fast_dev_run'. For a quick test, pass `max_epochs=1`"),
    "two batches": ({"fast_dev_run": 2}, "found 'fast_dev_run'"),
    "fewer batches": ({"overfit_batches": 1}, r"adata\[:256\].copy"),
    "a share of the batches": ({"limit_train_batches": 0.1}, "found 'limit_train_batches'"),
    "no batches": ({"limit_train_batches": 0}, "found 'limit_train_batches'"),
    "bare bones": ({"barebones": True}, "found 'barebones'"),
    "depth of the other clustering": (
        {"clustering": "self_training", "cluster_plan_kwargs": {"depth": 0.1}},
        "found 'depth'. It takes alpha, decoded_genes",
    ),
    "no dictionary": ({"pretrain_plan_kwargs": [1]}, r"dictionary of keyword arguments, found \[1\]"),
    "splitter": ({"datasplitter_kwargs": {"workers": 1}}, "found 'workers'. It takes"),
    "callbacks": ({"callbacks": 3}, "list of Lightning callbacks, found 3"),
    "callbacks as text": ({"callbacks": ""}, "list of Lightning callbacks, found ''"),
    "callbacks that are used up": ({"callbacks": iter([])}, "list of Lightning callbacks"),
    "a function as callback": ({"callbacks": [print]}, "list of Lightning callbacks"),
    "projection": ({"pretrain_plan_kwargs": {"projection": "yes"}}, "True or False, found 'yes'"),
    "flag": ({"shuffle_set_split": "no"}, "True or False, found 'no'"),
}


@pytest.mark.parametrize("case", UNKNOWN_TRAIN)
def test_unknown_train_arguments_are_refused_before_any_work(adata, case, refused):
    kwargs, message = UNKNOWN_TRAIN[case]
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    with refused(adata, TypeError, match=message):
        model.train(**kwargs)
    assert model.gene_names_ is None


def test_defaults_of_lightning_are_taken(adata, fit):
    defaults = {
        "fast_dev_run": False,
        "overfit_batches": 0.0,
        "limit_train_batches": None,
        "barebones": False,
        "callbacks": None,
        "precision": "32-true",
        "detect_anomaly": False,
    }
    plain = fit(adata.copy())
    np.testing.assert_array_equal(fit(adata, train=defaults).predict(), plain.predict())


OTHER_FEATURES = {
    "antibodies": (
        "feature_types",
        ["Gene Expression"] * 40 + ["Antibody Capture"] * 20,
        "20 of 60.*'Antibody Capture'",
    ),
    "peaks": ("feature_types", ["Gene Expression"] * 10 + ["Peaks"] * 50, "50 of 60.*== 'Gene Expression'"),
    "guides": ("feature_types", ["Gene Expression"] * 59 + ["CRISPR Guide Capture"], "1 of 60"),
    "proteins alone": ("feature_types", ["Antibody Capture"] * 60, "60 of 60.*Use the counts of genes"),
    "modalities": ("modality", ["rna"] * 30 + ["prot"] * 30, "'prot'.*== 'rna'"),
    "modalities of other names": ("modality", ["rna"] * 30 + ["methylation"] * 30, "'methylation'.*== 'rna'"),
    "modalities as categories": ("modality", pd.Categorical(["GEX"] * 30 + ["ATAC"] * 30), "'ATAC'.*== 'GEX'"),
    "biotypes with tags": ("feature_type", ["protein_coding"] * 50 + ["HTO"] * 10, "10 of 60.*'HTO'"),
}


@pytest.mark.parametrize("case", OTHER_FEATURES)
def test_features_that_are_no_genes_are_warned_of(adata, case):
    column, values, message = OTHER_FEATURES[case]
    adata.var[column] = values
    with pytest.warns(UserWarning, match=f"Expected genes alone, found {message}" if message[0].isdigit() else message):
        scgpcl.SCGPCL.setup_anndata(adata)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("feature_types", ["Gene Expression"] * 60),
        ("feature_type", ["protein_coding", "lncRNA"] * 30),
        ("feature_biotype", ["gene"] * 60),
        ("modality", ["RNA"] * 60),
        ("feature_types", [np.nan] * 60),
    ],
)
def test_genes_alone_are_not_warned_of(adata, column, values):
    adata.var[column] = values
    scgpcl.SCGPCL.setup_anndata(adata)  # a warning is an error in tests


def test_genes_removed_after_setup_are_refused(adata, refused):
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    adata._inplace_subset_var(np.arange(adata.n_vars) % 3 > 0)
    with refused(
        adata, ValueError, match="Expected the 60 registered genes.*found 40 genes, of which 40 are.*new model"
    ):
        model.train(max_epochs=1)


def test_counts_normalised_after_setup_are_refused(adata, refused):
    import scanpy as sc

    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    sc.pp.normalize_total(adata)
    with refused(adata, ValueError, match="looks normalised"):
        model.train(max_epochs=1)


def test_model_needs_setup(adata):
    with pytest.raises(ValueError, match="Expected an AnnData that is registered.*Call `SCGPCL.setup_anndata"):
        scgpcl.SCGPCL(adata, 3)
    with pytest.raises(ValueError, match="Expected an AnnData, found none"):
        scgpcl.SCGPCL()
    with pytest.raises(TypeError, match="found DataFrame"):
        scgpcl.SCGPCL(pd.DataFrame(), 3)
