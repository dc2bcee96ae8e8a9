"""How well is the number of clusters estimated, and what does the estimate cost in agreement with published types?

    python -m benchmarks.n_clusters DATA_DIR --latents LATENTS --out n_clusters.csv --seeds 0 1 2

The first stage is trained once per data set and seed, without a number of clusters, and its latent vectors are kept in
LATENTS; estimators are then compared on them. Both steps go on where they stopped. Labels are read by the scorer only.
At every number of clusters the labels are those that the clustering stage would start from; Leiden is scanpy's at its
default resolution on the same latent vectors. `scgpcl benchmark --n-clusters auto` measures both stages end to end.
"""

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import torch
from benchmarks._sets import REAL
from benchmarks.readout import comparison_spaces

import scgpcl
from scgpcl.cluster import estimate_n_clusters, nearest, select_start
from scgpcl.nn import shrink_length
from scgpcl.train import encode_all


class KeepLatent(pl.Callback):
    """Keep the latent vectors that the first stage ends with."""

    def on_train_end(self, trainer, pl_module):
        if pl_module.stage == 1:
            self.latent = encode_all(pl_module.module, trainer.datamodule).cpu().numpy()


def train(path: Path, seed: int) -> np.ndarray:
    adata = ad.read_h5ad(path)
    adata.obs = adata.obs[[]].copy()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, seed=seed)
    keep = KeepLatent()
    model.train(cluster_max_epochs=0, accelerator="cpu", enable_progress_bar=False, callbacks=[keep])
    return keep.latent


def start_labels(latent: np.ndarray, reference: torch.Tensor, n_clusters: int, seed: int) -> np.ndarray:
    z = torch.from_numpy(latent)
    start = select_start(z, n_clusters, reference=reference, seed=seed)
    return nearest(shrink_length(z, start.power), start.centers)[0].numpy()


def leiden_labels(latent: np.ndarray, seed: int) -> np.ndarray:
    adata = ad.AnnData(obsm={"latent": latent}, shape=(len(latent), 0))
    sc.pp.neighbors(adata, use_rep="latent", random_state=seed)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return adata.obs["leiden"].to_numpy()


def evaluate(latent: np.ndarray, reference: torch.Tensor, truth: np.ndarray, seed: int) -> dict[str, object]:
    n_types = len(set(truth))
    begin = time.perf_counter()
    found = estimate_n_clusters(latent, seed=seed)
    seconds = time.perf_counter() - begin
    curve = found.curve.set_index("K")
    numbers = {
        "given": n_types,
        "stability": found.n_clusters,
        "silhouette": int(curve["silhouette"].idxmax()),
        "agreement": int(curve["agreement"].idxmax()),
    }
    labels = {k: start_labels(latent, reference, k, seed) for k in sorted(set(numbers.values()))}
    scores = {f"ari_{name}": scgpcl.metrics.ari(truth, labels[k]) for name, k in numbers.items()}
    leiden = leiden_labels(latent, seed)
    numbers["leiden"], scores["ari_leiden"] = len(set(leiden)), scgpcl.metrics.ari(truth, leiden)
    row = {f"k_{name}": k for name, k in numbers.items()}
    return row | {name: round(score, 4) for name, score in scores.items()} | {"seconds": round(seconds, 1)}


def summary(table: pd.DataFrame) -> str:
    """Markdown: numbers of every seed and mean ARI by data set, then what each estimator costs over all."""
    names = ("stability", "silhouette", "agreement", "leiden")
    lines = ["| data set | types | " + " | ".join(f"{n} K | ARI" for n in names) + " | ARI, K given |"]
    lines.append("| --- |" + " --- |" * (2 * len(names) + 2))
    for dataset, rows in table.groupby("dataset"):
        rows = rows.sort_values("seed")
        cells = [f"{', '.join(map(str, rows[f'k_{n}']))} | {rows[f'ari_{n}'].mean():.3f}" for n in names]
        given = f"{rows['ari_given'].mean():.3f}"
        lines.append(f"| {dataset} | {rows['k_given'].iloc[0]} | " + " | ".join(cells) + f" | {given} |")
    lines += [
        "",
        "| estimator | median of abs(K - types) | mean | mean ARI | ARI lost |",
        "| --- | --- | --- | --- | --- |",
    ]
    given = table["ari_given"].mean()
    for name in names:
        error = (table[f"k_{name}"] - table["k_given"]).abs()
        score = table[f"ari_{name}"].mean()
        lines.append(f"| {name} | {error.median():.1f} | {error.mean():.2f} | {score:.3f} | {given - score:.3f} |")
    return "\n".join([*lines, f"\nSeconds of the estimate: {table['seconds'].min()} to {table['seconds'].max()}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--latents", type=Path, default=Path("latents"))
    parser.add_argument("--out", type=Path, default=Path("n_clusters.csv"))
    parser.add_argument("--datasets", nargs="+", default=list(REAL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    args.latents.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=["dataset", "seed"])
    finished = set(zip(done["dataset"], done["seed"], strict=True))
    for seed in args.seeds:
        for name in args.datasets:
            path, kept = args.data / f"{name}.h5ad", args.latents / f"{name}-{seed}.npy"
            if not kept.exists():
                np.save(kept, train(path, seed))
            if (name, seed) in finished:
                continue
            adata = ad.read_h5ad(path)
            reference = comparison_spaces(sp.csr_matrix(adata.X, dtype=np.float32))["half"]
            scores = evaluate(np.load(kept), reference, adata.obs["cell_type"].to_numpy(), seed)
            row = pd.DataFrame([{"dataset": name, "seed": seed} | scores])
            row.to_csv(args.out, mode="a", header=not args.out.exists(), index=False)
    print(summary(pd.read_csv(args.out)))


if __name__ == "__main__":
    main()
