from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from scgpcl import _input as _checks
from scgpcl import _keys
from scgpcl.tl._expression import log_normalized

if TYPE_CHECKING:
    from anndata import AnnData

_METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")
#: Fields of scanpy's result and the corresponding columns.
_FIELDS = {
    "names": "gene",
    "scores": "score",
    "logfoldchanges": "log_fold_change",
    "pvals": "p_value",
    "pvals_adj": "p_adjusted",
}
#: Pattern for mitochondrial genes and for genes and pseudogenes of ribosomal proteins, but not for kinases such as
#: RPS6KA1.
MT_RIBO = r"MT-.+|(RP[LS]\d+[AXYL]?\d*|RPLP\d|RPSA)(-PS\d*|P\d+|RT)?"
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
    """Rank all genes for each cluster against the other cells, with :func:`scanpy.tl.rank_genes_groups`.

    The test uses log(1 + counts per 10,000), which is computed on a copy, so that ``X``, ``raw`` and ``layers`` are not
    changed.

    Parameters
    ----------
    adata
        Clustered cells with raw counts of all genes.
    key
        Column of ``adata.obs`` with the clusters. Cells without a cluster are ignored.
    layer
        Layer with the counts. If ``None``, ``X`` is used.
    method
        Statistical test, as in scanpy.
    n_genes
        Number of genes per cluster in the result. If ``None``, all genes are kept.
    key_added
        Key in ``adata.uns`` under which scanpy's result is stored. Pass it as ``key`` to
        :func:`scanpy.pl.rank_genes_groups_dotplot` and :func:`scanpy.get.rank_genes_groups_df`. If ``None``, nothing is
        stored. If the name of a cluster contains a slash, the shares are not stored, because they could not be written
        to a file. They are still part of the returned table.

    Returns
    -------
    A table with one row per cluster and gene, with clusters in their order and genes from best to worst. The columns
    are ``cluster``, ``gene``, ``score`` (of the test), ``log_fold_change`` (base 2, for the mean expression in the
    cluster relative to the other cells), ``p_value``, ``p_adjusted`` (Benjamini and Hochberg, per cluster),
    ``share_in`` and ``share_out`` (shares of the cells inside and outside the cluster that express the gene). A cluster
    with a single cell cannot be tested and has no rows.

    Raises
    ------
    KeyError
        If ``adata`` lacks the column or the layer.
    TypeError
        If the storage of the counts is not supported.
    ValueError
        If there are fewer than two clusters, if the layer does not contain raw counts, if gene names are duplicated, if
        the result would be stored in a view or replace an entry of ``adata.uns`` that is not such a result, or if an
        argument is out of range.

    Notes
    -----
    The clusters were defined from the same counts that are tested, so small p-values do not show that the clusters exist.
    Use the ranks only to describe clusters.
    """
    _checks.check_one_of(method, _METHODS, "method")
    if n_genes is not None:
        _checks.check_range(n_genes, 1, float("inf"), "n_genes", whole=True)
    _checks.check_is_adata(adata)
    if key_added is not None:
        _checks.check_key_added(key_added)
        _checks.check_not_view(adata)
        _checks.check_not_replaced(adata, key_added, ("params", "names", "scores"))
    expression = log_normalized(adata, key, layer=layer)
    sizes = expression.obs[key].value_counts(sort=False)
    testable = sizes.index[sizes > 1].tolist()
    if not testable:
        msg = f"Expected a cluster of at least two cells in `adata.obs[{key!r}]`, found clusters of one cell only."
        raise ValueError(msg)
    result = ranked(expression, key, testable, method=method, n_genes=n_genes)
    if key_added is not None:
        # a file has a group for each column of these two tables, whose name cannot contain a slash
        left_out = _SHARES if any("/" in name for name in testable) else {}
        adata.uns[key_added] = {field: value for field, value in result.items() if field not in left_out}
    return _tidy(result, testable, sizes.index)


def ranked(
    expression: AnnData, key: str, groups: list[str], *, method: str = "wilcoxon", n_genes: int | None = None
) -> dict[str, Any]:
    """Rank genes with scanpy and return its result for some groups.

    Each group is compared with all other cells of the log-normalised ``expression``.
    """
    import scanpy as sc

    with warnings.catch_warnings():
        # scanpy adds columns one by one, and pandas warns about that from about twenty clusters on
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        sc.tl.rank_genes_groups(
            expression,
            key,
            groups=groups,
            method=method,
            n_genes=expression.n_vars if n_genes is None else min(n_genes, expression.n_vars),
            pts=True,
            key_added=_keys.MARKERS,
        )
    return expression.uns[_keys.MARKERS]


def top_markers(
    table: pd.DataFrame, n_genes: int = 5, *, min_log_fold_change: float = 1.0, skip_mt_ribo: bool = False
) -> dict[str, list[str]]:
    """Select the top marker genes of each cluster.

    Parameters
    ----------
    table
        Result of :func:`rank_markers`.
    n_genes
        Maximum number of genes per cluster.
    min_log_fold_change
        Minimum log2 fold change. By default, the mean expression must be at least twice as high as in the other cells.
        Genes with a score of zero or less are always excluded.
    skip_mt_ribo
        Whether to leave out mitochondrial genes and genes of ribosomal proteins, which are recognised by their human or
        mouse names. These genes often reflect the state of a cell rather than its type.

    Returns
    -------
    Gene names for each cluster, best first. A cluster may have fewer genes, or none.

    Raises
    ------
    TypeError
        If ``table`` is not a result of :func:`rank_markers`.
    ValueError
        If a number is out of range.
    """
    check_table(table)
    _checks.check_range(n_genes, 1, float("inf"), "n_genes", whole=True)
    _checks.check_range(min_log_fold_change, float("-inf"), float("inf"), "min_log_fold_change")
    marking = table[(table["score"] > 0) & (table["log_fold_change"] >= min_log_fold_change)]
    if skip_mt_ribo:
        marking = marking[~is_mt_ribo(marking["gene"])]
    genes: dict[str, list[str]] = {str(name): [] for name in table["cluster"].cat.categories}
    for name, rows in marking.groupby("cluster", observed=True):
        genes[str(name)] = rows["gene"].head(n_genes).tolist()
    return genes


def is_mt_ribo(genes: pd.Series) -> pd.Series:
    """Return whether each gene is mitochondrial or encodes a ribosomal protein.

    This is decided by its human or mouse name.
    """
    return genes.astype(str).str.fullmatch(MT_RIBO, case=False)


def check_table(table: Any) -> None:
    """Check that a table is a result of :func:`rank_markers`."""
    columns = ("cluster", "gene", "score", "log_fold_change")
    if not isinstance(table, pd.DataFrame) or not set(columns) <= set(table.columns):
        found = f"columns [{_checks.listed(table.columns)}]" if isinstance(table, pd.DataFrame) else repr(table)
        msg = (
            f"Expected a table with the columns {columns}, found {found}. Make it with `scgpcl.tl.rank_markers(adata)`."
        )
        raise TypeError(msg)


def _tidy(result: dict[str, Any], tested: list[str], clusters: pd.Index) -> pd.DataFrame:
    """Convert scanpy's result for the ``tested`` groups to one table.

    Fields are taken by position, because numpy renames empty names.
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
