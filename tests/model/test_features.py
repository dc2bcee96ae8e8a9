import numpy as np
import pytest
from sklearn.decomposition import PCA

import scgpcl
from scgpcl.pp import _axes, principal_axes

#: Principal axes that are compared.
N_AXES = 50


def components(cells, moments):
    """Centred scores of all cells along the principal axes."""
    scores = _axes.scores_along(cells, moments, principal_axes(cells, moments, N_AXES, seed=0))
    return scores - scores.mean(0)


@pytest.mark.parametrize(("gene_scaling", "feature_total"), [(0.0, 20.0), (0.75, 2000.0), (1.0, None), (0.75, 5.0)])
def test_features_divide_log_counts_by_a_power_of_their_deviation(adata, fit, gene_scaling, feature_total):
    train = {"pretrain_max_epochs": 0, "cluster_max_epochs": 0}
    model = fit(adata, n_top_genes=40, gene_scaling=gene_scaling, feature_total=feature_total, train=train)
    library = np.asarray(adata.X.sum(1))
    median = np.median(library)
    assert 20 < median < 2000
    factor = feature_total / median if feature_total is not None and feature_total < median else 1.0  # deep libraries
    log = np.log1p(factor * adata[:, model.selected_genes_].X.toarray().astype(float) / (library / median))
    scaled = (log - log.mean(0)) / log.std(0) ** gene_scaling
    scaled /= np.median(log.std(0) ** (1.0 - gene_scaling))  # the median gene has a deviation of one
    moments = model.module.moments
    cells = model._prepare()
    found = cells.features(moments, np.arange(adata.n_obs)).toarray() + moments.offset
    np.testing.assert_allclose(found, np.minimum(scaled, 10.0), rtol=1e-4, atol=1e-4)
    assert np.median(scaled.std(0)) == pytest.approx(1.0)


def test_components_are_those_of_dense_pca(adata, fit):
    model = fit(adata)
    moments, cells = model.module.moments, model._prepare()
    dense = cells.features(moments, np.arange(adata.n_obs)).toarray() + moments.offset
    wanted = PCA(N_AXES, svd_solver="full").fit_transform(dense)
    found = components(cells, moments)
    n = 30  # later components are nearly alike in variance
    np.testing.assert_allclose(np.abs(found[:, :n]), np.abs(wanted[:, :n]), rtol=0.02, atol=0.02)


def test_components_of_a_sample_place_all_cells(adata, fit, monkeypatch):
    model = fit(adata)
    cells = model._prepare()
    whole = components(cells, model.module.moments)
    monkeypatch.setattr(_axes, "MAX_AXES_CELLS", adata.n_obs - 40)  # scores are made in blocks
    found = components(cells, model.module.moments)
    assert found.shape == whole.shape
    n = 2  # the cells are of three groups; the plane they span is found, axes of nearly the same variance may turn in it
    bases = [np.linalg.qr(scores[:, :n])[0] for scores in (found, whole)]
    assert (np.linalg.svd(bases[0].T @ bases[1])[1] > 0.9).all()


def test_cells_that_are_all_alike_have_no_axes(adata, fit):
    model = fit(adata)
    cells = model._prepare()
    cells.rows = lambda index, rows=cells.rows: rows(np.zeros(len(index), dtype=int))
    cells.size_factor = np.ones_like(cells.size_factor)
    assert principal_axes(cells, model.module.moments, N_AXES, seed=0) is None


@pytest.mark.parametrize("n_cells", [20, 120])
def test_training_with_fewer_cells_than_axes(adata, fit, n_cells):
    small = adata[:n_cells].copy()
    assert fit(small).predict().shape == (n_cells,)


def test_genes_that_must_stay_in_replace_the_last_of_the_others(adata):
    scgpcl.SCGPCL.setup_anndata(adata)
    train = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    sets = {}
    for flavor in ("pearson_residuals", "seurat"):
        for keep in (None, ["gene7", "gene3", "gene3"], [f"gene{i}" for i in range(30)]):
            model = scgpcl.SCGPCL(adata, 3, n_top_genes=20, gene_flavor=flavor, keep_genes=keep, n_hidden=8, n_latent=4)
            if keep is not None and len(keep) > 20:
                assert model.module.n_genes == 30
                continue
            model.train(**train)
            sets[flavor, keep is None] = set(model.selected_genes_)
        free, kept = sets[flavor, True], sets[flavor, False]
        assert len(kept) == 20
        assert {"gene7", "gene3"} <= kept
        assert kept - {"gene7", "gene3"} <= free
    with pytest.raises(KeyError, match=r"'gone'.*Check the spelling"):
        scgpcl.SCGPCL(adata, 3, keep_genes=["gene1", "gone"])
    with pytest.raises(TypeError, match="a list of gene names"):
        scgpcl.SCGPCL(adata, 3, keep_genes="gene1")
