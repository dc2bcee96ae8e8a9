from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgpcl import _input as _checks
from scgpcl import _keys
from scgpcl.tl._expression import groups_of, log_normalized
from scgpcl.tl._sources import marker_sets, same_type

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anndata import AnnData

UNKNOWN = "unknown"
#: Columns in the table of names.
TABLE_COLUMNS = (
    "cluster", "name", "size", "best_type", "score", "p_value", "second_type", "second_score", "disagree",
)  # fmt: skip
#: Maximum number of bins of genes with similar mean expression, as in :func:`scanpy.tl.score_genes`, and minimum number
#: of genes per bin. Small gene panels have fewer bins.
MAX_BINS = 25
MIN_BIN_SIZE = 200


def name_clusters(
    adata: AnnData,
    markers: Mapping[str, Iterable[str]] | pd.DataFrame | str | Path | Any,
    *,
    others: Mapping[str, Any] | None = None,
    key: str = _keys.CLUSTER,
    layer: str | None = None,
    key_added: str = _keys.NAME,
    max_p_value: float = 0.01,
    n_random: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Name clusters after cell types, given sets of marker genes.

    The score of a type in a cluster is the mean over its genes of

        (mean expression in the cluster - mean expression in the other cells) / standard deviation over all cells,

    where expression is log(1 + counts per 10,000). Each cluster is named after the type with the highest score, unless
    random gene sets score at least as high, in which case it is named ``"unknown"``. In each of ``n_random`` random
    sets, each marker gene is replaced by a random gene with similar mean expression that does not mark the type (25
    bins, as in :func:`scanpy.tl.score_genes` after Tirosh et al. 2016, or fewer bins with at least 200 genes each).
    Several clusters may have the same name.

    Parameters
    ----------
    adata
        Clustered cells with raw counts of all genes.
    markers
        Marker genes of each type, as a dictionary ``{type: [genes]}``, a table, a csv or tsv file, or a CellTypist
        model (see :func:`marker_sets`). Genes that are not in ``adata`` are ignored with a warning. In tables and
        models, types without any gene in ``adata`` are also ignored.
    others
        Further sources by name, in the same formats, such as ``{"panglaodb": table, "celltypist": model}``. The
        clusters are also named with these sources, and clusters with different names are marked.
    key
        Column of ``adata.obs`` with the clusters. Cells without a cluster are ignored and are not named.
    layer
        Layer with the counts. If ``None``, ``X`` is used.
    key_added
        Column of ``adata.obs`` in which the names are stored, as a categorical in the order of ``markers`` with
        ``"unknown"`` last.
    max_p_value
        Maximum share of random sets that may score at least as high as the type. This is a threshold for one type in
        one cluster and not an error rate over all of them. If it is 1, every cluster in which any type has a positive
        score is named.
    n_random
        Number of random sets. P-values cannot be smaller than ``1 / (n_random + 1)``.
    seed
        Random seed.

    Returns
    -------
    A table with one row per cluster. The columns are ``cluster``, ``name``, ``size`` (number of cells), ``best_type``
    with its ``score`` and ``p_value`` (the cluster is named after this type if the p-value is small enough), and
    ``second_type`` with its ``second_score`` (missing if there is only one type). If ``others`` are given, there is
    also a column with the names from each source, and ``disagree`` is true if two sources name the cluster differently.
    Case, plurals and the word "cell" are ignored, and a more specific name does not count as different. If the two
    scores are close, the marker sets do not distinguish the two types.

    Raises
    ------
    KeyError
        If ``adata`` lacks the column or the layer.
    TypeError
        If ``markers`` does not map names to lists of names.
    ValueError
        If there are fewer than two clusters or no types, if a type has no genes in ``adata`` or is named ``"unknown"``,
        if the layer does not contain raw counts, or if another argument is out of range.

    Examples
    --------
    >>> markers = {"B": ["CD79A", "MS4A1"], "NK": ["GNLY", "NKG7"], "T": ["CD3D", "CD3E"]}
    >>> scgpcl.tl.name_clusters(adata, markers, layer="counts")  # doctest: +SKIP
    >>> sc.pl.umap(adata, color="scgpcl_name")  # doctest: +SKIP
    """
    _checks.check_range(max_p_value, 0.0, 1.0, "max_p_value")
    _checks.check_range(n_random, 1, np.inf, "n_random", whole=True)
    _checks.check_seed(seed)
    _checks.check_key_added(key_added)
    if key_added == key:
        msg = (
            f"Expected `key_added` to be another column than the clusters, found {key!r} for both. Choose another name."
        )
        raise ValueError(msg)
    _checks.check_is_adata(adata)
    _checks.check_not_view(adata)
    columns = _columns_of(_present(markers, adata.var_names), adata.var_names)
    more = {
        name: _columns_of(_present(each, adata.var_names), adata.var_names) for name, each in (others or {}).items()
    }
    taken = [name for name in more if name in TABLE_COLUMNS]
    if taken:
        msg = f"Expected names of sources in `others` that are not columns of the table, found {_checks.listed(taken)}."
        raise ValueError(msg)
    expression = log_normalized(adata, key, layer=layer)
    groups = expression.obs[key]

    difference, mean = _standardized_difference(expression.X, groups.cat.codes.to_numpy())
    score, p_value = _score_sets(difference, mean, columns, n_random=n_random, rng=np.random.default_rng(seed))
    table = _table(score, p_value, list(columns), max_p_value)
    table.insert(0, "cluster", groups.cat.categories)
    table.insert(2, "size", groups.value_counts(sort=False).to_numpy())

    for source, own in more.items():
        found = _score_sets(difference, mean, own, n_random=n_random, rng=np.random.default_rng(seed))
        table[source] = _table(*found, list(own), max_p_value)["name"]
    if more:
        table["disagree"] = [_disagree([row["name"], *(row[source] for source in more)]) for _, row in table.iterrows()]

    used = set(table["name"])
    categories = [name for name in (*columns, UNKNOWN) if name in used]
    # the last entry is for cells without a cluster, whose code is -1
    name_of_code = np.array([*table["name"], None], dtype=object)
    adata.obs[key_added] = pd.Categorical(name_of_code[groups_of(adata, key).cat.codes], categories=categories)
    return table


def _present(markers: Any, genes: pd.Index) -> Any:
    """Return the marker sets of a source.

    If the source is a table or a model, types without any gene in the data are left out.
    """
    if isinstance(markers, Mapping):
        return markers
    found = {name: own for name, own in marker_sets(markers).items() if genes.isin(own).any()}
    if not found:
        msg = (
            f"Expected marker genes that are in `adata.var_names`, found none. Check their spelling: the first gene of the data "
            f"is {str(genes[0])!r}."
        )
        raise ValueError(msg)
    return found


def _disagree(names: list[str]) -> bool:
    """Return whether any two of the known names denote different types."""
    known = [name for name in names if name != UNKNOWN]
    return any(not same_type(a, b) for i, a in enumerate(known) for b in known[:i])


def _columns_of(markers: Any, genes: pd.Index) -> dict[str, np.ndarray]:
    """Return the positions of the marker genes of each type, each of shape (n_markers,)."""
    if not isinstance(markers, Mapping):
        msg = f"Expected `markers` to be a dictionary from types to genes, found {type(markers).__name__}."
        raise TypeError(msg)
    if not markers:
        msg = "Expected at least one type in `markers`, found none."
        raise ValueError(msg)
    columns, missing = {}, []
    for name, wanted in markers.items():
        if not isinstance(name, str) or isinstance(wanted, str | bytes) or not hasattr(wanted, "__iter__"):
            msg = f"Expected `markers` to map type names to lists of genes, found {name!r}: {wanted!r}."
            raise TypeError(msg)
        if name == UNKNOWN:
            msg = f"Expected names of types in `markers`, found {UNKNOWN!r}, which is reserved for unnamed clusters."
            raise ValueError(msg)
        unique = pd.Index(list(dict.fromkeys(wanted)), dtype=object)
        found = genes.get_indexer(unique)
        if (found < 0).all():
            what = f"none of {_checks.listed(unique)}" if len(unique) else "an empty set"
            msg = (
                f"Expected genes of `adata.var_names` as markers of {name!r}, found {what}. Check their spelling "
                f"(the first gene of the data is {str(genes[0])!r}) or remove this type."
            )
            raise ValueError(msg)
        missing += list(unique[found < 0])
        columns[name] = found[found >= 0]
    if missing:
        msg = f"Left out {len(missing)} marker genes that are not in `adata.var_names`: {_checks.listed(missing)}."
        warnings.warn(msg, stacklevel=3)
    return columns


def _standardized_difference(x: sp.csr_matrix, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the standardised difference between each cluster and the other cells.

    Takes the expression (n_cells, n_genes) and the cluster of each cell (n_cells,). Returns the difference of means
    divided by the standard deviation over all cells, shape (n_genes, n_clusters), which is zero for constant genes, and
    the mean over all cells, shape (n_genes,).
    """
    n_cells = x.shape[0]
    x = x.astype(np.float64)
    size = np.bincount(codes)
    member = sp.csr_matrix((np.ones(n_cells), (codes, np.arange(n_cells))), shape=(len(size), n_cells))
    inside = np.asarray((member @ x).todense())
    total = inside.sum(0)
    mean = total / n_cells
    variance = np.asarray(x.multiply(x).sum(0)).ravel() / n_cells - mean**2
    varies = variance > 1e-9 * mean**2  # smaller values are rounding errors of a constant
    std = np.sqrt(np.where(varies, variance, 1.0))
    outside = (total - inside) / (n_cells - size)[:, None]
    return (np.where(varies, inside / size[:, None] - outside, 0.0) / std).T, mean


def _score_sets(
    difference: np.ndarray, mean: np.ndarray, columns: dict[str, np.ndarray], *, n_random: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the scores of all types in all clusters, and how often random sets score at least as high.

    Takes the standardised differences (n_genes, n_clusters), the mean expression (n_genes,) and the genes of each type.
    Returns two arrays of shape (n_clusters, n_types): the scores, and the share of ``n_random`` random sets that score
    at least as high.
    """
    n_bins = min(MAX_BINS, max(1, len(mean) // MIN_BIN_SIZE))
    rank = pd.Series(mean).rank(method="first").to_numpy() - 1
    bins = (rank * n_bins // len(mean)).astype(int)
    scores, p_values = [], []
    for genes in columns.values():
        score = difference[genes].mean(0)
        null = np.zeros((n_random, difference.shape[1]))
        for gene in genes:
            others = np.setdiff1d(np.flatnonzero(bins == bins[gene]), genes)
            # if every gene in the bin is a marker, the type is compared with itself
            null += difference[rng.choice(others if len(others) else genes, n_random)]
        null /= len(genes)
        as_high = (null >= score - 1e-12).sum(0)
        scores.append(score)
        p_values.append((as_high + 1) / (n_random + 1))
    return np.stack(scores, axis=1), np.stack(p_values, axis=1)


def _table(score: np.ndarray, p_value: np.ndarray, types: list[str], max_p_value: float) -> pd.DataFrame:
    """Return the best and second type of each cluster from scores and p-values of shape (n_clusters, n_types)."""
    order = np.argsort(-score, axis=1, kind="stable")
    rows = np.arange(len(score))
    best = order[:, 0]
    best_score, best_p = score[rows, best], p_value[rows, best]
    named = (best_score > 0) & (best_p <= max_p_value)
    table = pd.DataFrame(
        {
            "name": [types[i] if ok else UNKNOWN for i, ok in zip(best, named, strict=True)],
            "best_type": [types[i] for i in best],
            "score": best_score,
            "p_value": best_p,
            "second_type": None,
            "second_score": np.nan,
        }
    )
    if len(types) > 1:
        table["second_type"] = [types[i] for i in order[:, 1]]
        table["second_score"] = score[rows, order[:, 1]]
    return table
