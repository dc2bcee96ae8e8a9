"""Pairs of groups of any labelling, on real and simulated cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl


@pytest.fixture
def model(four_types, four_clusters):
    return scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")


def untrained(adata):
    scgpcl.SCGPCL.setup_anndata(adata)
    return scgpcl.SCGPCL(adata, 2)


def test_simulated_types_are_told_apart_and_halves_of_them_are_not(model, untouched):
    model.annotate()
    with untouched(model.adata):
        table = model.test_clusters()
    assert len(table) == 6
    assert table["apart"].all()
    assert (table["separation"] > 1).all()
    assert (table["p_adjusted"] >= table["p_value"]).all()
    sizes = model.adata.obs["scgpcl_cluster"].value_counts()
    assert table["size1"].tolist() == [sizes[name] for name in table["group1"]]
    random = np.random.default_rng(0).integers(2, size=300).astype(str)
    halves = model.adata.obs["scgpcl_cluster"].astype(str) + "/" + random
    table = model.test_clusters(halves)
    same = table["group1"].str[0] == table["group2"].str[0]
    assert not table["apart"][same].any()
    assert table["apart"][~same].mean() > 0.6  # of 37 cells each


def test_labels_are_a_column_an_array_or_a_table_by_name(model):
    group = model.adata.obs["group"]
    table = model.test_clusters("group")
    for labels in (group.to_numpy(), list(group), group.iloc[::-1], group.astype("category")):
        pd.testing.assert_frame_equal(model.test_clusters(labels), table)
    pd.testing.assert_frame_equal(model.test_clusters("group", model.adata[::-1].copy()), table, rtol=0.5, atol=0.3)
    some = group.where(group != "type 3")
    some.iloc[:5] = "unassigned"
    assert set(model.test_clusters(some)["group2"]) == {"type 1", "type 2"}


def test_few_cells_are_not_tested(model):
    labels = np.array(["many"] * 281 + ["few"] * 19)
    table = model.test_clusters(labels)
    assert table.loc[0, ["auc", "separation", "p_value", "p_adjusted"]].isna().all()
    assert not table["apart"].any()


@pytest.mark.parametrize("line", ["A549", "HCC827"])
def test_random_splits_of_one_cell_line_are_not_real(data_dir, line):
    adata = ad.read_h5ad(data_dir / "tian_celseq2_5cl.h5ad")
    adata = adata[adata.obs["cell_type"] == line].copy()
    model, rng = untrained(adata), np.random.default_rng(0)
    found = [model.test_clusters(rng.integers(2, size=adata.n_obs), seed=i)["apart"].sum() for i in range(20)]
    assert sum(found) <= 1


def test_a_simulated_group_is_one():
    adata = scgpcl.simulate.splatter(400, 1000)
    adata.layers.clear()
    model, rng = untrained(adata), np.random.default_rng(0)
    found = [model.test_clusters(rng.integers(2, size=400), seed=i)["apart"].sum() for i in range(20)]
    assert sum(found) <= 1


def test_published_types_of_blood_cells(data_dir):
    """All but naive and memory CD4 T cells, which are neighbours on a gradient."""
    adata = ad.read_h5ad(data_dir / "pbmc3k.h5ad")
    table = untrained(adata).test_clusters("cell_type")
    tested = table[table["p_value"].notna()]
    assert tested.loc[~tested["apart"], ["group1", "group2"]].to_numpy().tolist() == [["Memory CD4 T", "Naive CD4 T"]]
    assert len(tested) == 28


def test_sorted_cells_differ_although_some_have_no_gap(data_dir):
    adata = ad.read_h5ad(data_dir / "zheng_facs8_785.h5ad")
    model = untrained(adata)
    gap, any_difference = (model.test_clusters("cell_type", clustered=c) for c in (True, False))
    without = gap.loc[~gap["apart"], ["group1", "group2"]].to_numpy().ravel()
    assert set(without) <= {"cd4-t-helper", "naive-t", "regulatory-t", "memory-t", "naive-cytotoxic"}
    assert any_difference["apart"].sum() > gap["apart"].sum()


BAD = {
    "column": (lambda m: m.test_clusters("nothing"), KeyError, "column of `adata.obs`"),
    "length": (lambda m: m.test_clusters(["a", "b"]), ValueError, "label for each of the 300 cells"),
    "names": (lambda m: m.test_clusters(pd.Series(["a"] * 300)), ValueError, "names of the cells"),
    "one group": (lambda m: m.test_clusters(["a"] * 300), ValueError, "two clusters"),
    "alpha": (lambda m: m.test_clusters("group", alpha=0), ValueError, "`alpha`"),
    "clustered": (lambda m: m.test_clusters("group", clustered="no"), TypeError, "`clustered`"),
    "seed": (lambda m: m.test_clusters("group", seed=-1), ValueError, "`seed`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(model, case):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call(model)


@pytest.mark.parametrize("setup", [{"batch_key": "donor"}, {"categorical_covariate_keys": ["donor"]}])
def test_differences_between_batches_are_not_those_of_groups(four_types, setup):
    """Groups that differ in nothing but the share of cells from a donor with other molecules."""
    adata, rng = four_types.copy(), np.random.default_rng(1)
    donor = rng.integers(2, size=adata.n_obs).astype(bool)
    counts = adata.X.toarray().astype(int)
    counts[donor] = rng.binomial(counts[donor], rng.uniform(0.2, 1.0, adata.n_vars))
    adata.X = sp.csr_matrix(counts.astype(np.float32))
    adata.obs["donor"] = np.where(donor, "a", "b")
    adata.obs["group"] = np.where(rng.random(adata.n_obs) < np.where(donor, 0.8, 0.2), "one", "other")
    found = []
    for arguments in (setup, {}):
        scgpcl.SCGPCL.setup_anndata(adata, **arguments)
        found.append(scgpcl.SCGPCL(adata, 4).test_clusters("group", clustered=False)["apart"].item())
    assert found == [False, True]
