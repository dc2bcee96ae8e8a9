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
#: Minimum number of samples, and minimum number of cells that a sample must have in each group to be counted.
MIN_SAMPLES = 2
MIN_SAMPLE_CELLS = 10
#: Columns in the results of DESeq2 and scanpy, and the corresponding columns in our tables.
_DESEQ_FIELDS = {"log2FoldChange": "lfc_mean", "stat": "scores", "pvalue": "pvals", "padj": "pvals_adj"}
_FIELDS = {"logfoldchanges": "lfc_mean", "scores": "scores", "pvals": "pvals", "pvals_adj": "pvals_adj"}


class Comparison(NamedTuple):
    """Names of two groups of cells, and boolean masks of the cells in each group, shape (n_cells,)."""

    group1: str
    group2: str
    first: np.ndarray
    second: np.ndarray


def differences(adata: AnnData, comparisons: Sequence[Comparison], *, layer: str | None = None) -> pd.DataFrame:
    """Run a Wilcoxon rank-sum test of all genes on log-normalised counts.

    Returns one row per gene for each comparison, best first.
    """
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


def sample_differences(
    adata: AnnData, comparisons: Sequence[Comparison], samples: np.ndarray, *, layer: str | None = None
) -> pd.DataFrame:
    """Run DESeq2's Wald test on summed counts per sample in both groups, paired by sample.

    ``samples`` has shape (n_cells,). The result has the same format as in `differences`.
    """
    pairs = [_pairs(each, samples) for each in comparisons]
    try:
        from pydeseq2.dds import DeseqDataSet
        from pydeseq2.ds import DeseqStats
    except ImportError as error:
        error.add_note("Tests between samples need PyDESeq2. Install it: pip install 'scgpcl[pseudobulk]'.")
        raise
    used = np.any([each.first | each.second for each in comparisons], axis=0)
    counts = counted(adata, used, layer=layer)
    found = []
    for each, names in zip(comparisons, pairs, strict=True):
        rows = [side & (samples == name) for side in (each.first, each.second) for name in names]
        sums = np.stack([np.asarray(counts.X[cells[used]].sum(0, dtype=np.float64)).ravel() for cells in rows])
        design = pd.DataFrame(
            {
                "sample": [f"s{number}" for number in range(len(names))] * 2,
                "side": ["first"] * len(names) + ["second"] * len(names),
            },
            index=[f"{number}" for number in range(len(rows))],
        )
        sums_of = pd.DataFrame(sums.astype(np.int64), index=design.index, columns=counts.var_names)
        fitted = DeseqDataSet(counts=sums_of, metadata=design, design="~sample + side", quiet=True, n_cpus=1)
        fitted.deseq2()
        tested = DeseqStats(fitted, contrast=["side", "first", "second"], quiet=True, n_cpus=1)
        tested.summary()
        tests = tested.results_df[list(_DESEQ_FIELDS)].rename(columns=_DESEQ_FIELDS)
        tests = tests.sort_values("scores", ascending=False, kind="stable", na_position="last")
        inside = each._replace(first=each.first[used], second=each.second[used])
        found.append(_table(tests, counts.X, counts.var_names, inside))
    return pd.concat(found)


def _pairs(compared: Comparison, samples: np.ndarray) -> list[str]:
    """Return the samples that have enough cells of both groups."""
    names = [
        str(name)
        for name in np.unique(samples.astype(str))
        if min((side & (samples == name)).sum() for side in (compared.first, compared.second)) >= MIN_SAMPLE_CELLS
    ]
    if len(names) < MIN_SAMPLES:
        msg = (
            f"Expected at least {MIN_SAMPLES} samples with {MIN_SAMPLE_CELLS} or more cells of both {compared.group1!r} and "
            f'{compared.group2!r}, found {len(names)}. Pass other groups, or `method="wilcoxon"`.'
        )
        raise ValueError(msg)
    return names


def _table(tests: pd.DataFrame, counts: sp.csr_matrix, genes: pd.Index, compared: Comparison) -> pd.DataFrame:
    """Join the tests of one comparison with the means of the counts (n_cells, n_genes) of both groups.

    The rows are in the order of the tests.
    """
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
