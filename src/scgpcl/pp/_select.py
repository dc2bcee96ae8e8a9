"""Choice of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from scgpcl.pp._statistics import GeneStatistics

GeneFlavor = Literal["seurat", "variance"]
#: Bins of mean expression within which dispersions are compared, as in scanpy.
N_BINS = 20


def select_genes(
    statistics: GeneStatistics, n_top_genes: int, *, flavor: GeneFlavor = "seurat", scale: float = 1.0
) -> np.ndarray:
    """Choose the most variable genes.

    Parameters
    ----------
    statistics
        Moments of all genes.
    n_top_genes
        How many to choose.
    flavor
        ``"seurat"``: normalised dispersion as in ``scanpy.pp.highly_variable_genes(flavor="seurat")`` on
        log-normalised counts, computed from streamed moments so that no normalised matrix is made.
        ``"variance"``: variance of the raw counts (the paper's).
    scale
        Factor from the normalised counts of ``statistics`` to those whose dispersion is measured, such as counts per
        10,000: the bins of the mean, and so the choice, depend on it.

    Returns
    -------
    Mask of shape (n_genes,) with ``n_top_genes`` true entries; ties go to the earlier gene.
    """
    if flavor == "seurat":
        score = seurat_dispersion(scale * statistics.norm_mean, scale**2 * statistics.norm_var)
    else:
        score = statistics.raw_var
    score = np.where(np.isnan(score), -np.inf, score)
    mask = np.zeros(len(score), dtype=bool)
    mask[np.argsort(-score, kind="stable")[:n_top_genes]] = True
    return mask


def seurat_dispersion(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Dispersion standardised within bins of the mean (Satija et al. 2015), as scanpy computes it.

    Parameters
    ----------
    mean, var
        Moments of normalised counts, shape (n_genes,).

    Returns
    -------
    Shape (n_genes,), NaN for genes without variance.
    """
    safe_mean = np.where(mean == 0, 1e-12, mean)
    dispersion = var / safe_mean
    with np.errstate(divide="ignore"):
        dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
    frame = pd.DataFrame({"bin": pd.cut(np.log1p(safe_mean), bins=N_BINS), "dispersion": dispersion})
    groups = frame.groupby("bin", observed=True)["dispersion"]
    center, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()  # a gene alone in its bin is its own scale and counts as average plus one
    spread = spread.where(~alone, center)
    center = center.where(~alone, 0.0)
    return ((frame["dispersion"] - center) / spread).to_numpy()
