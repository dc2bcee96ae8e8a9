"""How well do the presets and a plain baseline recover published cell types, over data sets and seeds?

    python -m benchmarks.quality DATA_DIR --out quality.csv --methods scgpcl pca-kmeans --seeds 0 1 2

One row per (method, data set, seed) is appended to the table as it is made, so that an interrupted run goes on where it
stopped; a failing run is recorded with its error. The number of clusters is given. Labels are taken out of the data
before a method sees it and are read by the scorer only. At the end a table of means and spreads is printed.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import scgpcl
from scgpcl import presets

Method = Callable[[ad.AnnData, int, int], np.ndarray]
REAL = (
    "baron_mouse_pancreas", "human_kidney_young_top2000", "mouse_bladder_2100", "pbmc3k", "pbmc4k_top2000",
    "tian_celseq2_5cl", "tm_kidney_smartseq2", "worm_neuron", "zheng_sorted_2140", "zilionis_mouse_lung_800",
)  # fmt: skip
COLUMNS = ["method", "dataset", "seed", "n_cells", "n_clusters", "ari", "nmi", "acc", "seconds", "error"]


def fit_scgpcl(adata: ad.AnnData, n_clusters: int, seed: int, preset: presets.Preset = presets.DEFAULT) -> np.ndarray:
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=seed, **preset["model"])
    model.train(accelerator="cpu", enable_progress_bar=False, **preset["train"])
    return model.predict()


def fit_paper(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    return fit_scgpcl(adata, n_clusters, seed, presets.PAPER)


def fit_pca_kmeans(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """scanpy's `seurat` genes, standardised and clipped at 10, 50 components, k-means with 20 restarts."""
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat")
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.scale(adata, max_value=10)
    z = PCA(min(50, adata.n_obs - 1), random_state=seed).fit_transform(adata.X)
    return KMeans(n_clusters, n_init=20, random_state=seed).fit_predict(z)


METHODS: dict[str, Method] = {"scgpcl": fit_scgpcl, "scgpcl-paper": fit_paper, "pca-kmeans": fit_pca_kmeans}


def run(path: Path, method: str, seed: int) -> dict[str, object]:
    adata = ad.read_h5ad(path)
    truth = adata.obs["cell_type"].to_numpy()
    adata.obs = adata.obs[[]].copy()
    row: dict[str, object] = {"method": method, "dataset": path.stem, "seed": seed, "n_cells": adata.n_obs}
    start = time.perf_counter()
    try:
        labels = METHODS[method](adata, len(set(truth)), seed)
    except Exception as error:  # noqa: BLE001  (one failing method must not end a long run)
        return row | {"error": f"{type(error).__name__}: {error}"}
    row |= {"seconds": round(time.perf_counter() - start, 1), "n_clusters": len(set(labels))}
    scores = {"ari": scgpcl.metrics.ari, "nmi": scgpcl.metrics.nmi, "acc": scgpcl.metrics.accuracy}
    return row | {name: round(score(truth, labels), 4) for name, score in scores.items()}


def summary(table: pd.DataFrame) -> str:
    """Markdown: sets x methods, mean and standard deviation over seeds, and the mean over sets."""
    lines = []
    for score in ("ari", "nmi", "acc", "seconds"):
        groups = table.groupby(["dataset", "method"])[score]
        mean, std = groups.mean().unstack(), groups.std().unstack()
        lines += [
            f"\n{score}",
            "| data set | " + " | ".join(mean.columns) + " |",
            "| --- |" + " --- |" * len(mean.columns),
        ]
        digits = 0 if score == "seconds" else 3
        for name in mean.index:
            cells = [f"{m:.{digits}f} ± {s:.{digits}f}" for m, s in zip(mean.loc[name], std.loc[name], strict=True)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("| mean | " + " | ".join(f"{m:.{digits}f}" for m in mean.mean()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("quality.csv"))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["scgpcl", "pca-kmeans"])
    parser.add_argument("--datasets", nargs="+", default=list(REAL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    done = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=COLUMNS)
    finished = set(zip(done["method"], done["dataset"], done["seed"], strict=True))
    for method in args.methods:
        for name in args.datasets:
            for seed in args.seeds:
                if (method, Path(name).stem, seed) not in finished:
                    row = pd.DataFrame([run(args.data / f"{name}.h5ad", method, seed)], columns=COLUMNS)
                    row.to_csv(args.out, mode="a", header=not args.out.exists(), index=False)
    print(summary(pd.read_csv(args.out)))


if __name__ == "__main__":
    main()
