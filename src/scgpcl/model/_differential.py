"""Differential expression between clusters, nodes of the tree and other groups of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgpcl import _keys
from scgpcl._process import held
from scgpcl._rules import listed
from scgpcl.tl._differences import Comparison, differences
from scgpcl.tl._expression import groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scgpcl.cluster import Grown
    from scgpcl.model._reference import Reference, Registration

#: Name of the other cells, as in scvi-tools.
REST = "Rest"
#: Fewest cells of a group.
MIN_CELLS = 2


class Differential:
    """``differential_expression``."""

    tree_: dict[str, Any] | None

    if TYPE_CHECKING:  # what the model itself has

        @property
        def reference(self) -> Reference: ...
        @property
        def registration(self) -> Registration: ...
        def _target(self, adata: AnnData | None) -> AnnData: ...
        def _grown(self) -> Grown: ...
        def _paths(self, grown: Grown, adata: AnnData | None) -> tuple[np.ndarray, pd.Index]: ...

    @held()
    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str = _keys.CLUSTER,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
    ) -> pd.DataFrame:
        """Genes that differ between two groups of cells, by a Wilcoxon test on the measured counts.

        scanpy's test compares log(1 + counts per 10,000) of **all** genes, computed on a copy; denoised expression is
        never tested, since its values are not independent observations. The AnnData is not changed.

        Parameters
        ----------
        adata
            Cells to compare; ``None`` is the registered AnnData. Counts are read from the registered layer.
        groupby
            Column of ``adata.obs`` with the groups. Cells without a group, or named ``"unassigned"``, are left out.
        group1
            Name of a group, or a list of names, each of which is compared on its own; ``None`` takes every group of at
            least two cells. Besides the groups of the column, nodes of the tree can be named, see :meth:`get_tree`:
            ``group1="3.1", group2="3.2"`` gives the markers of the split of cluster 3.
        group2
            Name of the group, or of the node, to compare with; ``None`` is all other cells.

        Returns
        -------
        The table of scvi-tools: a row per gene, indexed by its name, best first, and one block of rows after the other
        where several groups are compared. Its columns are:

        - ``lfc_mean``: log2 fold change of the first group over the second, as scanpy computes it; it is very large, or
          very small, for a gene that only one of them has;
        - ``scores``, ``pvals`` and ``pvals_adj``: z-score of the rank sum, its p-value, and that adjusted within the
          comparison (Benjamini and Hochberg), as in scanpy;
        - ``raw_mean1`` and ``raw_mean2``: mean counts;
        - ``non_zeros_proportion1`` and ``non_zeros_proportion2``: shares of the cells that express the gene;
        - ``raw_normalized_mean1`` and ``raw_normalized_mean2``: mean counts per 10,000;
        - ``comparison`` (such as "3.1 vs 3.2"), ``group1`` and ``group2`` (``"Rest"`` for all other cells).

        Raises
        ------
        KeyError
            If ``adata`` lacks the column or the layer.
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no such group, if the two groups are the same or share cells, if a group has fewer than two cells, or if
            the layer does not hold raw counts.

        Notes
        -----
        The clusters were found in the counts that are tested here. Such p-values are far too small, and are no valid test
        of whether the clusters exist: any cut through one homogeneous group gives small ones. Use the table to describe
        clusters. Cells of one sample are not independent either: for a comparison of conditions, take samples as replicates.

        Examples
        --------
        >>> table = model.differential_expression(group1="3.1", group2="3.2")  # doctest: +SKIP
        >>> table[(table["lfc_mean"] > 1) & (table["non_zeros_proportion1"] > 0.1)].head()  # doctest: +SKIP
        """
        _ = self.reference  # a model that is not trained is refused first
        target = self._target(adata)
        if groupby not in target.obs:
            msg = (
                f"Expected groups in `adata.obs[{groupby!r}]`, found the columns [{listed(target.obs.columns)}]. "
                "Call `model.annotate(adata)`, or name the column with `groupby=`."
            )
            raise KeyError(msg)
        groups = groups_of(target, groupby, least=1)
        several = group1 is not None and not isinstance(group1, str) and hasattr(group1, "__iter__")
        names = None if group1 is None else [str(name) for name in group1] if several else [str(group1)]
        other = None if group2 is None else str(group2)
        if names is not None and (not names or len(set(names)) < len(names)):
            msg = f"Expected `group1` to name one group or several different ones, found {group1!r}."
            raise ValueError(msg)
        if names is not None and other in names:
            msg = f"Expected two groups to compare, found {other!r} as both. Pass another `group2`, or None for all other cells."
            raise ValueError(msg)
        cells = self._cells_of(adata, groups, [*(names or []), *([] if other is None else [other])])
        if names is None:
            # like a group that no one asked for, one of a single cell is passed over
            large = [name for name, size in groups.value_counts(sort=False).items() if size >= MIN_CELLS]
            names = [str(name) for name in large if name != other]
            cells |= {name: (groups == name).to_numpy() for name in names}
        if not names:
            msg = f"Expected a group of at least {MIN_CELLS} cells to compare in `adata.obs[{groupby!r}]`, found none."
            raise ValueError(msg)
        every = groups.notna().to_numpy()
        second = {name: every & ~cells[name] if other is None else cells[other] for name in names}
        comparisons = [Comparison(name, other or REST, cells[name], second[name]) for name in names]
        for each in comparisons:
            _check(each)
        return differences(target, comparisons, layer=self.registration.layer)

    def _cells_of(self, adata: AnnData | None, groups: pd.Series, names: list[str]) -> dict[str, np.ndarray]:
        """Masks (n_cells,) of the cells of groups and of nodes of the tree."""
        found = {name: (groups == name).to_numpy() for name in names if name in groups.cat.categories}
        nodes = [name for name in names if name not in found]
        if not nodes:
            return found
        grown = None if self.tree_ is None else self._grown()
        known = [] if grown is None else grown.tree.names
        unknown = [name for name in nodes if name not in known]
        if grown is None or unknown:
            tree = "" if grown is None else f", and nodes of `model.get_tree()`: {listed(known)}"
            msg = (
                f"Expected groups of `adata.obs[{groups.name!r}]`: {listed(groups.cat.categories)}{tree}; "
                f"found {listed(unknown)}."
            )
            raise ValueError(msg)
        path, _ = self._paths(grown, adata)
        every = groups.notna().to_numpy()
        return found | {name: grown.tree.below[known.index(name), path] & every for name in nodes}


def _check(compared: Comparison) -> None:
    """Require enough cells in both groups, and none in both."""
    for name, cells in ((compared.group1, compared.first), (compared.group2, compared.second)):
        if cells.sum() < MIN_CELLS:
            msg = f"Expected at least {MIN_CELLS} cells in each group, found {cells.sum()} in {name!r}. Pass a larger group."
            raise ValueError(msg)
    shared = int((compared.first & compared.second).sum())
    if shared:
        msg = (
            f"Expected two groups without cells in common, found {shared} cells in both {compared.group1!r} and "
            f"{compared.group2!r}. Compare the two sides of a split, such as '3.1' and '3.2'."
        )
        raise ValueError(msg)
