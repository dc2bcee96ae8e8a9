import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl


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
    "sparse array": (lambda a: with_x(a, sp.csr_array(a.X)), {}, TypeError, "scipy.sparse.csr_matrix"),
    "one cell": (lambda a: a[:1].copy(), {}, ValueError, "found 1 cells"),
    "one gene": (lambda a: a[:, :1].copy(), {}, ValueError, "1 genes"),
    "view": (lambda a: a[:50], {}, ValueError, "adata.copy()"),
}


@pytest.mark.parametrize("case", BAD_SETUP)
@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
def test_bad_setup_is_refused_and_changes_nothing(adata, case, untouched):
    spoil, kwargs, error, message = BAD_SETUP[case]
    bad = spoil(adata)
    if case == "no counts":
        with pytest.raises(error, match=message):
            scgpcl.SCGPCL.setup_anndata(bad, **kwargs)
        assert "_scvi_uuid" not in bad.uns
        return
    with untouched(bad), pytest.raises(error, match=message):
        scgpcl.SCGPCL.setup_anndata(bad, **kwargs)


def test_dask_is_told_how_to_load(adata):
    class DaskLike:
        dtype, shape, ndim = np.dtype(float), (120, 60), 2

        def compute(self):
            return None

    from scgpcl.model import _checks

    class Holder:
        X, layers = DaskLike(), {}

    with pytest.raises(TypeError, match=r"adata.X = adata.X.compute\(\)"):
        _checks.counts_of(Holder(), None)


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
    "reconstruction": ({"reconstruction": "nb"}, ValueError, "'zinb', 'mse'"),
    "start": ({"start": "zero"}, ValueError, "start"),
    "flavor": ({"gene_flavor": "cell_ranger"}, ValueError, "gene_flavor"),
    "latent": ({"n_latent": 0}, ValueError, "n_latent"),
    "hidden": ({"n_hidden": 2.5}, ValueError, "whole number"),
    "layers": ({"n_layers": -1}, ValueError, "n_layers"),
    "tau": ({"tau": 0.0}, ValueError, "tau"),
    "alpha": ({"alpha": 0.0}, ValueError, "alpha"),
    "total": ({"feature_total": -1.0}, ValueError, "feature_total"),
    "keep": ({"neighbor_keep": 0.0}, ValueError, "neighbor_keep"),
    "drop": ({"feature_drop": 1.0}, ValueError, "feature_drop"),
    "shrinkage": ({"shrinkage": 2}, ValueError, "shrinkage"),
    "genes": ({"n_top_genes": 1}, ValueError, "n_top_genes"),
    "share of genes": ({"n_top_genes": -0.5}, ValueError, "n_top_genes"),
}


@pytest.mark.parametrize("case", BAD_MODEL)
def test_bad_model_arguments_are_refused(adata, case, untouched):
    kwargs, error, message = BAD_MODEL[case]
    scgpcl.SCGPCL.setup_anndata(adata)
    with untouched(adata), pytest.raises(error, match=message):
        scgpcl.SCGPCL(adata, **kwargs)


BAD_TRAIN = {
    "epochs": ({"max_epochs": -1}, "pretrain_max_epochs"),
    "cluster epochs": ({"cluster_max_epochs": 1.5}, "cluster_max_epochs"),
    "batch size": ({"batch_size": 1}, "batch_size"),
    "early stopping": ({"early_stopping": True}, "train_size"),
    "mps": ({"accelerator": "mps"}, 'accelerator="cpu"'),
    "agreement": ({"agreement_patience": 0}, "agreement_patience"),
    "tolerance": ({"label_tol": 2.0}, "label_tol"),
}


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_bad_train_arguments_are_refused(adata, case, untouched):
    kwargs, message = BAD_TRAIN[case]
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    with untouched(adata), pytest.raises(ValueError, match=message):
        model.train(**kwargs)
    assert not model.is_trained_


@pytest.mark.parametrize(
    "getter",
    ["predict", "get_latent_representation", "get_normalized_expression", "get_likelihood_parameters", "annotate"],
)
def test_untrained_model_is_refused(adata, getter, untouched):
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    with untouched(adata), pytest.raises(RuntimeError, match="model.train"):
        getattr(model, getter)()


def test_counts_normalised_after_setup_are_refused(adata, untouched):
    import scanpy as sc

    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 3)
    sc.pp.normalize_total(adata)
    with untouched(adata), pytest.raises(ValueError, match="looks normalised"):
        model.train(max_epochs=1)


def test_model_needs_setup(adata):
    with pytest.raises(ValueError, match="setup_anndata"):
        scgpcl.SCGPCL(adata, 3)


def test_new_cells_are_checked_like_training_cells(adata, fit, untouched):
    model = fit(adata, setup={"batch_key": "batch"})
    query = ad.AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy(), var=adata.var[[]].copy())
    for spoil, error, message in [
        (lambda q: changed(q, -2.0), ValueError, "found -2"),
        (no_cell, ValueError, "empty cells"),
        (lambda q: with_obs(q, batch="c"), ValueError, "'c'"),
        (lambda q: ad.AnnData(q.X, obs=pd.DataFrame(index=q.obs_names), var=q.var), KeyError, "batch_key"),
    ]:
        bad = spoil(query.copy())
        with untouched(bad), pytest.raises(error, match=message):
            model.predict(bad)


@pytest.mark.parametrize(
    ("indices", "message"), [([500], "below 120"), ([0.5], "whole numbers"), ([True], "mask of 120")]
)
def test_bad_indices_are_refused(adata, fit, indices, message):
    model = fit(adata)
    with pytest.raises(IndexError, match=message):
        model.predict(indices=indices)


def test_genes_without_counts_and_constant_genes_are_legal(adata, fit):
    x = adata.X.toarray()
    x[:, 5] = 0
    x[:, 6] = 3
    adata.X = sp.csr_matrix(x)
    assert np.isfinite(fit(adata).get_latent_representation()).all()
