"""Tables of differential expression between two groups of cells, in the format of scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scgpcl.tl._expression import TARGET_SUM, counted, normalized
from scgpcl.tl._ranking import ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from anndata import AnnData

_KEY = "group"
#: Fields of scanpy's result and our columns.
_FIELDS = {"logfoldchanges": "lfc_mean", "scores": "scores", "pvals": "pvals", "pvals_adj": "pvals_adj"}


class Comparison(NamedTuple):
    """Two groups of cells by their names, and which cells are in each, bool, shape (n_cells,)."""

    group1: str
    group2: str
    first: np.ndarray
    second: np.ndarray


def differences(adata: AnnData, comparisons: Sequence[Comparison], *, layer: str | None = None) -> pd.DataFrame:
    """Wilcoxon rank sum test of all genes on log-normalised counts; one row per gene for each comparison, best first."""
    used = np.any([each.first | each.second for each in comparisons], axis=0)
    counts = counted(adata, used, layer=layer)
    comparisons = [each._replace(first=each.first[used], second=each.second[used]) for each in comparisons]
    expression = normalized(counts.copy())
    found: list[pd.DataFrame | None] = [None] * len(comparisons)
    left = list(range(len(comparisons)))
    while left:
        # scanpy ranks the cells once for all groups that it tests against the rest of the same cells
        cells, taken, labels = comparisons[left[0]].first | comparisons[left[0]].second, [], np.zeros(len(expression))
        for number in left:
            first, second = comparisons[number].first, comparisons[number].second
            if np.array_equal(first | second, cells) and not labels[first].any():
                labels[first] = number + 1
                taken.append(number)
        left = [number for number in left if number not in taken]
        part = expression if cells.all() else expression[cells].copy()
        part.obs[_KEY] = pd.Categorical(labels[cells].astype(int).astype(str))
        result = ranked(part, _KEY, [str(number + 1) for number in taken])
        for number in taken:
            name = str(number + 1)
            genes = pd.Index(result["names"][name])
            tests = pd.DataFrame({column: result[field][name] for field, column in _FIELDS.items()}, index=genes)
            found[number] = _table(tests, counts.X, counts.var_names, comparisons[number])
    return pd.concat([table for table in found if table is not None])


def _table(tests: pd.DataFrame, counts: sp.csr_matrix, genes: pd.Index, compared: Comparison) -> pd.DataFrame:
    """Tests of one comparison beside means of the counts (n_cells, n_genes) of both groups, in the order of the tests."""
    means = {}
    for number, cells in enumerate((compared.first, compared.second), 1):
        own = counts[cells]
        total = np.asarray(own.sum(1, dtype=np.float64)).ravel()
        means[f"raw_mean{number}"] = np.asarray(own.mean(0, dtype=np.float64)).ravel()
        means[f"non_zeros_proportion{number}"] = own.getnnz(0) / own.shape[0]
        means[f"raw_normalized_mean{number}"] = own.T @ (TARGET_SUM / total) / own.shape[0]
    # pairs beside each other, as in scvi-tools
    columns = [f"{name}{i}" for name in ("raw_mean", "non_zeros_proportion", "raw_normalized_mean") for i in (1, 2)]
    table = tests.join(pd.DataFrame(means, index=genes)[columns])
    table["comparison"] = f"{compared.group1} vs {compared.group2}"
    table["group1"], table["group2"] = compared.group1, compared.group2
    return table.rename_axis("gene")
