"""What every gene puts into the difference between two clusters."""

import numpy as np
import pytest


def slow_difference(model, adata, own, other, **kwargs):
    """Mean difference of the squared distances of the cluster's cells to the two centres, from latent vectors."""
    z = model.get_latent_representation(adata, **kwargs).astype(np.float64)
    centers = model.module.centers.detach().double().numpy()
    inside = model.predict(adata, soft=True, **kwargs).to_numpy().argmax(1) == own
    distance = ((z[inside, None] - centers[[own, other]]) ** 2).sum(2)
    return (distance[:, 1] - distance[:, 0]).mean(), int(inside.sum())


@pytest.mark.parametrize("setup", [{}, {"batch_key": "batch"}], ids=["one batch", "batches"])
def test_parts_sum_to_the_difference_of_the_distances(adata, fit, setup):
    model = fit(adata, setup=setup, n_top_genes=40)
    assert model.module.depth.weight.abs().max() > 0  # the correction for depth takes part
    table = model.get_gene_attributions("1", "2", batch_size=50)
    wanted, n_cells = slow_difference(model, adata, 1, 2)
    assert table.attrs["n_cells"] == n_cells
    assert table["contribution"].sum() + table.attrs["constant"] == pytest.approx(wanted, rel=1e-4)
    assert table.attrs["difference"] == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_allclose(table["expression"] + table["graph"], table["contribution"])
    assert sorted(table.index) == sorted(model.selected_genes_)
    assert table["contribution"].is_monotonic_decreasing


@pytest.mark.filterwarnings("ignore:.* genes that the model uses are missing:UserWarning")
def test_new_cells_with_missing_genes(adata, fit):
    model = fit(adata, n_top_genes=40)
    lost = model.selected_genes_[:5]
    query = adata[:60, ~adata.var_names.isin(lost)].copy()
    table = model.get_gene_attributions("0", None, query)
    own, other = 0, int(table.attrs["neighbor"])
    assert table["contribution"].sum() + table.attrs["constant"] == pytest.approx(
        slow_difference(model, query, own, other)[0], rel=1e-4
    )
    assert (table.loc[lost, "contribution"] == 0).all()


def test_cells_of_a_single_gene(adata, fit):
    """A cell that expresses one gene of the model has one neighbour in the graph."""
    model = fit(adata, n_top_genes=40)
    query = adata[:60].copy()
    x = query.X.toarray()
    x[:, adata.var_names.isin(model.selected_genes_)] = 0.0
    x[:, adata.var_names.get_loc(model.selected_genes_[0])] = 3.0
    query.X = x
    own = int(np.bincount(model.predict(query).astype(int)).argmax())
    table = model.get_gene_attributions(str(own), None, query)
    wanted, n_cells = slow_difference(model, query, own, int(table.attrs["neighbor"]))
    assert table.attrs["n_cells"] == n_cells
    assert table["contribution"].sum() + table.attrs["constant"] == pytest.approx(wanted, rel=1e-4)


def test_genes_that_differ_contribute_most(adata, fit):
    """The genes whose features differ most between a cluster and its neighbour are those that tell the two apart."""
    model = fit(adata, n_top_genes=40, train={"pretrain_max_epochs": 4})
    table = model.get_gene_attributions("0")
    labels = model.predict()
    log = np.log1p(adata.to_df().div(adata.to_df().sum(1), axis=0) * 100)
    log = (log - log.mean()) / log.std()
    difference = (log[labels == "0"].mean() - log[labels == table.attrs["neighbor"]].mean()).abs()
    assert np.corrcoef(difference[table.index], table["contribution"])[0, 1] > 0.4


def test_bad_names_are_refused(adata, fit):
    model = fit(adata, n_top_genes=40)
    with pytest.raises(KeyError, match=r"cluster from training, '0', '1', '2', found 'B'\."):
        model.get_gene_attributions("B")
    with pytest.raises(ValueError, match="found '1' twice"):
        model.get_gene_attributions("1", "1")
    labels = model.predict()
    with pytest.raises(ValueError, match="cells of the cluster '1' to explain, found none"):
        model.get_gene_attributions("1", indices=np.flatnonzero(labels != "1"))
    model.merge(["0", "1"])
    assert set(model.predict()) == {"0+1", "2"}
    for arguments in (["0+1"], ["2", "0+1"]):
        with pytest.raises(KeyError, match=r"from training, .* found '0\+1'. Call `model.cut\(model.n_clusters_\)`"):
            model.get_gene_attributions(*arguments)
    assert model.get_gene_attributions("1").attrs["cluster"] == "1"
