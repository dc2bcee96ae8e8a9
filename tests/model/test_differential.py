"""Genes that differ between clusters, nodes of the tree and other groups."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from scipy.stats import rankdata

import scgpcl
from scgpcl import tl

SCANPY = {"lfc_mean": "logfoldchanges", "scores": "scores", "pvals": "pvals", "pvals_adj": "pvals_adj"}
MEANS = [f"{name}{i}" for name in ("raw_mean", "non_zeros_proportion", "raw_normalized_mean") for i in (1, 2)]


@pytest.fixture(scope="module")
def annotated(four_types, four_clusters):
    """A trained model whose AnnData no test may change."""
    model = scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")
    model.annotate()
    return model


def direct(adata, groups, group, reference) -> pd.DataFrame:
    """What a scanpy user would write."""
    expression = ad.AnnData(adata.X.copy(), obs=pd.DataFrame({"x": pd.Categorical(groups)}, index=adata.obs_names))
    expression.var_names = adata.var_names
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    sc.tl.rank_genes_groups(expression, "x", groups=[group], reference=reference, method="wilcoxon")
    return sc.get.rank_genes_groups_df(expression, group).set_index("names")


def assert_scanpys(table, expected):
    assert table.index.tolist() == expected.index.tolist()
    for ours, theirs in SCANPY.items():
        np.testing.assert_allclose(table[ours], expected[theirs], rtol=1e-5, atol=1e-12, err_msg=ours)


def test_equal_to_scanpy_for_clusters_nodes_and_columns(annotated, untouched):
    adata = annotated.adata
    with untouched(adata):
        pair = annotated.differential_expression(group1="1", group2="3")
        split = annotated.differential_expression(group1="0.1", group2="0.2")
        types = annotated.differential_expression(groupby="group")
    assert_scanpys(pair, direct(adata, adata.obs["scgpcl_cluster"], "1", "3"))
    assert list(pair.columns) == [*SCANPY, *MEANS, "comparison", "group1", "group2"]
    assert pair.index.name == "gene"
    assert set(pair["comparison"]) == {"1 vs 3"}
    fine = annotated.get_levels([len(annotated.get_levels().columns)])
    fine = fine.iloc[:, 0].astype(str)
    sides = np.where(fine.str.startswith("0.1"), "a", np.where(fine.str.startswith("0.2"), "b", "c"))
    assert_scanpys(split, direct(adata, sides, "a", "b"))
    for name, table in types.groupby("group1"):
        assert_scanpys(table, direct(adata, adata.obs["group"], name, "rest"))
        assert set(table["group2"]) == {"Rest"}
    assert set(types["group1"]) == set(adata.obs["group"])


def test_the_rest_is_what_the_ranks_of_markers_compare_with(annotated):
    table = annotated.differential_expression()
    ranks = tl.rank_markers(annotated.adata, key_added=None)
    assert table["group1"].tolist() == ranks["cluster"].astype(str).tolist()
    assert table.index.tolist() == ranks["gene"].tolist()
    np.testing.assert_array_equal(table["pvals"], ranks["p_value"])
    np.testing.assert_allclose(table["non_zeros_proportion1"], ranks["share_in"], rtol=1e-6)
    np.testing.assert_allclose(table["non_zeros_proportion2"], ranks["share_out"], rtol=1e-6)
    # a node among them gets the same tests as alone, though its cells are tested as part of a cluster too
    mixed = annotated.differential_expression(group1=["0", "0.1", "2"])
    alone = annotated.differential_expression(group1="0.1")
    pd.testing.assert_frame_equal(mixed[mixed["group1"] == "0.1"], alone)
    pd.testing.assert_frame_equal(mixed[mixed["group1"] == "2"], table[table["group1"] == "2"])


def test_a_table_by_hand(annotated):
    counts = np.zeros((7, 80), dtype=np.float32)
    counts[:, 0] = [5, 1, 2, 0, 0, 1, 9]
    counts[:, 1] = 10 - counts[:, 0]
    sides = pd.DataFrame({"side": ["a"] * 3 + ["b"] * 3 + [None]}, index=[f"new{i}" for i in range(7)])
    query = ad.AnnData(sp.csr_matrix(counts), obs=sides, var=annotated.adata.var[[]])
    row = annotated.differential_expression(query, "side", "a", "b").loc["gene0"]
    assert row["raw_mean1"] == pytest.approx(8 / 3)
    assert row["raw_mean2"] == pytest.approx(1 / 3)
    assert row["non_zeros_proportion1"] == 1.0
    assert row["non_zeros_proportion2"] == pytest.approx(1 / 3)
    assert row["raw_normalized_mean1"] == pytest.approx(8000 / 3)
    log = np.log1p(1000 * counts[:6, 0].astype(float))
    z = (rankdata(log)[:3].sum() - 3 * 7 / 2) / np.sqrt(3 * 3 * 7 / 12)
    assert row["scores"] == pytest.approx(z, rel=1e-5)
    fold = np.log2(np.expm1(log[:3].mean()) / np.expm1(log[3:].mean()))
    assert row["lfc_mean"] == pytest.approx(fold, rel=1e-4)


def test_cells_without_a_cluster_are_left_out(annotated):
    query = annotated.adata.copy()
    unsure = np.arange(300) % 5 == 0
    names = query.obs["scgpcl_cluster"].astype(str).to_numpy()
    query.obs["scgpcl_cluster"] = np.where(unsure, "unassigned", names)
    expected = annotated.differential_expression(query[~unsure].copy())
    pd.testing.assert_frame_equal(annotated.differential_expression(query), expected)
    node = annotated.differential_expression(query, group1="0.1", group2="1")
    assert node["raw_mean1"].equals(
        annotated.differential_expression(query[~unsure].copy(), group1="0.1", group2="1")["raw_mean1"]
    )


def test_present_clusters_are_compared_after_a_cut(four_types, four_clusters):
    model = scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")
    model.annotate()
    by_node = model.differential_expression(group1="0.1", group2="0.2")
    model.cut(len(model.get_levels().columns))
    assert set(model.differential_expression()["group1"]) <= set(model.adata.obs["scgpcl_cluster"])
    assert by_node.equals(model.differential_expression(group1="0.1", group2="0.2"))


@pytest.mark.parametrize("arguments", [{}, {"group1": "0-3"}, {"group1": ["0-3"]}, {"group2": "0-3"}])
def test_a_single_cluster_is_named_as_such(four_types, four_clusters, arguments):
    model = scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")
    model.cut(1)
    words = (
        r"at least two groups .* found '0-3' alone. Divide the cells with `model.cut\(n_clusters\)`, or name two nodes"
    )
    with pytest.raises(ValueError, match=words):
        model.differential_expression(**arguments)
    assert len(model.differential_expression(group1="0", group2="1")) == 80
    assert len(model.differential_expression(group1="0")) == 80


BAD = {
    "group": ({"group1": "9"}, ValueError, "'0', '1', '2', '3'", "model.get_tree()", "found '9'"),
    "other group": ({"group1": "1", "group2": "x"}, ValueError, "found 'x'"),
    "same": ({"group1": "1", "group2": "1"}, ValueError, "found '1' as both"),
    "same in list": ({"group1": ["1", "2"], "group2": "2"}, ValueError, "found '2' as both"),
    "twice": ({"group1": ["1", "1"]}, ValueError, "several different ones"),
    "none": ({"group1": []}, ValueError, "`group1`", "found []"),
    "nested": ({"group1": "0.1", "group2": "0"}, ValueError, "cells in both '0.1' and '0'"),
    "everything": ({"group1": "0-3"}, ValueError, "at least 2 cells", "found 0 in 'Rest'", "smaller group"),
    "column": ({"groupby": "x"}, KeyError, "obs['x']", "groupby="),
    "one cell": ({"groupby": "lonely", "group1": "one"}, ValueError, "at least 2 cells", "found 1 in 'one'"),
    "table": ({"adata": pd.DataFrame()}, TypeError, "found DataFrame"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(annotated, untouched, case):
    arguments, error, *words = BAD[case]
    adata = annotated.adata.copy()
    adata.obs["lonely"] = ["one", *["many"] * 299]
    with untouched(adata), pytest.raises(error) as caught:
        annotated.differential_expression(**{"adata": adata, **arguments})
    for word in words:
        assert word in str(caught.value)


def test_normalised_values_are_refused(annotated):
    query = annotated.adata.copy()
    sc.pp.normalize_total(query)
    with pytest.raises(ValueError, match="looks normalised"):
        annotated.differential_expression(query)


@pytest.fixture(scope="module")
def sampled(four_types, four_clusters):
    """The trained model as if its cells were of four samples."""
    adata = four_types.copy()
    model = scgpcl.SCGPCL.load(four_clusters, adata, accelerator="cpu")
    model.annotate()
    adata.obs["sample"] = [f"p{i % 4}" for i in range(300)]
    arguments = model.registry_["setup_args"]
    model.registry_ = {**model.registry_, "setup_args": {**arguments, "batch_key": "sample"}}
    return model


def sums(adata, sides) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts of each sample and side, and what they are of."""
    of = adata.obs["sample"].astype(str) + "|" + sides
    counts = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names).groupby(of).sum()
    parts = counts.index.str.split("|", expand=True)
    return counts.astype(int), pd.DataFrame(
        {"patient": parts.get_level_values(0), "type": parts.get_level_values(1)}, index=counts.index
    )


