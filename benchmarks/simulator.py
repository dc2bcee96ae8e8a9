"""Does ``scgpcl.simulate`` generate data like Splatter itself?

    python -m benchmarks.simulator DATA_DIR --figure simulator.png

DATA_DIR contains data sets from the R package (``simulated/*.h5ad``) with their parameters in ``uns["source"]``. Each is
simulated again with the same parameters but another seed, and compared by properties that matter to a method: the variance and
the share of zeros of genes as functions of their mean, library sizes, zeros per cell, and how well PCA and k-means recover the
groups.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats
from sklearn.metrics import adjusted_rand_score

from scgpcl import simulate
from scgpcl.benchmark._tables import markdown
from scgpcl.benchmark.methods.pca_kmeans import components, kmeans

SETS = ("SimT6_5", "Sig1", "Imb1", "Batch8")
#: Parameters whose names differ from Splatter's.
RENAMED = {"nGenes": "n_genes", "batchCells": "batch_cells"}
LEFT_OUT = ("nCells", "nGroups", "nBatches", "dropout.type", "lib.norm", "batch.rmEffect", "seed")
#: Bins of the mean within which genes are compared, and the fewest genes of both data sets in a bin.
N_BINS, MIN_GENES = 12, 40


class Genes(NamedTuple):
    """Logarithm (base 10) of mean and variance, and share of zeros, of genes with counts; each (n_genes,)."""

    log_mean: np.ndarray
    log_variance: np.ndarray
    zeros: np.ndarray


class Cells(NamedTuple):
    """Logarithm (base 10) of library sizes, and share of zeros; each (n_cells,)."""

    log_total: np.ndarray
    zeros: np.ndarray


def parameters_of(source: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``simulate.splatter`` for the parameters of a data set from the R package."""
    result = {}
    for name, value in source["params"].items():
        if name in LEFT_OUT or name.startswith("path."):
            continue
        words = RENAMED.get(name) or "".join("_" + c.lower() if c.isupper() else c for c in name).replace(".", "_")
        result[words] = np.asarray(value).tolist()
    if np.ndim(result["batch_cells"]) == 0:
        result["batch_fac_loc"], result["batch_fac_scale"] = 0.1, 0.1  # unused with one batch
    return result


def like(reference: ad.AnnData, *, seed: int) -> ad.AnnData:
    """Simulate with the parameters of a data set; as there, genes and cells without counts are removed."""
    adata = simulate.splatter(**parameters_of(reference.uns["source"]), seed=seed, true_counts=False)
    cells, genes = (np.asarray((adata.X > 0).sum(axis)).ravel() > 0 for axis in (1, 0))
    return adata[cells, genes].copy()


def gene_statistics(x: sp.csr_matrix) -> Genes:
    mean = np.asarray(x.mean(0), dtype=np.float64).ravel()
    square = np.asarray(x.astype(np.float64).power(2).mean(0)).ravel()
    zeros = 1 - x.getnnz(0) / x.shape[0]
    return Genes(np.log10(mean), np.log10(np.maximum(square - mean**2, 1e-12)), zeros)


def cell_statistics(x: sp.csr_matrix) -> Cells:
    return Cells(np.log10(np.asarray(x.sum(1)).ravel()), 1 - x.getnnz(1) / x.shape[1])


def curve_distance(reference: Genes, other: Genes) -> dict[str, float]:
    """Largest difference of log variance and of zeros from the reference curve, as medians in bins of the mean."""
    edges = np.linspace(*np.quantile(reference.log_mean, [0.01, 0.99]), N_BINS + 1)
    bins = [np.digitize(genes.log_mean, edges) for genes in (reference, other)]
    used = [k for k in range(1, N_BINS + 1) if min((b == k).sum() for b in bins) >= MIN_GENES]
    worst = {}
    for name in ("log_variance", "zeros"):
        # subtract the curve before comparing medians, because means differ slightly within a bin
        middle = [np.median(reference.log_mean[bins[0] == k]) for k in used]
        curve = [np.median(getattr(reference, name)[bins[0] == k]) for k in used]
        left = [getattr(genes, name) - np.interp(genes.log_mean, middle, curve) for genes in (reference, other)]
        worst[name] = max(abs(np.median(left[0][bins[0] == k]) - np.median(left[1][bins[1] == k])) for k in used)
    return worst


