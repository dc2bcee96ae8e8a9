import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scgpcl import tl


@pytest.fixture
def cells(blood) -> ad.AnnData:
    return blood.copy()


def direct(cells, key="cell_type", method="wilcoxon", **kwargs) -> pd.DataFrame:
    """What a scanpy user would write."""
    expression = ad.AnnData(cells.layers["counts"].copy(), obs=cells.obs[[key]].copy(), var=cells.var[[]].copy())
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    sc.tl.rank_genes_groups(expression, key, method=method, pts=True, **kwargs)
    return sc.get.rank_genes_groups_df(expression, None)


@pytest.mark.parametrize("method", ["wilcoxon", "t-test"])
def test_equal_to_scanpy_on_normalised_counts(cells, method):
    table = tl.rank_markers(cells, "cell_type", layer="counts", method=method)
    expected = direct(cells, method=method)
    assert table["cluster"].astype(str).tolist() == expected["group"].astype(str).tolist()
    assert list(table["cluster"].cat.categories) == list(cells.obs["cell_type"].cat.categories)
    assert table["gene"].tolist() == expected["names"].tolist()
    pairs = {
        "score": "scores",
        "log_fold_change": "logfoldchanges",
        "p_value": "pvals",
        "p_adjusted": "pvals_adj",
        "share_in": "pct_nz_group",
        "share_out": "pct_nz_reference",
    }
    assert list(table.columns) == ["cluster", "gene", *pairs]
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(table[ours], expected[theirs], rtol=1e-6, atol=1e-12, err_msg=ours)
    assert len(table) == cells.n_vars * cells.obs["cell_type"].nunique()


def test_shares_are_those_of_the_counts(cells):
    table = tl.rank_markers(cells, "cell_type").set_index(["cluster", "gene"])
    has = pd.DataFrame(cells.X.toarray() > 0, index=cells.obs_names, columns=cells.var_names)
    inside = cells.obs["cell_type"] == "B"
    for gene in ("CD79A", "LYZ"):
        assert table.loc[("B", gene), "share_in"] == pytest.approx(has.loc[inside, gene].mean())
        assert table.loc[("B", gene), "share_out"] == pytest.approx(has.loc[~inside, gene].mean())


def test_only_earlier_results_are_replaced(cells, untouched):
    cells = cells.copy()
    for n_genes in (4, 5):
        tl.rank_markers(cells, "cell_type", key_added="here", n_genes=n_genes)
    assert len(cells.uns["here"]["names"]) == 5
    cells.uns |= {"neighbors": {"params": {}}, "note": "mine"}
    for key in ("neighbors", "note"):
        with untouched(cells), pytest.raises(ValueError, match=f"`key_added` to keep .* found '{key}'"):
            tl.rank_markers(cells, "cell_type", key_added=key)


def test_nothing_but_the_named_place_changes(cells, untouched):
    cells.raw = cells
    raw = cells.raw.X.copy()
    before = cells.copy()
    with untouched(cells):
        tl.rank_markers(cells, "cell_type", key_added=None)
    tl.rank_markers(cells, "cell_type", key_added="here")
    del cells.uns["here"]
    for x, y in ((cells.X, before.X), (cells.layers["counts"], before.layers["counts"]), (cells.raw.X, raw)):
        assert (x != y).nnz == 0
    assert cells.obs.equals(before.obs)
    assert set(cells.uns) == set(before.uns)


def test_scanpy_draws_and_reads_the_result(cells, tmp_path):
    import matplotlib.pyplot as plt

    table = tl.rank_markers(cells, "cell_type", layer="counts")
    best = table[table["cluster"] == "B"]["gene"].tolist()
    frame = sc.get.rank_genes_groups_df(cells, "B", key="scgpcl_markers")
    assert frame["names"].tolist() == best
    axes = sc.pl.rank_genes_groups_dotplot(cells, key="scgpcl_markers", n_genes=2, dendrogram=False, show=False)
    drawn = [tick.get_text() for tick in axes["mainplot_ax"].get_xticklabels()]
    assert drawn[:2] == best[:2]
    plt.close("all")
    cells.write_h5ad(tmp_path / "ranked.h5ad")
    again = sc.get.rank_genes_groups_df(ad.read_h5ad(tmp_path / "ranked.h5ad"), "B", key="scgpcl_markers")
    assert again["names"].tolist() == best


