"""How well are batches removed and types kept, beside scVI and Harmony?

    python -m benchmarks.batches DATA_DIR --out batches.csv --seeds 0 1 2

The files of DATA_DIR hold counts in `X`, `obs["cell_type"]` and `obs["batch"]`. One row per (method, data set, seed) is appended to the
table as it is made, so that an interrupted run goes on where it stopped; a failing run is recorded with its error. The
number of clusters is given, labels are read by the scorer only. Clusters of the methods that have none of their own are
those of k-means with 20 restarts on their latent space. `scib` scores the latent space with scib-metrics; it needs the
extra `benchmark`, and Harmony needs `pip install harmonypy`. scVI has its default arguments and epochs.
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

Result = tuple[np.ndarray, np.ndarray | None]  # latent vectors, and clusters where the method has its own
SETS = ("simulated/Batch8.h5ad", "baron_mouse_pancreas.h5ad", "tian_celseq2_5cl.h5ad")
SCORES = ["ari", "nmi", "acc", "batch_ari", "scib_bio", "scib_batch", "scib_total"]
COLUMNS = ["method", "dataset", "seed", *SCORES, "seconds", "scib", "error"]


def fit_scgpcl(adata: ad.AnnData, n_clusters: int, seed: int, batch_key: str | None = "batch") -> Result:
    scgpcl.SCGPCL.setup_anndata(adata, batch_key=batch_key)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=seed)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation(), model.predict()


def fit_without(adata: ad.AnnData, n_clusters: int, seed: int) -> Result:
    return fit_scgpcl(adata, n_clusters, seed, None)


def fit_pca(adata: ad.AnnData, n_clusters: int, seed: int, batch_key: str | None = None) -> Result:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat", batch_key=batch_key)
    adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.scale(adata, max_value=10)
    return PCA(50, random_state=seed).fit_transform(adata.X), None


def fit_harmony(adata: ad.AnnData, n_clusters: int, seed: int) -> Result:
    import harmonypy

    z, _ = fit_pca(adata, n_clusters, seed, "batch")
    found = np.asarray(harmonypy.run_harmony(z, adata.obs, "batch", random_state=seed, verbose=False).Z_corr)
    return (found if found.shape[0] == adata.n_obs else found.T), None


def fit_scvi(adata: ad.AnnData, n_clusters: int, seed: int) -> Result:
    import scvi

    scvi.settings.seed = seed
    stats = adata.copy()
    sc.pp.normalize_total(stats, target_sum=1e4)
    sc.pp.log1p(stats)
    sc.pp.highly_variable_genes(stats, n_top_genes=2000, flavor="seurat", batch_key="batch")
    adata = adata[:, stats.var["highly_variable"]].copy()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation(), None


METHODS: dict[str, Callable[[ad.AnnData, int, int], Result]] = {
    "scgpcl": fit_scgpcl,
    "scgpcl-without": fit_without,
    "pca-kmeans": fit_pca,
    "harmony-kmeans": fit_harmony,
    "scvi-kmeans": fit_scvi,
}


def scib(z: np.ndarray, before: np.ndarray, truth: np.ndarray, batch: np.ndarray) -> tuple[dict[str, float], str]:
    """Aggregates as scib-metrics makes them, of unscaled metrics, and every single metric as text."""
    from scib_metrics.benchmark import Benchmarker

    obs = pd.DataFrame({"type": truth, "batch": batch}).astype("category").set_index(np.arange(len(z)).astype(str))
    adata = ad.AnnData(np.zeros((len(z), 2), dtype=np.float32), obs=obs, obsm={"z": z, "before": before})
    scorer = Benchmarker(adata, "batch", "type", ["z"], pre_integrated_embedding_obsm_key="before", progress_bar=False)
    scorer.benchmark()
    found = scorer.get_results(min_max_scale=False).loc["z"]
    names = {"scib_bio": "Bio conservation", "scib_batch": "Batch correction", "scib_total": "Total"}
    single = "; ".join(f"{key}={float(found[key]):.3f}" for key in found.index if key not in names.values())
    return {ours: round(float(found[theirs]), 4) for ours, theirs in names.items()}, single


def run(path: Path, name: str, method: str, seed: int, *, with_scib: bool) -> dict[str, object]:
    adata = ad.read_h5ad(path)
    truth, batch = (adata.obs[key].astype(str).to_numpy() for key in ("cell_type", "batch"))
    adata.obs = adata.obs[["batch"]].copy()
    row: dict[str, object] = {"method": method, "dataset": name, "seed": seed}
    n_types = len(set(truth))
    start = time.perf_counter()
    try:
        z, labels = METHODS[method](adata.copy(), n_types, seed)
        row["seconds"] = round(time.perf_counter() - start, 1)
        if labels is None:
            labels = KMeans(n_types, n_init=20, random_state=seed).fit_predict(z)
        scores = {"ari": scgpcl.metrics.ari, "nmi": scgpcl.metrics.nmi, "acc": scgpcl.metrics.accuracy}
        row |= {score: round(function(truth, labels), 4) for score, function in scores.items()}
        row["batch_ari"] = round(scgpcl.metrics.ari(batch, labels), 4)
        if with_scib:
            aggregates, row["scib"] = scib(z, fit_pca(adata.copy(), n_types, 0)[0], truth, batch)
            row |= aggregates
    except Exception as error:  # noqa: BLE001  (one failing method must not end a long run)
        row["error"] = f"{type(error).__name__}: {error}"
    return row


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean and standard deviation over seeds of every score."""
    scores = [*SCORES, "seconds"]
    lines = ["| data set | method | " + " | ".join(scores) + " |", "| --- |" + " --- |" * (len(scores) + 1)]
    for (name, method), rows in table.groupby(["dataset", "method"], sort=False):
        cells = [f"{rows[s].mean():.3f} ± {rows[s].std():.3f}" for s in SCORES] + [f"{rows['seconds'].mean():.0f}"]
        lines.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", default=SETS, help="files in the folder")
    parser.add_argument("--out", type=Path, default=Path("batches.csv"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-scib", action="store_true", help="leave scib-metrics out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    table = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame(columns=COLUMNS)
    done = set(table[["method", "dataset", "seed"]].itertuples(index=False, name=None))
    for data in arguments.data:
        name = Path(data).stem
        for method in arguments.methods:
            for seed in arguments.seeds:
                if (method, name, seed) in done:
                    continue
                row = run(arguments.folder / data, name, method, seed, with_scib=not arguments.no_scib)
                frame = pd.DataFrame([row]).reindex(columns=COLUMNS)
                frame.to_csv(arguments.out, mode="a", header=not arguments.out.exists(), index=False)
    print(summary(pd.read_csv(arguments.out)))


if __name__ == "__main__":
    main()
