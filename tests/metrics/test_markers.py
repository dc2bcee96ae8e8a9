import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import rankdata

from scgpcl import datasets, metrics


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Some of the bundled cells, no two types alike in size, and clusters that join three types and split a fourth."""
    adata = datasets.pbmc3k()
    rng = np.random.default_rng(0)
    types = adata.obs["cell_type"].to_numpy()
    chosen = np.sort(
        np.concatenate(
            [rng.permutation(np.flatnonzero(types == t))[: 60 + 5 * i] for i, t in enumerate(sorted(set(types)))]
        )
    )
    genes = np.sort(np.argsort(-adata.X.sum(axis=0).A1)[:1000])
    adata = adata[chosen, genes].copy()
    types = adata.obs["cell_type"].astype(str)
    clusters = types.replace({"Naive CD4 T": "T", "Memory CD4 T": "T", "CD8 T": "T"})
    clusters[(clusters == "B") & (rng.random(adata.n_obs) < 0.3)] = "half of B"
    adata.obs["cluster"] = pd.Categorical(clusters)
    return adata


def by_ranks(adata, groups, n_top):
    """Marker genes from the rank sums: with equal numbers of cells the test orders genes by them."""
    x = adata.layers["counts"].toarray().astype(float)
    x = np.log1p(x * (1e4 / x.sum(axis=1, keepdims=True)))
    ranks = rankdata(x, axis=0)
    result = {}
    for group in np.unique(groups):
        sums = ranks[groups == group].sum(axis=0)
        result[group] = set(adata.var_names[np.argsort(-sums, kind="stable")[:n_top]])
    return result


@pytest.mark.parametrize("n_top", [5, 10])
def test_overlap_is_that_of_rank_sums(cells, n_top):
    result = metrics.marker_overlap(cells, "cluster", "cell_type", n_top=n_top, layer="counts")
    types, clusters = (cells.obs[key].astype(str).to_numpy() for key in ("cell_type", "cluster"))
    of_type, of_cluster = (by_ranks(cells, groups, n_top) for groups in (types, clusters))
    for name, row in result.pairwise.iterrows():
        for cluster, share in row.items():
            assert share == pytest.approx(len(of_type[name] & of_cluster[cluster]) / n_top)
    matched = {label: cluster for cluster, label in metrics.match_clusters(types, clusters).items()}
    assert result.per_type["n_cells"].to_dict() == pd.Series(types).value_counts().to_dict()
    assert result.per_type["n_cells"].is_monotonic_decreasing
    together = pd.crosstab(types, clusters)
    for row in result.per_type.itertuples():
        own = matched.get(row.Index)
        assert row.cluster == (own if own is not None and together.loc[row.Index, own] else None)
        expected = len(of_type[row.Index] & of_cluster.get(row.cluster, set())) / n_top
        assert row.overlap == pytest.approx(expected)
    assert result.mean == pytest.approx(result.per_type["overlap"].mean())
    assert result.rarest == pd.Series(types).value_counts().index[-1]
    assert result.rarest_overlap == result.per_type["overlap"].iloc[-1]
    # two of the joined types are left without; that a cluster is left over too makes it nobody's match
    left = result.per_type[result.per_type["cluster"].isna()]
    assert set(left.index) < {"Naive CD4 T", "Memory CD4 T", "CD8 T"}
    assert left["overlap"].tolist() == [0.0, 0.0]


def test_the_types_themselves_overlap_fully_whatever_their_names(cells):
    codes = cells.obs["cell_type"].cat.codes.to_numpy()
    for labels in (codes, codes.astype(str), pd.Categorical(codes), cells.obs["cell_type"]):
        result = metrics.marker_overlap(cells, labels, "cell_type")
        assert (result.per_type["overlap"] == 1).all()
        assert result.mean == result.rarest_overlap == 1
        np.testing.assert_array_equal(np.diag(result.pairwise), 1)


def test_clusters_at_random_lose_the_markers(cells):
    labels = np.random.default_rng(0).permutation(cells.obs["cell_type"].to_numpy())
    assert metrics.marker_overlap(cells, labels, "cell_type").mean < 0.2


def test_dense_counts_and_a_permutation_change_nothing(cells):
    expected = metrics.marker_overlap(cells, "cluster", "cell_type")
    dense = cells.copy()
    dense.X = dense.X.toarray()
    order = np.random.default_rng(1).permutation(cells.n_obs)
    for other in (dense, cells[order].copy()):
        result = metrics.marker_overlap(other, "cluster", "cell_type")
        pd.testing.assert_frame_equal(result.per_type, expected.per_type)


def swapped(x):
    """The same counts in the other byte order."""
    x = x.copy()
    x.data = x.data.astype(x.dtype.newbyteorder(">"))
    return x


STORED = {
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "big-endian": swapped,
    "integers": lambda x: x.astype(np.int32),
}


@pytest.mark.parametrize("form", STORED)
def test_storage_changes_nothing(cells, form):
    other = ad.AnnData(obs=cells.obs, var=cells.var)
    other.layers["here"] = STORED[form](cells.layers["counts"])
    assert other.X is None
    result = metrics.marker_overlap(other, "cluster", "cell_type", layer="here")
    pd.testing.assert_frame_equal(result.pairwise, metrics.marker_overlap(cells, "cluster", "cell_type").pairwise)


def test_counts_on_disk_change_nothing(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    result = metrics.marker_overlap(backed, "cluster", "cell_type")
    pd.testing.assert_frame_equal(result.pairwise, metrics.marker_overlap(cells, "cluster", "cell_type").pairwise)
    backed.file.close()


def test_leaves_the_cells_alone(cells, untouched):
    with untouched(cells):
        metrics.marker_overlap(cells, "cluster", "cell_type", layer="counts")


def test_groups_of_one_cell(cells):
    types = cells.obs["cell_type"].astype(str).to_numpy()
    types[0] = "alone"
    clusters = types.copy()
    clusters[1] = "also alone"
    result = metrics.marker_overlap(cells, clusters, types)
    assert np.isnan(result.per_type.loc["alone", "overlap"])
    assert result.per_type.loc["alone", "n_cells"] == 1
    assert result.rarest != "alone"
    assert (result.pairwise["also alone"].drop("alone") == 0).all()
    # one cluster has nothing to be compared with
    one = metrics.marker_overlap(cells, np.zeros(cells.n_obs), "cell_type")
    assert one.mean == 0
    assert one.pairwise.shape == (len(one.per_type), 1)


def test_refuses_bad_input(cells):
    with pytest.raises(KeyError, match="leiden"):
        metrics.marker_overlap(cells, "leiden", "cell_type")
    with pytest.raises(KeyError, match="raw_counts"):
        metrics.marker_overlap(cells, "cluster", "cell_type", layer="raw_counts")
    with pytest.raises(TypeError, match="found DataFrame"):
        metrics.marker_overlap(cells.obs, "cluster", "cell_type")
    scaled = cells.copy()
    scaled.X = scaled.X.toarray() - 1.0
    with pytest.raises(ValueError, match="Scaled or centred data is not supported"):
        metrics.marker_overlap(scaled, "cluster", "cell_type")
    with pytest.raises(ValueError, match=r"raw counts in `adata.X`, found None"):
        metrics.marker_overlap(ad.AnnData(obs=cells.obs, var=cells.var), "cluster", "cell_type")
    with pytest.raises(ValueError, match="1000, found 1001"):
        metrics.marker_overlap(cells, "cluster", "cell_type", n_top=1001)
    with pytest.raises(ValueError, match="found 0"):
        metrics.marker_overlap(cells, "cluster", "cell_type", n_top=0)
    with pytest.raises(ValueError, match="same cells"):
        metrics.marker_overlap(cells, np.zeros(3), "cell_type")
    with pytest.raises(ValueError, match=f"all {cells.n_obs} cells"):
        metrics.marker_overlap(cells, np.zeros(3), np.arange(3))
    with pytest.raises(ValueError, match="1 missing"):
        metrics.marker_overlap(cells, [None, *["a"] * (cells.n_obs - 1)], "cell_type")
    with pytest.raises(ValueError, match="two cells or more"):
        metrics.marker_overlap(cells, "cluster", np.zeros(cells.n_obs))
    empty = ad.AnnData(sparse.csr_matrix((0, 20)))
    with pytest.raises(ValueError, match="at least one cell"):
        metrics.marker_overlap(empty, [], [])
