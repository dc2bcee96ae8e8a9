"""Clusters described for people: marker genes, a table and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import anndata as ad
import numpy as np
import pandas as pd

from scgpcl import _keys, metrics, pl
from scgpcl.pl._obs import categories_of, colors_of

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scgpcl.model import SCGPCL

N_MARKERS = 5


class Markers(NamedTuple):
    """Marker genes of each cluster and the expression they were found in.

    Parameters
    ----------
    expression
        Log-normalised copy of the cells, with the clusters in `obs`.
    genes
        Names of the best genes of each cluster, best first; fewer than asked for, or none, where there are no more.
    """

    expression: ad.AnnData
    genes: dict[str, list[str]]


def find_markers(adata: ad.AnnData, key: str, *, layer: str | None = None, n_genes: int = N_MARKERS) -> Markers:
    """Genes that mark each cluster: Wilcoxon rank-sum test of each cluster against all other cells.

    Parameters
    ----------
    adata
        Clustered cells with raw counts; not changed.
    key
        Column of `adata.obs` with the clusters.
    layer
        Layer with the counts; `None` is `X`.
    n_genes
        Largest number of genes per cluster.

    Returns
    -------
    Genes with at least twice the mean expression of the other cells, by the score of the test. A cluster of one cell,
    and the only cluster, have none.
    """
    import scanpy as sc

    expression = ad.AnnData(
        (adata.X if layer is None else adata.layers[layer]).astype("float32"),  # a copy
        obs=adata.obs[[key]].copy(),
        var=pd.DataFrame(index=adata.var_names),
    )
    sc.pp.filter_genes(expression, min_cells=min(3, adata.n_obs))
    sc.pp.normalize_total(expression, target_sum=1e4)
    sc.pp.log1p(expression)
    sizes = expression.obs[key].value_counts(sort=False)
    genes: dict[str, list[str]] = {str(name): [] for name in sizes.index}
    testable = [name for name, size in sizes.items() if 1 < size < expression.n_obs]
    if testable:
        sc.tl.rank_genes_groups(expression, key, groups=testable, method="wilcoxon")
        for name in testable:
            ranked = sc.get.rank_genes_groups_df(expression, group=name)
            marking = (ranked["scores"] > 0) & (ranked["logfoldchanges"] >= 1)
            genes[str(name)] = ranked.loc[marking, "names"].head(n_genes).tolist()
    return Markers(expression, genes)


def cluster_table(
    adata: ad.AnnData, key: str, label_key: str | None = None, *, markers: Markers | None = None
) -> pd.DataFrame:
    """One row per cluster, in the order of the categories.

    Parameters
    ----------
    adata
        Clustered cells; not changed.
    key
        Column of `adata.obs` with the clusters.
    label_key
        Column of `adata.obs` with published types.
    markers
        Result of `find_markers`.

    Returns
    -------
    Columns `cluster`, `size` (cells), with `markers` also `markers` (names, separated by commas), and with `label_key`
    also `closest_type` (the most frequent type in the cluster) and `share` (of the cluster's cells that are of it).
    """
    clusters = adata.obs[key]
    sizes = clusters.value_counts(sort=False)
    table = pd.DataFrame({"cluster": sizes.index.astype(str), "size": sizes.to_numpy()})
    if markers is not None:
        table["markers"] = [", ".join(markers.genes[str(name)]) for name in sizes.index]
    if label_key is not None:
        labels = adata.obs[label_key]
        known = labels.notna()
        closest = metrics.match_clusters(labels[known], clusters[known], method="majority") if known.any() else {}
        table["closest_type"] = pd.Series([closest.get(name) for name in sizes.index], dtype=object)
        table["share"] = [
            float((labels[clusters == name] == closest[name]).mean()) if name in closest else 0.0
            for name in sizes.index
        ]
    return table


def write_figures(
    adata: ad.AnnData,
    model: SCGPCL,
    folder: Path,
    label_key: str | None = None,
    *,
    markers: Markers,
    seed: int = 0,
) -> list[Path]:
    """Draw a UMAP, the training curves and the marker genes.

    Parameters
    ----------
    adata
        Annotated cells; not changed.
    model
        The trained model.
    folder
        Existing folder for the files.
    label_key
        Column of `adata.obs` with published types, drawn beside the clusters.
    markers
        Result of `find_markers`.
    seed
        Seed of the UMAP.

    Returns
    -------
    The files `umap.png`, `history.png` and, if any cluster has markers, `markers.png`.
    """
    files = [_draw_umap(adata, folder / "umap.png", label_key, seed=seed)]
    if model.history_:
        files.append(_draw_history(model, folder / "history.png"))
    if any(markers.genes.values()):
        files.append(_draw_markers(markers, folder / "markers.png"))
    return files


def _draw_umap(adata: ad.AnnData, path: Path, label_key: str | None, *, seed: int) -> Path:
    import matplotlib.pyplot as plt
    import scanpy as sc

    columns = [_keys.CLUSTER] if label_key is None else [_keys.CLUSTER, label_key]
    cells = ad.AnnData(obs=adata.obs[columns].copy(), obsm={_keys.LATENT: adata.obsm[_keys.LATENT]})
    sc.pp.neighbors(cells, use_rep=_keys.LATENT, n_neighbors=min(15, cells.n_obs - 1), random_state=seed)
    # The spectral start needs more cells than it makes eigenvectors.
    sc.tl.umap(cells, random_state=seed, init_pos="spectral" if cells.n_obs > 4 else "random")
    figure, axes = plt.subplots(1, len(columns), figsize=(5.4 * len(columns), 4.2), squeeze=False, layout="constrained")
    for ax, column in zip(axes.flat, columns, strict=True):
        _draw_groups(ax, cells.obsm["X_umap"], adata, column)
    return _save(figure, path)


def _draw_groups(ax: Axes, position: np.ndarray, adata: ad.AnnData, key: str) -> None:
    """Cells at `position`, shape (n_cells, 2), in the colours of their groups, with a legend."""
    groups = categories_of(adata, key)
    colors = colors_of(adata, key)
    size = min(40.0, max(1.0, 15000 / len(groups)))
    point_colors = groups.astype(object).map(colors).fillna("lightgrey").to_numpy()
    # In random order, so that no group hides another.
    order = np.random.default_rng(0).permutation(len(groups))
    ax.scatter(position[order, 0], position[order, 1], c=point_colors[order], s=size, lw=0, rasterized=True)
    names = list(groups.cat.categories)
    for name in names:
        ax.scatter([], [], color=colors[name], s=40, label=str(name))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=1 + len(names) // 15, fontsize=9)
    ax.set(title=key, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.spines[["top", "right"]].set_visible(False)


def _draw_history(model: SCGPCL, path: Path) -> Path:
    return _save(cast("Figure", pl.history(model)[0].figure), path)


def _draw_markers(markers: Markers, path: Path) -> Path:
    import matplotlib.pyplot as plt
    import scanpy as sc

    clusters = markers.expression.obs.columns[0]
    n_genes = max(1, min(3, 60 // len(markers.genes)))
    # A gene that marks two clusters is drawn once, with the first of them.
    drawn: set[str] = set()
    chosen: dict[str, list[str]] = {}
    for name, genes in markers.genes.items():
        new = [gene for gene in genes if gene not in drawn][:n_genes]
        if new:
            chosen[name] = new
            drawn.update(new)
    plot = sc.pl.dotplot(
        markers.expression, chosen, groupby=clusters, standard_scale="var", return_fig=True, show=False
    )
    plot.style(cmap="Reds", dot_edge_lw=0.3)
    plot.make_figure()
    path = _save(plot.fig, path)
    plt.close(plot.fig)
    return path


def _save(figure: Figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def write_table(table: pd.DataFrame, folder: Path) -> Path:
    """Write the table of clusters to `clusters.csv`; the file's path."""
    path = folder / "clusters.csv"
    table.to_csv(path, index=False, float_format="%.4f")
    return path
