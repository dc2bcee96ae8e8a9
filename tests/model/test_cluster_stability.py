"""Which clusters hold when molecules or cells are left out."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score, jaccard_score

import scgpcl
from scgpcl.model import _stability

INDICES = ["thinned", "halves", "subsampled"]


@pytest.fixture(scope="module")
def annotated(four_types, four_clusters):
    """A trained model whose AnnData no test may change."""
    model = scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")
    model.annotate()
    return model


def test_equal_to_predictions_of_cells_thinned_by_hand(annotated, untouched):
    with untouched(annotated.adata):
        table = annotated.get_cluster_stability(annotated.adata.copy(), n_draws=10)
    whole = annotated.predict()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(10):
        query = annotated.adata.copy()
        query.X = sp.csr_matrix(rng.binomial(query.X.toarray().astype(int), 0.7).astype(np.float32))
        if (query.X.sum(1) == 0).any():
            continue
        thin = annotated.predict(query)
        found.append([jaccard_score(whole == name, thin == name) for name in table.index])
    np.testing.assert_allclose(table["thinned"], np.mean(found, 0), atol=0.05)
    assert table["size"].tolist() == [(whole == name).sum() for name in table.index]


def test_types_hold_and_cuts_through_a_type_do_not(annotated):
    """The four groups are simulated; nothing is inside of them."""
    types = annotated.get_cluster_stability()
    assert (types[INDICES] > 0.7).all(axis=None)
    finest = annotated.get_cluster_stability(level=len(annotated.get_levels().columns))
    empty = finest["size"] == 0
    assert finest.loc[empty, [*INDICES, "confused"]].isna().all(axis=None)
    assert finest.loc[~empty].notna().all(axis=None)
    inside = finest[~empty & finest.index.str.contains(".", regex=False)]
    assert len(inside) >= 4
    for name in INDICES:
        assert inside[name].mean() < types[name].min(), name
    assert (inside["confused"] > types["confused"].max()).mean() > 0.5
    left = inside[inside["confused"] > 0.05]
    assert (left["neighbor"].str.split(".").str[0] == left.index.str.split(".").str[0]).mean() > 0.8


def test_subsamples_hold_other_cells_each_time_and_no_cell_twice():
    groups = torch.arange(4).repeat_interleave(25)
    z = 9.0 * torch.eye(6)[groups] + torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    draws = _stability._subsampled(z, 4, 5, seed=0)
    for rows, found in draws:
        assert len(rows) == len(set(rows)) == round(_stability.CELLS * 100)
        assert adjusted_rand_score(groups[rows], found) == 1.0
    assert len({tuple(rows) for rows, _ in draws}) == 5


def test_calls_agree_and_seeds_do_not(annotated):
    first = annotated.get_cluster_stability(n_draws=2)
    pd.testing.assert_frame_equal(first, annotated.get_cluster_stability(n_draws=2))
    assert not first[INDICES].equals(annotated.get_cluster_stability(n_draws=2, seed=5)[INDICES])


def test_results_for_the_registered_cells_are_kept(four_types, four_clusters, tmp_path):
    model = scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")
    del model.adata.uns["scgpcl"]
    model.get_cluster_stability(n_draws=1)
    assert "scgpcl" not in model.adata.uns  # of cells without clusters
    model.annotate()
    copy, before = model.adata.copy(), dict(model.adata.uns["scgpcl"])
    model.get_cluster_stability(level=2, n_draws=1)
    assert dict(model.adata.uns["scgpcl"]) == before
    table = model.get_cluster_stability(n_draws=1)
    pd.testing.assert_frame_equal(model.adata.uns["scgpcl"]["stability"], table)
    assert "stability" not in copy.uns["scgpcl"]
    model.adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = ad.read_h5ad(tmp_path / "cells.h5ad").uns["scgpcl"]["stability"]
    pd.testing.assert_frame_equal(stored, table, check_names=False)
    model.cut(3)
    assert "stability" not in model.adata.uns["scgpcl"]


def test_a_stored_table_of_other_clusters_is_not_drawn(four_types, four_clusters):
    model = scgpcl.SCGPCL.load(four_clusters, four_types.copy(), accelerator="cpu")
    model.annotate()
    model.get_cluster_stability(n_draws=1)
    rows = lambda ax: [label.get_text().split(" ")[0] for label in ax.get_yticklabels()]
    assert rows(scgpcl.pl.stability(model)) == ["0", "1", "2", "3"]
    model.cut(2, key_added="coarse")
    with pytest.raises(ValueError, match=r"current clusters .* found that of '0', '1', '2', '3'. Call `model.annotate"):
        scgpcl.pl.stability(model)
    model.annotate()
    assert rows(scgpcl.pl.stability(model)) == list(model.adata.obs["scgpcl_cluster"].cat.categories)
    with pytest.raises(TypeError, match="key"):
        scgpcl.pl.stability(model, key="coarse")
    plt.close("all")


def test_one_cluster_is_all_there_is(annotated):
    table = annotated.get_cluster_stability(level=1, n_draws=1)
    assert table[INDICES].to_numpy().tolist() == [[1.0, 1.0, 1.0]]
    assert table["neighbor"].tolist() == [""]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_draws": 0}, "`n_draws` to be a whole number of at least 1, found 0"),
        ({"level": 99}, "found 99"),
        ({"seed": -1}, "`seed`"),
        ({"batch_size": 0}, "`batch_size`"),
    ],
)
def test_bad_input_is_refused(annotated, arguments, words):
    with pytest.raises(ValueError, match=words):
        annotated.get_cluster_stability(**arguments)
