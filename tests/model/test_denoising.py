"""Denoised expression: scVI's arguments, and a decoder that is trained on for it."""

import inspect

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgpcl
from scgpcl import _keys

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def model(adata, fit):
    return fit(adata, n_top_genes=40)


def test_arguments_are_scvis(adata, model):
    from scvi.model import SCVI

    ours = inspect.signature(scgpcl.SCGPCL.get_normalized_expression).parameters
    theirs = inspect.signature(SCVI.get_normalized_expression).parameters
    for name in ("adata", "indices", "gene_list", "library_size", "return_numpy", "batch_size"):
        assert ours[name].default == theirs[name].default, name


def test_table_has_the_form_of_scvis(adata, model):
    from scvi.model import SCVI

    other = ad.AnnData(adata.X.copy(), obs=adata.obs[[]].copy(), var=adata.var[[]].copy())
    other = other[:, model.selected_genes_].copy()
    other = other[np.asarray(other.X.sum(1)).ravel() > 0].copy()
    SCVI.setup_anndata(other)
    scvi = SCVI(other, n_hidden=8, n_latent=4)
    scvi.is_trained_ = True
    for kwargs in ({}, {"library_size": 100.0}, {"indices": [3, 5]}, {"return_numpy": True}, {"return_numpy": False}):
        theirs = scvi.get_normalized_expression(**kwargs)
        ours = model.get_normalized_expression(other, **kwargs)
        assert type(ours) is type(theirs)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(np.asarray(ours).sum(1), np.asarray(theirs).sum(1), rtol=1e-4)
        if isinstance(ours, pd.DataFrame):
            assert ours.index.equals(theirs.index)
            assert list(ours.columns) == list(theirs.columns)


@pytest.mark.parametrize("size", [-1.0, "observed", np.nan])
def test_bad_library_sizes_are_refused(model, size):
    with pytest.raises(ValueError, match="library_size"):
        model.get_normalized_expression(library_size=size)


def test_trained_decoder_is_closer_to_true_means_than_neighbours_and_sizes(fit):
    """Poisson counts of known means: three groups, whose cells differ in library size only."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(1)
    groups = rng.integers(3, size=300)
    profile = rng.gamma(0.6, 1.0, 80) * np.where(rng.random((3, 80)) < 0.3, rng.lognormal(0.0, 1.5, (3, 80)), 1.0)
    size = rng.lognormal(0.0, 0.3, 300)[:, None]
    truth = profile[groups] / profile[groups].sum(1, keepdims=True)
    counts = rng.poisson(60 * size * truth).astype(np.float32)
    cells = ad.AnnData(sp.csr_matrix(counts))
    model = fit(cells, train={"pretrain_max_epochs": 8})
    before = (model.get_latent_representation(), model.predict(soft=True).to_numpy())
    observed = cells.obs["scgpcl_cluster"].copy()
    rough = model.get_normalized_expression(return_numpy=True)
    model.train_decoder(**QUIET)
    denoised = model.get_normalized_expression(return_numpy=True)

    normal = counts / counts.sum(1, keepdims=True)
    z = PCA(20, random_state=0).fit_transform(np.log1p(1e4 * normal))
    near = NearestNeighbors(n_neighbors=15).fit(z).kneighbors(z, return_distance=False)
    error = lambda x: np.sqrt(np.mean((np.log1p(1e4 * x) - np.log1p(1e4 * truth)) ** 2))
    assert error(denoised) < error(normal[near].mean(1))
    assert error(denoised) < error(normal)
    assert error(denoised) < error(rough)
    np.testing.assert_array_equal(model.get_latent_representation(), before[0])
    np.testing.assert_array_equal(model.predict(soft=True), before[1])
    assert cells.obs["scgpcl_cluster"].equals(observed)


def test_decoder_training_keeps_the_best_epoch_and_is_saved(adata, fit, tmp_path):
    model = fit(adata, n_top_genes=40)
    stages = len(model.history_["stage"])
    model.train_decoder(max_epochs=8, patience=2, **QUIET)
    stage = model.history_["stage"]["stage"]
    assert set(stage.iloc[stages:]) == {3}
    loss = model.history_[_keys.VALIDATION_LOSS][_keys.VALIDATION_LOSS]
    assert len(loss) == len(stage) - stages
    assert len(loss) == 8 or loss.to_numpy().argmin() == len(loss) - 3
    assert len(model.train_indices) == adata.n_obs
    wanted = model.get_normalized_expression()
    model.save(tmp_path / "m")
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    pd.testing.assert_frame_equal(loaded.get_normalized_expression(), wanted)
    again = fit(adata, n_top_genes=40)
    again.train_decoder(max_epochs=8, patience=2, **QUIET)
    pd.testing.assert_frame_equal(again.get_normalized_expression(), wanted)


def test_statistics_of_the_trained_decoder_are_those_of_all_cells(adata, model):
    model.train_decoder(max_epochs=2, **QUIET)
    batch = next(iter(model._read(None, np.arange(adata.n_obs), 200)))
    hidden = model.module.decoder.hidden
    with torch.no_grad():
        x = hidden.linear(model.module.encode(batch)).double()
    np.testing.assert_allclose(hidden.norm.mean, x.mean(0), atol=1e-4)
    np.testing.assert_allclose(hidden.norm.var, x.var(0, unbiased=False), rtol=1e-3, atol=1e-5)


BAD_TRAINING = {
    "epochs": ({"max_epochs": 0}, "max_epochs"),
    "validation": ({"validation_size": 0.0}, "validation_size"),
    "patience": ({"patience": 0}, "patience"),
    "noise": ({"noise": -1.0}, "noise"),
    "batch size": ({"batch_size": 1}, "batch_size"),
    "mps": ({"accelerator": "mps"}, 'accelerator="cpu"'),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_decoder_training_is_refused(adata, model, case, untouched):
    kwargs, message = BAD_TRAINING[case]
    before = model.get_normalized_expression()
    with untouched(adata), pytest.raises(ValueError, match=message):
        model.train_decoder(**kwargs)
    pd.testing.assert_frame_equal(model.get_normalized_expression(), before)


def test_decoder_training_needs_counts_a_trained_model_and_its_data(adata, fit, tmp_path):
    model = fit(adata)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="Expected cells to train on"):
        scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu").train_decoder(**QUIET)
    with pytest.raises(RuntimeError, match="model.train"):
        scgpcl.SCGPCL(adata, 3).train_decoder()
    few = fit(adata[:15].copy())
    with pytest.raises(ValueError, match="at least 20 cells"):
        few.train_decoder(**QUIET)
