from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from scgpcl import _input as _checks
from scgpcl import _keys

from ._expression import log_normalized

if TYPE_CHECKING:
    from anndata import AnnData

_METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")
#: Fields of scanpy's result and our columns.
_FIELDS = {
    "names": "gene",
    "scores": "score",
    "logfoldchanges": "log_fold_change",
    "pvals": "p_value",
    "pvals_adj": "p_adjusted",
}
_SHARES = {"pts": "share_in", "pts_rest": "share_out"}


def rank_markers(
    adata: AnnData,
    key: str = _keys.CLUSTER,
    *,
    layer: str | None = None,
    method: Literal["wilcoxon", "t-test", "t-test_overestim_var"] = "wilcoxon",
    n_genes: int | None = None,
    key_added: str | None = _keys.MARKERS,
) -> pd.DataFrame:
    """Rank all genes for every cluster against the other cells, with :func:`scanpy.tl.rank_genes_groups`.

    The test sees the logarithm of one plus counts per 10,000, made on the side: `X`, `raw` and `layers` stay as they
    are.

    Parameters
    ----------
    adata
        Clustered cells with raw counts of all genes.
    key
        Column of `adata.obs` with the clusters. Cells without one take no part.
    layer
        Layer with the counts; `None` is `X`.
    method
        scanpy's test.
    n_genes
        Genes per cluster in the result; `None` is all.
    key_added
        Place in `adata.uns` for scanpy's result, which :func:`scanpy.pl.rank_genes_groups_dotplot` and
        :func:`scanpy.get.rank_genes_groups_df` take as `key`; `None` writes nothing.

    Returns
    -------
    One row per cluster and gene, in the order of the clusters and with the best gene first: `cluster`, `gene`,
    `score` (of the test), `log_fold_change` (base 2, of the mean expression in the cluster over that in the other
    cells), `p_value`, `p_adjusted` (Benjamini and Hochberg, per cluster), `share_in` and `share_out` (of the cells in
    the cluster and of the others that have the gene). A cluster of one cell cannot be tested and has no rows.

    Raises
    ------
    KeyError
        If `adata` lacks the column or the layer.
    TypeError
        If the counts are stored in a form that is not supported.
    ValueError
        If there are fewer than two clusters, the counts are not counts, gene names are repeated, `adata` is a view that
        would be written to, or an argument is out of range.

    Notes
    -----
    The clusters were made from the same counts that are tested, so small p-values say that the clusters differ, which
    they were made to do, and not that they exist. Use the ranks to describe clusters.
    """
    import scanpy as sc

    _checks.check_one_of(method, _METHODS, "method")
    if n_genes is not None:
        _checks.check_range(n_genes, 1, float("inf"), "n_genes", whole=True)
    _checks.check_is_adata(adata)
    if key_added is not None:
        _checks.check_key_added(key_added)
        _checks.check_not_view(adata)
    expression = log_normalized(adata, key, layer=layer)
    sizes = expression.obs[key].value_counts(sort=False)
    testable = sizes.index[sizes > 1].tolist()
    if not testable:
        msg = f"Expected a cluster of at least two cells in `adata.obs[{key!r}]`, found clusters of one cell only."
        raise ValueError(msg)
    with warnings.catch_warnings():
        # scanpy makes its table column by column, of which pandas complains from about twenty clusters on.
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        sc.tl.rank_genes_groups(
            expression,
            key,
            groups=testable,
            method=method,
            n_genes=expression.n_vars if n_genes is None else min(n_genes, expression.n_vars),
            pts=True,
            key_added=_keys.MARKERS,
        )
    result = expression.uns[_keys.MARKERS]
    if key_added is not None:
        adata.uns[key_added] = result
    return _tidy(result, testable, sizes.index)


def top_markers(table: pd.DataFrame, n_genes: int = 5, *, min_log_fold_change: float = 1.0) -> dict[str, list[str]]:
    """Best genes of each cluster, those that could serve as its markers.

    Parameters
    ----------
    table
        Result of :func:`rank_markers`.
    n_genes
        Largest number of genes per cluster.
    min_log_fold_change
        Genes below this are left out, and so are genes with a score of zero or less. The default is twice the mean
        expression of the other cells.

    Returns
    -------
    Names of genes by cluster, best first; a cluster may have fewer, or none.

    Raises
    ------
    TypeError
        If `table` is no such result.
    ValueError
        If a number is out of range.
    """
    check_table(table)
    _checks.check_range(n_genes, 1, float("inf"), "n_genes", whole=True)
    _checks.check_range(min_log_fold_change, float("-inf"), float("inf"), "min_log_fold_change")
    marking = table[(table["score"] > 0) & (table["log_fold_change"] >= min_log_fold_change)]
    genes: dict[str, list[str]] = {str(name): [] for name in table["cluster"].cat.categories}
    for name, rows in marking.groupby("cluster", observed=True):
        genes[str(name)] = rows["gene"].head(n_genes).tolist()
    return genes


def check_table(table: Any) -> None:
    """Require a result of :func:`rank_markers`.

    Raises
    ------
    TypeError
        If it is something else.
    """
    columns = ("cluster", "gene", "score", "log_fold_change")
    if not isinstance(table, pd.DataFrame) or not set(columns) <= set(table.columns):
        found = f"columns [{_checks.listed(table.columns)}]" if isinstance(table, pd.DataFrame) else repr(table)
        msg = (
            f"Expected a table with the columns {columns}, found {found}. Make it with `scgpcl.tl.rank_markers(adata)`."
        )
        raise TypeError(msg)


def _tidy(result: dict[str, Any], tested: list[str], clusters: pd.Index) -> pd.DataFrame:
    """The result of scanpy as one table.

    Parameters
    ----------
    result
        What scanpy writes to `uns`.
    tested
        Clusters in the order of its fields. Fields are taken by position: numpy renames a field without a name.
    clusters
        All clusters.
    """
    parts = []
    for position, name in enumerate(tested):
        part = pd.DataFrame(
            {column: result[field][result[field].dtype.names[position]] for field, column in _FIELDS.items()}
        )
        for field, column in _SHARES.items():
            part[column] = result[field].iloc[:, position].loc[part["gene"]].to_numpy()
        part.insert(0, "cluster", pd.Series(pd.Categorical([name] * len(part), categories=clusters)))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
