import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgpcl import datasets, tl

#: Marker genes of Seurat's guided clustering tutorial, which the published types come from.
BLOOD = {
    "Naive CD4 T": ["IL7R", "CCR7"],
    "Memory CD4 T": ["IL7R", "S100A4"],
    "CD14+ Mono": ["CD14", "LYZ"],
    "B": ["MS4A1"],
    "CD8 T": ["CD8A"],
    "FCGR3A+ Mono": ["FCGR3A", "MS4A7"],
    "NK": ["GNLY", "NKG7"],
    "DC": ["FCER1A", "CST3"],
    "Platelet": ["PPBP"],
}
#: Genes of five well separated types that are among the most expressed.
FEW = {"B": ["CD79A", "CD79B"], "Mono": ["LST1", "AIF1", "FCER1G"], "NK": ["GNLY", "GZMB"], "T": ["CD3D", "IL32"]}


@pytest.fixture
def cells(blood) -> ad.AnnData:
    return blood.copy()


def test_published_groups_get_their_published_names():
    cells = datasets.pbmc3k()
    types = cells.obs["cell_type"].cat.categories
    cells.obs["group"] = cells.obs["cell_type"].cat.rename_categories([str(i) for i in range(len(types))])
    table = tl.name_clusters(cells, BLOOD, key="group", layer="counts").set_index("cluster")
    right = [table.loc[str(i), "name"] == name for i, name in enumerate(types)]
    assert sum(right) >= 8
    assert (cells.obs["scgpcl_name"] == cells.obs["cell_type"].astype(str)).mean() > 0.8


def test_score_is_the_standardised_difference(cells):
    table = tl.name_clusters(cells, FEW, key="cell_type").set_index("cluster")
    dense = cells.X.toarray().astype(float)
    dense = np.log1p(dense / dense.sum(1, keepdims=True) * 1e4)
    for cluster in table.index:
        inside = (cells.obs["cell_type"] == cluster).to_numpy()
        scores = {}
        for name, genes in FEW.items():
            each = []
            for gene in genes:
                values = dense[:, cells.var_names.get_loc(gene)]
                each.append((values[inside].mean() - values[~inside].mean()) / values.std())
            scores[name] = np.mean(each)
        best, second = sorted(scores, key=scores.get, reverse=True)[:2]
        assert (table.loc[cluster, "best_type"], table.loc[cluster, "second_type"]) == (best, second)
        np.testing.assert_allclose(
            table.loc[cluster, ["score", "second_score"]].astype(float), [scores[best], scores[second]], rtol=1e-4
        )


def test_random_sets_are_named_as_often_as_the_cutoff_says(cells):
    """Sets of random genes have uniform p-values: a share `max_p_value` of them are below it."""
    rng = np.random.default_rng(0)
    sets = {str(i): rng.choice(cells.var_names, 3, replace=False) for i in range(120)}
    below = []
    for name, genes in sets.items():
        table = tl.name_clusters(cells, {name: genes}, key="cell_type", max_p_value=1.0, n_random=200)
        below += [(table["p_value"] <= 0.1).to_numpy()]
    # The clusters of one set are not independent: the spread is taken over sets.
    share = np.mean(below, axis=1)
    assert abs(share.mean() - 0.1) < 3 * share.std() / np.sqrt(len(share))


def test_a_type_that_is_absent_leaves_its_cluster_unknown(cells):
    names = tl.name_clusters(cells, FEW, key="cell_type").set_index("cluster")["name"]
    assert names["B"] == "B"
    without = {name: genes for name, genes in FEW.items() if name != "B"}
    assert tl.name_clusters(cells, without, key="cell_type").set_index("cluster")["name"]["B"] == "unknown"
    assert cells.obs["scgpcl_name"].cat.categories[-1] == "unknown"


def test_two_clusters_may_share_a_name(cells):
    names = tl.name_clusters(cells, FEW, key="cell_type").set_index("cluster")["name"]
    assert names["CD14+ Mono"] == names["FCGR3A+ Mono"] == "Mono"
    written = cells.obs["scgpcl_name"]
    assert written.cat.categories.is_unique
    assert list(written.cat.categories) == [name for name in (*FEW, "unknown") if name in set(names)]
    expected = cells.obs["cell_type"].astype(str).map(names.to_dict())
    assert (written.astype(str) == expected).all()


def test_only_the_column_is_written(cells):
    before = cells.copy()
    tl.name_clusters(cells, FEW, key="cell_type", key_added="named")
    assert (cells.X != before.X).nnz == 0
    assert (cells.layers["counts"] != before.layers["counts"]).nnz == 0
    assert list(cells.obs) == [*before.obs, "named"]
    assert cells.obs[list(before.obs)].equals(before.obs)
    assert set(cells.uns) == set(before.uns)


