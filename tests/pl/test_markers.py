import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.collections import PathCollection

from scgpcl import datasets, pl, tl


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    adata = datasets.pbmc3k()
    adata = adata[adata.obs["cell_type"].isin(["B", "NK", "CD14+ Mono"])].copy()
    adata = adata[::3, np.sort(np.argsort(-adata.X.sum(0).A1)[:1500])].copy()
    names = {"B": "0", "NK": "1", "CD14+ Mono": "2"}
    adata.obs["scgpcl_cluster"] = pd.Categorical([names[name] for name in adata.obs["cell_type"]])
    return adata


@pytest.fixture(scope="module")
def table(cells):
    return tl.rank_markers(cells, key_added=None)


def test_genes_and_clusters(cells, table):
    ax = pl.markers(cells, table, n_genes=np.int64(2))
    best = tl.top_markers(table, 2)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [gene for genes in best.values() for gene in genes]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "1", "2"]
    dots = [group for group in ax.collections if isinstance(group, PathCollection)]
    assert sum(len(group.get_offsets()) for group in dots) == 3 * 6
    assert ax.get_ylabel() == "scgpcl_cluster"


def test_dots_are_those_scanpy_draws(cells, table):
    ax = pl.markers(cells, table, n_genes=2)
    expression = cells.copy()
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    plot = sc.pl.dotplot(
        expression,
        tl.top_markers(table, 2),
        groupby="scgpcl_cluster",
        standard_scale="var",
        return_fig=True,
        show=False,
    )
    expected = plot.get_axes()["mainplot_ax"]
    ours, theirs = [
        next(group for group in one.collections if isinstance(group, PathCollection)) for one in (ax, expected)
    ]
    np.testing.assert_allclose(ours.get_sizes(), theirs.get_sizes())
    np.testing.assert_allclose(ours.get_facecolors(), theirs.get_facecolors(), atol=0.01)


def test_makes_the_table_if_there_is_none(cells, table, untouched):
    names = lambda ax: [tick.get_text() for tick in ax.get_xticklabels()]
    with untouched(cells):
        assert names(pl.markers(cells)) == names(pl.markers(cells, table))


def test_names_that_are_formulas_or_alike(cells):
    odd = cells.copy()
    same = "a name that is very long and has its only difference in the midst {} of all of these words"
    odd.obs["odd"] = odd.obs["cell_type"].cat.rename_categories([same.format(1), same.format(2), "$_{"])
    odd.var_names = [f"${name}" for name in odd.var_names]
    ax = pl.markers(odd, groupby="odd", n_genes=1)
    ax.figure.canvas.draw()
    assert len({tick.get_text() for tick in ax.get_yticklabels()}) == 3


def test_long_names_that_are_shortened_alike_keep_their_genes(cells):
    cells = cells.copy()
    types = [f"naive thymus-derived {name}-positive, alpha-beta T cell" for name in ("CD4", "CD8")]
    cells.obs["type"] = cells.obs["cell_type"].cat.rename_categories([*types, "NK"])
    ax = pl.markers(cells, groupby="type", n_genes=3, skip_mt_ribo=False)
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    brackets = [text.get_text() for each in ax.figure.axes for text in each.texts]
    assert len(set(rows)) == 3
    assert brackets == rows
    best = tl.top_markers(tl.rank_markers(cells, "type", key_added=None), 3)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [gene for name in best for gene in best[name]]
    ax = pl.markers(cells, groupby="type", var_names={types[1]: ["CD79A", "NKG7"], types[0]: ["LYZ"]})
    assert [text.get_text() for each in ax.figure.axes for text in each.texts] == [rows[1], rows[0]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["CD79A", "NKG7", "LYZ"]


def test_a_gene_is_drawn_once_and_thirty_clusters_fit(cells):
    many = cells.copy()
    many.obs["many"] = pd.Categorical((np.arange(many.n_obs) % 30).astype(str))
    ranked = tl.rank_markers(many, "many", key_added=None, method="t-test")
    ax = pl.markers(many, ranked, groupby="many", n_genes=5)
    genes = [tick.get_text() for tick in ax.get_xticklabels()]
    assert len(genes) == len(set(genes)) <= 60
    assert len(ax.get_yticklabels()) == 30


def test_refuses_what_cannot_be_drawn(cells, table):
    with pytest.raises(KeyError, match="leiden"):
        pl.markers(cells, groupby="leiden")
    with pytest.raises(ValueError, match="found 0"):
        pl.markers(cells, table, n_genes=0)
    with pytest.raises(ValueError, match="found True"):
        pl.markers(cells, table, n_genes=True)
    with pytest.raises(ValueError, match="at least one cluster"):
        pl.markers(cells, table.assign(score=-1.0))


def test_mitochondrial_and_ribosomal_genes_are_left_out_with_a_note(cells, table):
    names = lambda ax: [tick.get_text() for tick in ax.get_xticklabels()]
    notes = lambda ax: [text.get_text() for text in ax.texts]
    renamed = table.copy()
    best = tl.top_markers(table, 2)
    renamed["gene"] = table["gene"].replace({best["0"][0]: "MT-NEW", best["1"][0]: "Rps99", best["2"][0]: "RPS6KA9"})
    cells = cells.copy()
    cells.var_names = (
        pd.Index(cells.var_names)
        .to_series()
        .replace({best["0"][0]: "MT-NEW", best["1"][0]: "Rps99", best["2"][0]: "RPS6KA9"})
    )
    ax = pl.markers(cells, renamed, n_genes=1)
    assert names(ax) == [best["0"][1], best["1"][1], "RPS6KA9"]
    assert any("left out" in note for note in notes(ax))
    ax = pl.markers(cells, renamed, n_genes=1, skip_mt_ribo=False)
    assert names(ax) == ["MT-NEW", "Rps99", "RPS6KA9"]
    assert not any("left out" in note for note in notes(ax))
    assert not any(
        "left out" in note for note in notes(pl.markers(cells, table.assign(gene=cells.var_names[0]), n_genes=1))
    )


def test_genes_of_the_caller(cells):
    names = lambda ax: [tick.get_text() for tick in ax.get_xticklabels()]
    assert names(pl.markers(cells, var_names=["NKG7", "CD79A"])) == ["NKG7", "CD79A"]
    assert names(pl.markers(cells, var_names={"B": ["CD79A"], "NK": "NKG7"})) == ["CD79A", "NKG7"]
    with pytest.raises(KeyError, match="'CD79Z'"):
        pl.markers(cells, var_names=["CD79Z"])
