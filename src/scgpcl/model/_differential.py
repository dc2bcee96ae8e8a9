"""Differential expression between clusters, nodes of the tree and other groups of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scgpcl import _keys
from scgpcl._process import held
from scgpcl._rules import check, listed
from scgpcl.tl._differences import Comparison, differences, sample_differences
from scgpcl.tl._expression import groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scgpcl.cluster import Grown
    from scgpcl.model._reference import Reference, Registration

#: Name used for all other cells, as in scvi-tools.
REST = "Rest"
#: Minimum number of cells in a group.
MIN_CELLS = 2


class Differential:
    """Mixin that adds ``differential_expression`` to the model."""

    tree_: dict[str, Any] | None

    if TYPE_CHECKING:  # provided by the model itself

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
        *,
        method: Literal["wilcoxon", "pseudobulk"] = "wilcoxon",
    ) -> pd.DataFrame:
        """Find differentially expressed genes between two groups of cells by testing the measured counts.

        **All** genes are tested, not only the genes that the model uses. Denoised expression is never tested, because
        its values are not independent observations. The AnnData is not modified.

        Parameters
        ----------
        adata
            AnnData with the cells to compare; ``None`` uses the registered AnnData. Counts are read from the registered
            layer.
        groupby
            Column of ``adata.obs`` that contains the groups. Cells that have no group or are named ``"unassigned"`` are
            left out.
        group1
            Name of a group, or a list of names, in which case each group is compared separately; ``None`` uses every
            group with at least two cells. Nodes of the tree can also be compared, see :meth:`get_tree`. For example,
            ``group1="3.1", group2="3.2"`` gives the markers of the split of cluster 3.
        group2
            Name of the group or node to compare with; ``None`` compares with all other cells.
        method
            ``"wilcoxon"`` applies scanpy's rank sum test to log(1 + counts per 10,000) of the cells. ``"pseudobulk"``
            applies DESeq2's Wald test (Love et al. 2014; requires the package pydeseq2) to the summed counts of each
            sample, where the ``batch_key`` of the model contains the samples. Each sample with at least 10 cells in
            each of the two groups contributes a pair, and at least two such samples are required.

        Returns
        -------
        Table in the format of scvi-tools, with one row per gene, indexed by gene name and sorted from best to worst. If
        several groups are compared, there is one block of rows per comparison. The columns are:

        - ``lfc_mean``: log2 fold change of the first group over the second, as computed by scanpy or DESeq2. With
          scanpy, its absolute value is very large for a gene that is expressed in only one group;
        - ``scores``, ``pvals`` and ``pvals_adj``: z-score of the test, p-value, and p-value adjusted within the
          comparison (Benjamini and Hochberg); NaN if DESeq2 filters out the gene;
        - ``raw_mean1`` and ``raw_mean2``: mean counts in each group;
        - ``non_zeros_proportion1`` and ``non_zeros_proportion2``: proportion of cells that express the gene;
        - ``raw_normalized_mean1`` and ``raw_normalized_mean2``: mean counts per 10,000;
        - ``comparison`` (such as "3.1 vs 3.2"), ``group1`` and ``group2`` (``"Rest"`` for all other cells).

        Raises
        ------
        ImportError
            If ``method="pseudobulk"`` and pydeseq2 is not installed.
        KeyError
            If ``adata`` lacks the column or the layer.
        RuntimeError
            If the model is not trained.
        ValueError
            If a group does not exist, if there is nothing to compare it with, if the two groups are the same or share
            cells, if a group has fewer than two cells, if the layer does not contain raw counts, or if there are too few
            samples for ``method="pseudobulk"``.

        Notes
        -----
        The clusters were found in the same counts that are tested here. The p-values are therefore far too small and do
        not show that the clusters exist: splitting a homogeneous group in two also gives small p-values. Use the table
        only to describe clusters. Using samples as replicates does not change this. In addition, cells from the same
        sample are not independent, although ``method="wilcoxon"`` assumes that they are.

        Examples
        --------
        >>> table = model.differential_expression(group1="3.1", group2="3.2")  # doctest: +SKIP
        >>> table[(table["lfc_mean"] > 1) & (table["non_zeros_proportion1"] > 0.1)].head()  # doctest: +SKIP
        """
        _ = self.reference  # first, raise an error if the model is not trained
        method = check("differential_expression", method=method)["method"]
        registered = self.registration
        if method == "pseudobulk" and not registered.batch_columns:
            msg = (
                'Expected a model whose `batch_key` names samples for `method="pseudobulk"`, found one without batches. '
                'Pass `method="wilcoxon"`, or name the column with `setup_anndata(adata, batch_key=...)` and train.'
            )
            raise ValueError(msg)
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
            # groups with a single cell are skipped, because they were not requested by name
            large = [name for name, size in groups.value_counts(sort=False).items() if size >= MIN_CELLS]
            names = [str(name) for name in large if name != other]
            cells |= {name: (groups == name).to_numpy() for name in names}
        only = list(groups.cat.categories)
        if len(only) == 1 and set(names) <= set(only) and other in (None, *only):
            msg = (
                f"Expected at least two groups to compare in `adata.obs[{groupby!r}]`, found {only[0]!r} alone. Divide the "
                "cells with `model.cut(n_clusters)`, or name two nodes of `model.get_tree()` as `group1` and `group2`."
            )
            raise ValueError(msg)
        if not names:
            msg = f"Expected a group of at least {MIN_CELLS} cells to compare in `adata.obs[{groupby!r}]`, found none."
            raise ValueError(msg)
        every = groups.notna().to_numpy()
        second = {name: every & ~cells[name] if other is None else cells[other] for name in names}
        comparisons = [Comparison(name, other or REST, cells[name], second[name]) for name in names]
        for each in comparisons:
            _check(each)
        if method == "wilcoxon":
            return differences(target, comparisons, layer=registered.layer)
        return sample_differences(target, comparisons, registered.names_of(target), layer=registered.layer)

    def _cells_of(self, adata: AnnData | None, groups: pd.Series, names: list[str]) -> dict[str, np.ndarray]:
        """Return a boolean mask (n_cells,) for each of the named groups and tree nodes."""
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
    """Check that each group has enough cells and that no cell is in both groups."""
    for name, cells in ((compared.group1, compared.first), (compared.group2, compared.second)):
        if cells.sum() < MIN_CELLS:
            size = "smaller" if name == REST else "larger"
            msg = f"Expected at least {MIN_CELLS} cells in each group, found {cells.sum()} in {name!r}. Pass a {size} group."
            raise ValueError(msg)
    shared = int((compared.first & compared.second).sum())
    if shared:
        msg = (
            f"Expected two groups without cells in common, found {shared} cells in both {compared.group1!r} and "
            f"{compared.group2!r}. Compare the two sides of a split, such as '3.1' and '3.2'."
        )
        raise ValueError(msg)