@pytest.mark.filterwarnings("ignore:The dispersion trend curve", "ignore:As the residual degrees")
def test_samples_are_replicates_in_deseq2(sampled, untouched):
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    adata = sampled.adata
    with untouched(adata):
        table = sampled.differential_expression(groupby="group", group1="type 0", group2="type 1", method="pseudobulk")
    part = adata[adata.obs["group"].isin(["type 0", "type 1"])]
    counts, design = sums(part, part.obs["group"].str[-1])
    fitted = DeseqDataSet(counts=counts, metadata=design, design="~patient + type", quiet=True, n_cpus=1)
    fitted.deseq2()
    tested = DeseqStats(fitted, contrast=["type", "0", "1"], quiet=True, n_cpus=1)
    tested.summary()
    expected = tested.results_df.loc[table.index]
    np.testing.assert_allclose(table["lfc_mean"], expected["log2FoldChange"], rtol=1e-4)
    np.testing.assert_allclose(table["pvals"], expected["pvalue"], rtol=1e-3)
    np.testing.assert_allclose(table["pvals_adj"], expected["padj"], rtol=1e-3)
    assert table["scores"].dropna().is_monotonic_decreasing
    cells = sampled.differential_expression(groupby="group", group1="type 0", group2="type 1")
    pd.testing.assert_frame_equal(table[MEANS].sort_index(), cells[MEANS].sort_index())
    clear = cells["pvals_adj"] < 1e-8
    assert (np.sign(table["lfc_mean"].reindex(cells.index)) == np.sign(cells["lfc_mean"]))[clear].all()


def test_pseudobulk_refuses_what_has_no_replicates(sampled, annotated, monkeypatch):
    with pytest.raises(ValueError, match="`batch_key` names samples"):
        annotated.differential_expression(method="pseudobulk")
    with pytest.raises(ValueError, match="'wilcoxon', 'pseudobulk'"):
        annotated.differential_expression(method="t-test")
    few = sampled.adata.copy()
    few.obs["sample"] = ["p0"] * 290 + ["p1"] * 10
    with pytest.raises(ValueError, match="at least 2 samples with 10 or more cells of both '0' and 'Rest', found 1"):
        sampled.differential_expression(few, group1="0", method="pseudobulk")
    monkeypatch.setitem(__import__("sys").modules, "pydeseq2.dds", None)
    with pytest.raises(ImportError) as caught:
        sampled.differential_expression(group1="0", method="pseudobulk")
    assert "pip install 'scgpcl[pseudobulk]'" in caught.value.__notes__[0]