def test_markers_are_those_of_the_published_types(cells):
    top = tl.top_markers(tl.rank_markers(cells, "cell_type"))
    assert {"CD79A", "CD79B"} & set(top["B"])
    assert {"S100A8", "S100A9", "LYZ"} & set(top["CD14+ Mono"])
    assert {"GZMB", "NKG7", "GNLY", "PRF1"} & set(top["NK"])


def test_top_markers_pass_both_bounds(cells):
    table = tl.rank_markers(cells, "cell_type", key_added=None)
    top = tl.top_markers(table, 4, min_log_fold_change=2.0)
    assert list(top) == list(cells.obs["cell_type"].cat.categories)
    rows = table.set_index(["cluster", "gene"])
    for name, genes in top.items():
        wanted = rows.loc[name]
        wanted = wanted[(wanted["log_fold_change"] >= 2) & (wanted["score"] > 0)]
        assert genes == wanted.sort_values("score", ascending=False, kind="stable").index[:4].tolist()
    assert not any(tl.top_markers(table, min_log_fold_change=1e9).values())


def test_number_of_genes(cells):
    whole = tl.rank_markers(cells, "cell_type", key_added=None)
    few = tl.rank_markers(cells, "cell_type", n_genes=3, key_added=None)
    assert few["gene"].tolist() == whole.groupby("cluster", observed=True).head(3)["gene"].tolist()
    assert len(tl.rank_markers(cells, "cell_type", n_genes=10**6, key_added=None)) == len(whole)


def test_clusters_of_one_cell_have_no_rows(cells):
    names = np.array(["0"] * cells.n_obs, dtype=object)
    names[0], names[1:40] = "alone", "1"
    cells.obs["group"] = pd.Categorical(names)
    table = tl.rank_markers(cells, "group")
    assert set(table["cluster"]) == {"0", "1"}
    assert tl.top_markers(table)["alone"] == []
    # the cell still is one of the others
    assert table.loc[table["cluster"] == "0", "share_out"].max() <= 1
    names[1:40] = "0"
    cells.obs["group"] = pd.Categorical(names)
    assert set(tl.rank_markers(cells, "group")["cluster"]) == {"0"}


def test_cells_without_a_cluster_take_no_part(cells):
    cells.obs["group"] = cells.obs["cell_type"].astype(object).where(cells.obs["cell_type"] != "B", None)
    table = tl.rank_markers(cells, "group", key_added=None)
    rest = cells[cells.obs["cell_type"] != "B"].copy()
    expected = tl.rank_markers(rest, "cell_type", key_added=None)
    pd.testing.assert_frame_equal(table, expected, check_categorical=False)


def test_uncertain_cells_are_no_cluster(cells):
    cells.obs["group"] = cells.obs["cell_type"].astype(str).where(cells.obs["cell_type"] != "B", "unassigned")
    expected = tl.rank_markers(cells[cells.obs["cell_type"] != "B"].copy(), "cell_type", key_added=None)
    pd.testing.assert_frame_equal(tl.rank_markers(cells, "group", key_added=None), expected, check_categorical=False)
    cells.obs["group"] = np.where(cells.obs["cell_type"] == "B", "0", "unassigned")
    with pytest.raises(ValueError, match="at least two clusters.*found 1"):
        tl.rank_markers(cells, "group")


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
@pytest.mark.parametrize("name", ["CD4/CD8 T", "/", "a/b/c"])
def test_names_with_a_slash_fit_into_files(cells, tmp_path, name):
    cells.obs["group"] = np.where(cells.obs["cell_type"] == "B", name, "other")
    table = tl.rank_markers(cells, "group")
    assert table["share_in"].between(0, 1).all()
    with ad.settings.override(disallow_forward_slash_in_h5ad=True):
        cells.write_h5ad(tmp_path / "a.h5ad")
        cells.write_zarr(tmp_path / "a.zarr")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    for adata in (cells, again):
        frame = sc.get.rank_genes_groups_df(adata, name, key="scgpcl_markers")
        assert frame["names"].tolist() == table[table["cluster"] == name]["gene"].tolist()
    cells.obs["group"] = np.where(cells.obs["cell_type"] == "B", "B", "other")
    tl.rank_markers(cells, "group")
    assert {"pts", "pts_rest"} <= set(cells.uns["scgpcl_markers"])


