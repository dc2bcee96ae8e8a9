"""Figures of the tree: what they draw is what the model says, in the same colours everywhere."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch

import scgpcl
from scgpcl import pl
from scgpcl.pl._style import DISTINCT, colors_of, node_colors


@pytest.fixture(scope="module")
def model():
    from tests.conftest import make_counts

    x, _ = make_counts(n_cells=300, n_genes=80, n_groups=4, density_scale=2.0)
    adata = ad.AnnData(x)
    adata.obs_names = [f"cell{i}" for i in range(300)]
    adata.var_names = [f"gene{i}" for i in range(80)]
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 4, n_hidden=16, n_latent=8)
    model.train(pretrain_max_epochs=4, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    return model


def _leaf_names(ax):
    return [text.get_text().split(" (")[0] for text in ax.texts if text.get_text().endswith(")")]


def test_the_tree_has_the_clusters_of_a_level_and_its_splits(model):
    table = model.get_tree()
    ax = pl.tree(model, n_clusters=6, n_genes=0)
    assert sorted(_leaf_names(ax)) == sorted(model.get_levels([6])[6].cat.categories)
    drawn = table[table["n_clusters"] <= 6]
    lines = ax.get_lines()
    assert len(lines) == len(drawn) - 1
    n_weak = sum(table["support"][above] < 0.95 for above in drawn["parent"][1:])
    assert sum(line.get_linestyle() != "-" for line in lines) == n_weak
    colors = dict(zip(table.index, node_colors(list(table.index)), strict=True))
    for line, (name, above) in zip(lines, drawn["parent"][1:].items(), strict=True):
        assert line.get_xdata()[0] == pytest.approx(table["height"][above])
        assert to_hex(line.get_color()) == colors[name]
    # no two branches cross: leaves below a node are side by side
    y = {name: line.get_ydata()[-1] for line, name in zip(lines, drawn.index[1:], strict=True)}
    for name in set(drawn["parent"]) - {"", table.index[0]}:
        inner = [y[child] for child in drawn.index[drawn["parent"] == name]]
        assert min(inner) < y[name] < max(inner)


def test_leaves_have_the_genes_that_a_t_test_finds_between_them(model):
    ax = pl.tree(model, n_clusters=2, n_genes=2)
    first, second = _leaf_names(ax)
    cells = model.adata.copy()
    cells.obs["side"] = model.get_levels([2])[2]
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "side", groups=[first], reference=second, method="t-test")
    expected = list(cells.uns["rank_genes_groups"]["names"][first][:2])
    assert ", ".join(expected) in [text.get_text() for text in ax.texts]


def test_bars_are_as_high_as_clusters_are_large_and_every_cell_flows_on(model):
    ax = pl.levels(model, [5, 1, 3])
    levels = model.get_levels([1, 3, 5])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "3", "5"]
    colors = dict(zip(model.get_tree().index, node_colors(list(model.get_tree().index)), strict=True))
    for column, level in enumerate(levels):
        bars = [bar for bars in ax.containers for bar in bars if round(bar.get_x() + bar.get_width() / 2) == column]
        found = {to_hex(bar.get_facecolor()): bar.get_height() for bar in bars}
        sizes = levels[level].value_counts()
        assert found == {colors[name]: size for name, size in sizes[sizes > 0].items()}
    flows = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    assert len(flows) == sum(levels.groupby(pair, observed=True).ngroups for pair in ([1, 3], [3, 5]))
    assert sum(np.ptp(flow.get_path().vertices[[4, 3], 1]) for flow in flows) == pytest.approx(2 * 300)


def test_a_level_that_is_not_there_is_refused(model):
    for call in (lambda: pl.tree(model, n_clusters=999), lambda: pl.levels(model, [2, 999])):
        with pytest.raises(ValueError, match=r"from 1 to \d+, the levels of the tree, found 999"):
            call()
    with pytest.raises(ValueError, match="`n_genes`"):
        pl.tree(model, n_genes=-1)


def test_a_cluster_has_one_colour_at_every_level(model):
    names = list(model.get_tree().index)
    colors = dict(zip(names, node_colors(names), strict=True))
    assert [colors[str(number)] for number in range(4)] == [color.lower() for color in DISTINCT[:4]]
    for name in names:
        if f"{name}.1" in colors:
            assert colors[f"{name}.1"] == colors[name] != colors[f"{name}.2"]
    leaves = [name for name in names if name not in set(model.get_tree()["parent"])]
    assert len({colors[name] for name in leaves}) == len(leaves)
    cells = model.adata.copy()
    for level in (3, 7):
        model.cut(level, adata=cells)
        found = colors_of(cells, "scgpcl_cluster")
        assert found == {name: colors[name] for name in cells.obs["scgpcl_cluster"].cat.categories}
    model.cut(4)


def test_named_clusters_and_other_columns():
    clusters = ["T", "B", "NK 1.5"]
    parts = node_colors(["3", "3.a", "3.b", "3.b.a", "(3+5).b", "2+3.a", "3.1"])
    assert parts[0] == parts[1] == parts[6]
    assert parts[2] == parts[3] == parts[4] != parts[0]
    found = node_colors(["B + T", "T.1", "T.2", "B", "NK 1.5", "NK 1.5.1"], clusters)
    plain = [color.lower() for color in DISTINCT[:3]]
    assert [found[0], found[1], found[3], found[4], found[5]] == [plain[1], plain[0], plain[1], plain[2], plain[2]]
    assert found[2] not in plain
    # doses are no nodes
    cells = ad.AnnData(np.ones((3, 1)))
    cells.obs["dose"] = ["0.1", "0.2", "1.0"]
    assert list(colors_of(cells, "dose").values()) == list(DISTINCT[:3])
