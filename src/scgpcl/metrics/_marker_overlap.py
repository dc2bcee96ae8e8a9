from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scgpcl import _input
from scgpcl.metrics._partitions import aligned, contingency, encode_pair, match_clusters
from scgpcl.tl._expression import TARGET_SUM, counted, normalized

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike


class MarkerOverlap(NamedTuple):
    """Agreement between the marker genes of clusters and of published types.

    Parameters
    ----------
    per_type
        Table with one row per type, indexed by type and sorted by size and then by name. The columns are ``n_cells``,
        ``cluster`` (the matched cluster, or ``None``) and ``overlap`` (share of the type's marker genes that also mark
        the cluster; 0 if there is no cluster, and NaN for a type with a single cell, which has no marker genes).
    mean
        Mean of ``overlap`` over the types that have marker genes.
    rarest
        Type with the fewest cells among the types that have marker genes.
    pairwise
        Overlap of every type (rows, in the order of ``per_type``) with every cluster (columns, matched clusters first).
    """

    per_type: pd.DataFrame
    mean: float
    rarest: str
    pairwise: pd.DataFrame

    @property
    def rarest_overlap(self) -> float:
        """Overlap of the rarest type."""
        return float(self.per_type["overlap"][self.rarest])


def marker_overlap(
    adata: AnnData,
    labels: str | ArrayLike,
    reference: str | ArrayLike,
    *,
    n_top: int = 10,
    layer: str | None = None,
    target_sum: float = TARGET_SUM,
) -> MarkerOverlap:
    """Compare the marker genes of clusters and published types, as in the Zeisel study of Lee et al. (2023).

    The marker genes of a group are the ``n_top`` genes with the highest scores in a Wilcoxon rank-sum test of the group
    against all other cells, on log-normalised counts. Clusters are matched to types one-to-one such that as many cells
    as possible agree (Hungarian method). A pair that shares no cells is not a match. The overlap of a type and its
    cluster is the number of genes that mark both, divided by ``n_top``.

    Parameters
    ----------
    adata
        Cells with counts of all genes and not only of selected genes. The cells are not changed.
    labels
        Clusters, given as a column of ``adata.obs`` or as an array of shape (n_cells,). A Series is aligned by cell
        name.
    reference
        Published types, in the same format.
    n_top
        Number of marker genes.
    layer
        Layer with the counts. If ``None``, ``X`` is used.
    target_sum
        Total count per cell after normalisation, before the logarithm.

    Returns
    -------
    Overlap of each type, the mean overlap, the rarest type, and the overlap of all pairs. Plot the result with
    :func:`scgpcl.pl.marker_overlap`.

    Raises
    ------
    KeyError
        If ``adata`` lacks a column or the layer.
    TypeError
        If ``adata`` is not an AnnData, or if the storage of the counts is not supported.
    ValueError
        If there are fewer than ``n_top`` genes, if lengths differ, if entries are missing, if the layer does not
        contain raw counts, if gene names are duplicated, or if no type has at least two cells and other cells to
        compare with.
    """
    _input.check_is_adata(adata)
    if not 1 <= n_top <= adata.n_vars:
        msg = f"Expected `n_top` between 1 and the number of genes, {adata.n_vars}, found {n_top}."
        raise ValueError(msg)
    types, clusters = (_names(adata, values) for values in (reference, labels))
    encode_pair(types, clusters)
    if len(types) != adata.n_obs:
        msg = f"Expected labels of all {adata.n_obs} cells of `adata`, found {len(types)}."
        raise ValueError(msg)
    found = contingency(types, clusters)
    # sort by name first, so that the order of the cells does not decide between types of equal size
    sizes = pd.Series(found.table.sum(axis=1), index=found.labels).sort_index()
    sizes = sizes.sort_values(ascending=False, kind="stable")
    together = set(zip(types, clusters, strict=True))
    pairs = [(label, cluster) for cluster, label in match_clusters(types, clusters).items()]
    cluster_of = {str(label): str(cluster) for label, cluster in pairs if (label, cluster) in together}

    expression = normalized(counted(adata, np.ones(adata.n_obs, dtype=bool), layer=layer), target_sum)
    type_genes = _top_genes(expression, types, n_top)
    cluster_genes = _top_genes(expression, clusters, n_top)
    if not type_genes:
        msg = "Expected at least one type with two cells or more, and at least one other cell, found none."
        raise ValueError(msg)
    names = [str(name) for name in sizes.index]
    matched = [cluster_of[name] for name in names if name in cluster_of]
    columns = [*matched, *(name for name in sorted(map(str, found.clusters)) if name not in matched)]
    overlap = np.array([[_share(type_genes.get(t), cluster_genes.get(c), n_top) for c in columns] for t in names])
    own = [
        overlap[i, columns.index(cluster_of[name])] if name in cluster_of else _share(type_genes.get(name), None, n_top)
        for i, name in enumerate(names)
    ]
    index = pd.Index(names, name="type")
    per_type = pd.DataFrame({"n_cells": sizes.to_numpy()}, index=index)
    per_type["cluster"] = pd.Series([cluster_of.get(name) for name in names], index=index, dtype=object)
    per_type["overlap"] = own
    pairwise = pd.DataFrame(overlap, index=index, columns=pd.Index(columns, name="cluster"))
    known = per_type["overlap"].dropna()
    return MarkerOverlap(per_type, float(known.mean()), str(known.index[-1]), pairwise)


def _names(adata: AnnData, values: str | ArrayLike) -> np.ndarray:
    """Return the names of the groups as strings, shape (n_cells,). Missing values stay missing."""
    if isinstance(values, str):
        if values not in adata.obs:
            msg = f"Expected `adata.obs[{values!r}]`, found the columns {list(adata.obs.columns)}."
            raise KeyError(msg)
        values = adata.obs[values].to_numpy(dtype=object)
    elif isinstance(values, pd.Series):
        values = aligned(values, adata.obs_names)
    series = pd.Series(np.asarray(values, dtype=object))
    return series.where(series.isna(), series.astype(str)).to_numpy(dtype=object)


def _top_genes(expression: AnnData, groups: np.ndarray, n_top: int) -> dict[str, set[str]]:
    """Return the marker genes of each group that has at least two cells but does not contain all cells."""
    import scanpy as sc

    sizes = pd.Series(groups).value_counts()
    testable = [name for name, size in sizes.items() if 1 < size < expression.n_obs]
    if not testable:
        return {}
    expression.obs["group"] = pd.Categorical(groups)
    sc.tl.rank_genes_groups(expression, "group", groups=testable, n_genes=n_top, method="wilcoxon")
    names = expression.uns["rank_genes_groups"]["names"]
    return {str(name): {str(gene) for gene in names[name]} for name in testable}


def _share(type_genes: set[str] | None, cluster_genes: set[str] | None, n_top: int) -> float:
    """Return the share of the type's marker genes that also mark the cluster."""
    if type_genes is None:
        return float("nan")
    return len(type_genes & (cluster_genes or set())) / n_top