@pytest.mark.parametrize("names", [[1, 2, 3], ["", "a b", "<i>"], [True, False, True]], ids=["int", "odd", "bool"])
def test_clusters_of_any_name(cells, names):
    codes = np.arange(cells.n_obs) % 3
    cells.obs["group"] = [names[code] for code in codes]
    table = tl.rank_markers(cells, "group")
    assert set(table["cluster"]) == {str(name) for name in names}


@pytest.mark.parametrize("storage", [sparse.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)])
def test_any_storage_gives_the_same_table(cells, storage):
    expected = tl.rank_markers(cells, "cell_type", key_added=None)
    other = ad.AnnData(storage(cells.X), obs=cells.obs, var=cells.var)
    pd.testing.assert_frame_equal(tl.rank_markers(other, "cell_type", key_added=None), expected)


def test_backed_file(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    expected = tl.rank_markers(cells, "cell_type", key_added=None)
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    pd.testing.assert_frame_equal(tl.rank_markers(backed, "cell_type"), expected)
    backed.file.close()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, KeyError, "Train a model first"),
        ({"key": "cell_type", "layer": "raw"}, KeyError, "counts"),
        ({"key": "one"}, ValueError, "at least two clusters"),
        ({"key": "own"}, ValueError, "one cell only"),
        ({"key": "twins"}, ValueError, "different names"),
        ({"key": "cell_type", "layer": "log"}, ValueError, "log-transformed"),
        ({"key": "cell_type", "layer": "negative"}, ValueError, "zero or more"),
        ({"key": "cell_type", "method": "logreg"}, ValueError, "wilcoxon"),
        ({"key": "cell_type", "n_genes": 0}, ValueError, "n_genes"),
    ],
)
def test_refuses_bad_input_and_changes_nothing(cells, untouched, arguments, error, words):
    cells.obs["one"] = "0"
    cells.obs["own"] = cells.obs_names
    cells.obs["twins"] = pd.Categorical([1, "1"] * (cells.n_obs // 2))
    cells.layers["log"] = cells.X.log1p()
    cells.layers["negative"] = -cells.X
    with untouched(cells), pytest.raises(error, match=words):
        tl.rank_markers(cells, **arguments)


def test_refuses_a_view_and_repeated_genes(cells):
    with pytest.raises(ValueError, match="view"):
        tl.rank_markers(cells[:200], "cell_type")
    assert len(tl.rank_markers(cells[:200], "cell_type", key_added=None))
    cells.var_names = ["a", "a", *cells.var_names[2:]]
    with pytest.raises(ValueError, match="var_names_make_unique"):
        tl.rank_markers(cells, "cell_type")


def test_names_of_mitochondrial_and_ribosomal_genes():
    from scgpcl.tl._ranking import is_mt_ribo

    left_out = [
        "MT-CO1",
        "mt-Nd1",
        "RPL3",
        "Rps27a",
        "RPS4Y1",
        "RPL22L1",
        "RPLP0",
        "Rpsa",
        "RPL13AP5",
        "Rpl17-ps8",
        "Rpl37rt",
    ]
    kept = ["RPS6KA1", "MTOR", "MRPL20", "RPL", "CD74", "RPSAX"]
    assert is_mt_ribo(pd.Series(left_out)).all()
    assert not is_mt_ribo(pd.Series(kept)).any()