def compare(reference: ad.AnnData, other: ad.AnnData) -> dict[str, float]:
    """Differences of summary statistics; shares and Kolmogorov-Smirnov distances lie between 0 and 1."""
    genes = [gene_statistics(a.X) for a in (reference, other)]
    cells = [cell_statistics(a.X) for a in (reference, other)]
    curve = curve_distance(*genes)
    return {
        "log variance at a mean": curve["log_variance"],
        "zeros at a mean": curve["zeros"],
        "mean of genes (KS)": stats.ks_2samp(genes[0].log_mean, genes[1].log_mean).statistic,
        "zeros of genes (KS)": stats.ks_2samp(genes[0].zeros, genes[1].zeros).statistic,
        "median log library size": abs(np.median(cells[0].log_total) - np.median(cells[1].log_total)),
        "sd of log library size": abs(cells[0].log_total.std() - cells[1].log_total.std()),
        "median zeros of cells": abs(np.median(cells[0].zeros) - np.median(cells[1].zeros)),
    }


def pca_kmeans_ari(adata: ad.AnnData, groups: pd.Series) -> float:
    counts = ad.AnnData(adata.X.astype(np.float32))
    labels = kmeans(components(counts, seed=0), groups.nunique(), seed=0)
    return adjusted_rand_score(groups, labels)


def draw(sets: dict[str, tuple[ad.AnnData, ad.AnnData]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(sets), 4, figsize=(12, 2.6 * len(sets)), layout="constrained", squeeze=False)
    colors = {"Splatter": "0.35", "scgpcl.simulate": "tab:orange"}
    for row, (name, pair) in zip(axes, sets.items(), strict=True):
        for (label, color), adata in zip(colors.items(), pair, strict=True):
            genes, cells = gene_statistics(adata.X), cell_statistics(adata.X)
            row[0].scatter(
                genes.log_mean, genes.log_variance, s=1, alpha=0.25, color=color, label=label, rasterized=True
            )
            row[1].scatter(genes.log_mean, genes.zeros, s=1, alpha=0.25, color=color, rasterized=True)
            for ax, values in ((row[2], cells.log_total), (row[3], cells.zeros)):
                ax.hist(values, bins=50, density=True, histtype="step", color=color, lw=1.5)
        row[0].set(xlabel="log10 mean of a gene", ylabel=f"{name}\nlog10 variance")
        row[1].set(xlabel="log10 mean of a gene", ylabel="share of zeros")
        row[2].set(xlabel="log10 library size", ylabel="density")
        row[3].set(xlabel="share of zeros in a cell", ylabel="density")
    axes[0, 0].legend(frameon=False, fontsize=8, markerscale=6)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, pairs = {}, {}
    for name in args.datasets:
        reference = ad.read_h5ad(args.data / "simulated" / f"{name}.h5ad")
        other = like(reference, seed=args.seed)
        pairs[name] = (reference, other)
        ours, theirs = pca_kmeans_ari(other, other.obs["group"]), pca_kmeans_ari(reference, reference.obs["cell_type"])
        rows[name] = compare(reference, other) | {"ARI, Splatter": theirs, "ARI, here": ours}
        print(f"{name} done", flush=True)
        if args.figure is not None:
            draw(pairs, args.figure)
    table = pd.DataFrame(rows)
    rows = [[str(label), *(f"{value:.3f}" for value in values)] for label, values in table.iterrows()]
    print("\n".join(markdown(["", *table], rows)))


if __name__ == "__main__":
    main()