def test_same_seed_same_table_and_global_state_is_left_alone(cells):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = tl.name_clusters(cells, FEW, key="cell_type", seed=3, n_random=100)
    assert first.equals(tl.name_clusters(cells, FEW, key="cell_type", seed=3, n_random=100))
    assert not first.equals(tl.name_clusters(cells, FEW, key="cell_type", seed=4, n_random=100))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_cells_without_a_cluster_get_no_name_and_names_of_cells_may_repeat(cells):
    cells.obs["group"] = cells.obs["cell_type"].astype(object).where(cells.obs["cell_type"] != "B", None)
    cells.obs_names = ["same"] * cells.n_obs
    tl.name_clusters(cells, FEW, key="group")
    assert (cells.obs["scgpcl_name"].isna() == (cells.obs["cell_type"] == "B")).all()


def test_one_type_and_a_small_set(cells):
    table = tl.name_clusters(cells, {"B": ["CD79A", "CD79A"]}, key="cell_type")
    assert table["second_type"].isna().all()
    assert table.set_index("cluster")["name"].to_dict()["B"] == "B"
    few = cells[:, ["CD79A", "LYZ", "GNLY"]].copy()
    few = few[np.asarray(few.X.sum(1)).ravel() > 0].copy()
    tl.name_clusters(few, {"B": ["CD79A"]}, key="cell_type")


def test_says_which_genes_are_unknown(cells):
    with pytest.warns(UserWarning, match=r"Left out 1 marker genes.*'CD99999'"):
        table = tl.name_clusters(cells, {"B": ["CD79A", "CD99999"]}, key="cell_type")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Left out")
        pd.testing.assert_frame_equal(table, tl.name_clusters(cells, {"B": ["CD79A"]}, key="cell_type"))


@pytest.mark.parametrize(
    ("markers", "error", "words"),
    [
        ({}, ValueError, "at least one type"),
        ([("B", ["CD79A"])], TypeError, "dictionary"),
        ({"B": "CD79A"}, TypeError, "lists of genes"),
        ({"B": None}, TypeError, "lists of genes"),
        ({1: ["CD79A"]}, TypeError, "map type names to lists"),
        ({"B": []}, ValueError, "an empty set"),
        ({"B": ["Cd79a", "Cd79b"]}, ValueError, r"none of 'Cd79a', 'Cd79b'.*spelling"),
        ({"unknown": ["CD79A"]}, ValueError, "reserved for unnamed clusters"),
    ],
)
def test_refuses_bad_sets_and_changes_nothing(cells, untouched, markers, error, words):
    with untouched(cells), pytest.raises(error, match=words):
        tl.name_clusters(cells, markers, key="cell_type")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, KeyError, "Train a model first"),
        ({"key": "one"}, ValueError, "at least two clusters"),
        ({"key": "cell_type", "layer": "raw"}, KeyError, "raw"),
        ({"key": "cell_type", "layer": "log"}, ValueError, "log-transformed"),
        ({"key": "cell_type", "max_p_value": 1.5}, ValueError, "max_p_value"),
        ({"key": "cell_type", "n_random": 0}, ValueError, "n_random"),
        (
            {"key": "cell_type", "key_added": "cell_type"},
            ValueError,
            "another column than the clusters.*'cell_type' for both",
        ),
    ],
)
def test_refuses_bad_input_and_changes_nothing(cells, untouched, arguments, error, words):
    cells.obs["one"] = "0"
    cells.layers["log"] = cells.X.log1p()
    with untouched(cells), pytest.raises(error, match=words):
        tl.name_clusters(cells, FEW, **arguments)
    with pytest.raises(ValueError, match="view"):
        tl.name_clusters(cells[:50], FEW, key="cell_type")


def test_other_sources_mark_clusters_that_they_name_differently(cells):
    table = pd.DataFrame({"source": ["B cells", "T cell", "T cell", "NK"], "target": ["CD79A", "CD3D", "IL32", "XYZ"]})
    wrong = {**FEW, "B": FEW["NK"], "NK": FEW["B"]}
    found = tl.name_clusters(cells, FEW, key="cell_type", others={"table": table, "wrong": wrong}, n_random=500)
    found = found.set_index("cluster")
    assert found.loc["B", ["name", "table", "wrong"]].tolist() == ["B", "B cells", "NK"]
    alone = tl.name_clusters(cells, FEW, key="cell_type", others={"table": table}, n_random=500).set_index("cluster")
    assert found.loc["B", "disagree"]
    assert not alone.loc["B", "disagree"]  # "B cells" are "B"; types of the table without a gene are left out
    assert list(cells.obs["scgpcl_name"].cat.categories) == [
        name for name in (*FEW, "unknown") if name in set(found["name"])
    ]
    with pytest.raises(ValueError, match="not columns of the table, found 'size'"):
        tl.name_clusters(cells, FEW, key="cell_type", others={"size": FEW})
    with pytest.raises(ValueError, match=r"are in `adata.var_names`, found none"):
        tl.name_clusters(cells, table[table["target"] == "XYZ"], key="cell_type")
