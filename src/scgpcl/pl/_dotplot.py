from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scgpcl import _keys
from scgpcl._rules import listed, number
from scgpcl.pl._style import shown
from scgpcl.tl import rank_markers, top_markers
from scgpcl.tl._expression import log_normalized

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Maximum number of genes in one figure, to keep their names readable.
_MAX_GENES = 60


def markers(
    adata: AnnData,
    table: pd.DataFrame | None = None,
    *,
    groupby: str = _keys.CLUSTER,
    var_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    layer: str | None = None,
    n_genes: int = 3,
    skip_mt_ribo: bool = True,
) -> Axes:
    """Draw a dot plot of the top marker genes of each cluster with scanpy.

    The size of a dot represents the share of the cluster's cells that express the gene. The colour represents the mean
    expression, scaled to [0, 1] for each gene.

    Parameters
    ----------
    adata
        Clustered cells with raw counts, which are not changed.
    table
        Result of :func:`scgpcl.tl.rank_markers`. If ``None``, it is computed.
    groupby
        Column of ``adata.obs`` with the clusters.
    var_names
        Genes to draw instead, given as a list or as a dictionary of lists by group name, as in
        :func:`scanpy.pl.dotplot`. In this case, no genes are ranked.
    layer
        Layer with the counts. If ``None``, ``X`` is used.
    n_genes
        Number of genes per cluster (see :func:`scgpcl.tl.top_markers`). Fewer genes are drawn if there would be more
        than 60 in total. A gene that marks several clusters is only shown with the first of them.
    skip_mt_ribo
        Whether to leave out mitochondrial genes and genes of ribosomal proteins (see :func:`scgpcl.tl.top_markers`). A
        note below the figure states whether any genes were left out.

    Returns
    -------
    The axes with the dots, in a new figure.

    Raises
    ------
    KeyError
        If ``adata`` lacks the column, the layer or a gene.
    ValueError
        If no cluster has a marker gene, if ``n_genes`` is below 1, or if the layer does not contain raw counts.
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    n_genes = number(1, whole=True)(n_genes, "n_genes")
    note = ""
    if var_names is not None:
        chosen = _named(adata, var_names)
    else:
        if table is None:
            table = rank_markers(adata, groupby, layer=layer, key_added=None)
        chosen = choose(top_markers(table, 10 * n_genes, skip_mt_ribo=skip_mt_ribo), n_genes)
        if skip_mt_ribo and choose(top_markers(table, 10 * n_genes), n_genes) != chosen:
            note = "Mitochondrial and ribosomal genes are left out."
    if not chosen:
        msg = f"Expected a marker gene of at least one cluster in `adata.obs[{groupby!r}]`, found none."
        raise ValueError(msg)
    expression = log_normalized(adata, groupby, layer=layer)
    genes = [gene for names in chosen.values() for gene in names]
    expression = expression[:, genes].copy()
    clusters = list(expression.obs[groupby].cat.categories)
    # rows and brackets of a cluster have the same name, also if it is one of several that are shortened alike
    every = list(dict.fromkeys([*clusters, *chosen]))
    short = dict(zip(every, _unique([shown(name) for name in every]), strict=True))
    expression.obs[groupby] = expression.obs[groupby].cat.rename_categories([short[name] for name in clusters])
    expression.var_names = _unique([shown(gene, 20) for gene in genes])
    symbols = iter(expression.var_names)
    drawn = {short[name]: [next(symbols) for _ in own] for name, own in chosen.items()}
    plot: Any = sc.pl.dotplot(
        expression,
        drawn if list(drawn) != [""] else drawn[""],
        groupby=groupby,
        standard_scale="var",
        var_group_rotation=90 if max(map(len, drawn)) > 4 else 0,
        return_fig=True,
        show=False,
    )
    plot.style(cmap="Reds", dot_edge_lw=0.3)
    plot.legend(colorbar_title="mean expression\n(scaled per gene)", size_title="cells with the gene (%)")
    plot.make_figure()
    axes: Axes = plot.get_axes()["mainplot_ax"]
    axes.set_ylabel(shown(groupby, 60))
    if note:
        axes.annotate(note, (0, 0), (0, -70), "axes fraction", textcoords="offset points", fontsize=7, color="0.4")
    plt.figure(plot.fig)
    return axes


def _named(adata: AnnData, var_names: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the given genes by group. A list becomes a single group without a name."""
    groups = dict(var_names) if isinstance(var_names, Mapping) else {"": var_names}
    wanted = {str(name): [own] if isinstance(own, str) else list(own) for name, own in groups.items()}
    missing = [gene for own in wanted.values() for gene in own if gene not in adata.var_names]
    if missing:
        msg = f"Expected genes of `adata.var_names` in `var_names`, found {listed(missing)}. Check the spelling."
        raise KeyError(msg)
    return wanted


def choose(genes: dict[str, list[str]], n_genes: int) -> dict[str, list[str]]:
    """Choose at most ``n_genes`` genes for each cluster that has any.

    Each gene appears only once, with the first cluster that it marks.
    """
    n_genes = max(1, min(n_genes, _MAX_GENES // max(len(genes), 1)))
    drawn: set[str] = set()
    chosen: dict[str, list[str]] = {}
    for name, candidates in genes.items():
        new = [gene for gene in candidates if gene not in drawn][:n_genes]
        if new:
            chosen[name] = new
            drawn.update(new)
    return chosen


def _unique(names: list[str]) -> list[str]:
    """Add a number to repeated names, because two long names may be shortened to the same text."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        while name in seen:
            seen[name] += 1
            name = f"{name} ({seen[name]})"
        seen[name] = 1
        result.append(name)
    return result
