"""Expression values used to rank marker genes and to name clusters."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgpcl import _input as _checks
from scgpcl import _keys
from scgpcl.data import row_blocks

#: Counts per cell after normalisation.
TARGET_SUM = 1e4


def groups_of(adata: ad.AnnData, key: str, *, least: int = 2) -> pd.Series:
    """Return the clusters as a categorical of text, without unused categories and without "unassigned".

    There must be at least ``least`` clusters, and their names must be distinct.
    """
    _checks.check_is_adata(adata)
    if key not in adata.obs:
        msg = (
            f"Expected clusters in `adata.obs[{key!r}]`, found the columns [{_checks.listed(adata.obs.columns)}]. "
            "Train a model first, or name the column with `key=`."
        )
        raise KeyError(msg)
    groups = adata.obs[key].astype("category")
    # cells that were too uncertain to be named belong to no cluster
    groups = groups.cat.remove_categories([name for name in groups.cat.categories if name == _keys.UNASSIGNED])
    groups = groups.cat.remove_unused_categories()
    names = [str(name) for name in groups.cat.categories]
    if len(names) < least:
        number = "two clusters to compare" if least == 2 else "one cluster"
        msg = f"Expected at least {number} in `adata.obs[{key!r}]`, found {len(names)}."
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = f"Expected clusters with different names in `adata.obs[{key!r}]`, found [{_checks.listed(names)}]."
        raise ValueError(msg)
    return groups.cat.rename_categories(names)


def log_normalized(adata: ad.AnnData, key: str, *, layer: str | None = None) -> ad.AnnData:
    """Compute log(1 + counts per 10,000) of all genes for the cells that have a cluster.

    Returns a new AnnData with CSR float32 expression, cells named by number, and the clusters as text in ``obs[key]``.
    """
    groups = groups_of(adata, key)
    has_group = groups.notna().to_numpy()
    expression = normalized(counted(adata, has_group, layer=layer))
    expression.obs[key] = groups[has_group].array
    return expression


def counted(adata: ad.AnnData, cells: np.ndarray, *, layer: str | None = None) -> ad.AnnData:
    """Check the counts of all genes in some cells (a mask), and return them in a new AnnData.

    The counts are CSR float32, and the cells are named by number.
    """
    _checks.check_names(adata.var_names, "var_names")
    counts = _checks.counts_of(adata, layer)
    _checks.check_counts(counts, layer)
    if not isinstance(counts, sp.spmatrix):
        counts = sp.csr_matrix(counts[:])  # dense, or on disk
    return ad.AnnData(
        counts.astype("float32").tocsr()[cells],  # a copy
        obs=pd.DataFrame(index=np.arange(cells.sum()).astype(str)),
        var=pd.DataFrame(index=adata.var_names),
    )


def normalized(counts: ad.AnnData, target_sum: float = TARGET_SUM) -> ad.AnnData:
    """Replace the counts with log(1 + counts per ``target_sum``) in the same AnnData."""
    import scanpy as sc

    sc.pp.normalize_total(counts, target_sum=target_sum)
    sc.pp.log1p(counts)
    return counts


def expression_of(adata: ad.AnnData, gene: str, *, layer: str | None = None) -> np.ndarray:
    """Compute log(1 + counts per 10,000) of one gene, float64, shape (n_cells,).

    Values that are not counts are returned unchanged.
    """
    x = _checks.counts_of(adata, layer)
    column = adata.var_names.get_loc(gene)
    if not isinstance(column, int):
        msg = f"Expected one gene of the name {gene!r}, found several. Call `adata.var_names_make_unique()`."
        raise ValueError(msg)
    total, own, whole = [], [], True
    for block in row_blocks(x):
        whole = whole and bool((block.data >= 0).all() and (block.data == np.floor(block.data)).all())
        total.append(np.asarray(block.sum(1), dtype=np.float64).ravel())
        own.append(block[:, [column]].toarray().ravel().astype(np.float64))
    values = np.concatenate(own)
    return np.log1p(values / np.maximum(np.concatenate(total), 1.0) * TARGET_SUM) if whole else values
