"""Input that is unusual but legal: it trains, labels every cell and saves."""

import numpy as np
import pytest
import scipy.sparse as sp

import scgpcl


def two_genes(adata):
    x = adata.X.toarray()[:, :2] + 1
    small = adata[:, :2].copy()
    small.X = sp.csr_matrix(x)
    return small, {}, {}


def twenty_cells(adata):
    return adata[:20].copy(), {}, {}


def three_cells(adata):
    return adata[:3].copy(), {"n_clusters": 2}, {}


def constant_genes(adata):
    x = adata.X.toarray()
    x[:, 5], x[:, 6] = 0, 3
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def all_genes_constant(adata):
    adata.X = sp.csr_matrix(np.ones(adata.shape, dtype=np.float32))
    return adata, {}, {}


def gene_in_one_cell(adata):
    x = adata.X.toarray()
    x[:, 5] = 0
    x[11, 5] = 7
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def mostly_silent_genes(adata):
    x = adata.X.toarray()
    x[:, 10:] = 0
    x[:, 0] += 1
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def huge_counts(adata):
    x = adata.X.toarray()
    x[x > 0] *= 1e5
    x[3, 4] = 1e6
    adata.X = sp.csr_matrix(np.minimum(x, 1e6))
    return adata, {}, {}


def unequal_libraries(adata):
    """Totals from ten to a million."""
    rng = np.random.default_rng(0)
    total = np.logspace(1, 6, adata.n_obs)
    share = adata.X.toarray() + 0.1
    share /= share.sum(1, keepdims=True)
    x = rng.poisson(share * total[:, None]).astype(np.float32)
    x[:, 0] = np.maximum(x[:, 0], 1)
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def clusters_near_cells(adata):
    return adata[:20].copy(), {"n_clusters": 19}, {}


def clusters_as_cells(adata):
    return adata[:20].copy(), {"n_clusters": 20}, {}


def duplicate_cells(adata):
    x = adata.X.toarray()
    x[10:] = x[:10].repeat(5, axis=0)
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def one_cell_in_all(adata):
    x = np.tile(adata.X.toarray()[:1], (adata.n_obs, 1))
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def cells_of_one_gene(adata):
    x = adata.X.toarray()
    x[:10] = 0
    x[np.arange(10), np.arange(10)] = 1
    adata.X = sp.csr_matrix(x)
    return adata, {}, {}


def tail_of_one_cell(adata):
    return adata[:33].copy(), {}, {"batch_size": 16}


def batches_of_two(adata):
    return adata[:21].copy(), {}, {"batch_size": 2}


def batch_of_one_cell(adata):
    adata.obs["batch"] = ["lone"] + ["rest"] * (adata.n_obs - 1)
    return adata, {"setup": {"batch_key": "batch"}}, {}


def flags_as_counts(adata):
    adata.X = sp.csr_matrix(adata.X.toarray() > 0)
    return adata, {}, {}


def explicit_zeros(adata):
    x = adata.X.copy()
    x.data[np.diff(x.indptr, prepend=0)[0] + 1 :: 7] = 0  # stored, but no edge
    keep = np.asarray(x.sum(1)).ravel() > 0
    adata.X = x
    adata = adata[keep].copy()
    return adata, {}, {}


CASES = [
    two_genes, twenty_cells, three_cells, constant_genes, all_genes_constant, gene_in_one_cell, mostly_silent_genes,
    huge_counts, unequal_libraries, clusters_near_cells, clusters_as_cells, duplicate_cells, one_cell_in_all,
    cells_of_one_gene, tail_of_one_cell, batches_of_two, batch_of_one_cell, flags_as_counts, explicit_zeros,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Category 0 in", "ignore:Transforming to str index")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_trains_and_labels_every_cell(cells, build, case):
    adata, model, train = case(cells())
    model = build(adata, train={"pretrain_max_epochs": 2, **train}, **model)
    probability = model.predict(soft=True).to_numpy()
    assert np.isfinite(model.get_latent_representation()).all()
    np.testing.assert_allclose(probability.sum(1), 1.0, rtol=1e-4)
    assert set(adata.obs["scgpcl_cluster"]) <= {str(k) for k in range(model.n_clusters_)}
    assert all(np.isfinite(table.to_numpy(dtype=float)).all() for table in model.history_.values())
    assert np.isfinite(model.get_normalized_expression(return_numpy=True)).all()


def test_equal_cells_get_equal_labels(cells, build):
    adata, _, _ = duplicate_cells(cells())
    build(adata, train={"pretrain_max_epochs": 2})
    labels = adata.obs["scgpcl_cluster"].to_numpy()
    for cell in range(10):
        assert len(set(labels[10 + 5 * cell : 15 + 5 * cell])) == 1


def test_a_single_new_cell_gets_the_label_it_has_among_others(trained, cells):
    query = cells(seed=1)
    together = trained.predict(query)
    alone = [trained.predict(query[i : i + 1].copy())[0] for i in range(5)]
    assert alone == together[:5].tolist()


def test_one_group_is_found_as_at_least_two_clusters(cells):
    """A clustering into one cluster is no model: the least number is two, whatever the data."""
    adata, _, _ = one_cell_in_all(cells())
    scgpcl.SCGPCL.setup_anndata(adata)
    with pytest.raises(ValueError, match="at least 2, found 1. Pass None"):
        scgpcl.SCGPCL(adata, 1)


@pytest.mark.parametrize("n_cells", [3, 9])
def test_very_few_cells_are_one_group_because_no_split_of_them_can_be_tested(cells, build, n_cells):
    adata = cells()[:n_cells].copy()
    model = build(adata, None, train={"max_epochs": 2})
    assert model.n_clusters_ == 1
    assert model.predict().tolist() == ["0"] * n_cells
