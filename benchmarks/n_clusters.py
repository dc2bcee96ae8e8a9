"""How well is the number of clusters estimated, and what does the estimate cost in agreement with published types?

    python -m benchmarks.n_clusters DATA_DIR --latents LATENTS --out n_clusters.csv --seeds 0 1 2

The first stage is trained once per data set and seed, without a number of clusters, and its latent vectors are stored in
LATENTS; estimators are then compared on them. An interrupted study resumes where it stopped. Labels are used for scoring only.
The labels at each number of clusters are the consensus of partitions of these latent vectors, see `scgpcl.cluster.consensus`; Leiden
is scanpy's at its default resolution on the same latent vectors. `scgpcl benchmark --n-clusters auto` measures both stages end to end.
"""

import time
from pathlib import Path

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from benchmarks._study import parser_of, run_study

import scgpcl
from scgpcl.benchmark._tables import markdown
from scgpcl.cluster import consensus, estimate_n_clusters
from scgpcl.train import encode_all

ESTIMATORS = ("stability", "silhouette", "agreement", "leiden")


class KeepLatent(pl.Callback):
    """Store the latent vectors at the end of the first stage."""

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


def consensus_labels(latent: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    return consensus([torch.from_numpy(latent)], n_clusters, seed=seed).argmax(1).numpy()


def leiden_labels(latent: np.ndarray, seed: int) -> np.ndarray:
    adata = ad.AnnData(obsm={"latent": latent}, shape=(len(latent), 0))
    sc.pp.neighbors(adata, use_rep="latent", random_state=seed)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return adata.obs["leiden"].to_numpy()


def evaluate(latent: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, object]:
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
    labels = {k: consensus_labels(latent, k, seed) for k in sorted(set(numbers.values()))}
    scores = {f"ari_{name}": scgpcl.metrics.ari(truth, labels[k]) for name, k in numbers.items()}
    leiden = leiden_labels(latent, seed)
    numbers["leiden"], scores["ari_leiden"] = len(set(leiden)), scgpcl.metrics.ari(truth, leiden)
    row = {f"k_{name}": k for name, k in numbers.items()}
    return row | {name: round(score, 4) for name, score in scores.items()} | {"seconds": round(seconds, 1)}


def run(path: Path, kept: Path, seed: int) -> list[dict[str, object]]:
    if not kept.exists():
        np.save(kept, train(path, seed))
    return [evaluate(np.load(kept), ad.read_h5ad(path).obs["cell_type"].to_numpy(), seed)]


def summary(table: pd.DataFrame) -> str:
    """Markdown: numbers of every seed and mean ARI by data set, then the loss of each estimator over all data sets."""
    rows = []
    for dataset, part in table.groupby("dataset"):
        part = part.sort_values("seed")
        cells = [
            [", ".join(map(str, part[f"k_{n}"].astype(int))), f"{part[f'ari_{n}'].mean():.3f}"] for n in ESTIMATORS
        ]
        rows.append([dataset, f"{part['k_given'].iloc[0]:.0f}", *sum(cells, []), f"{part['ari_given'].mean():.3f}"])
    heads = sum(([f"{n} K", "ARI"] for n in ESTIMATORS), [])
    lines = markdown(["data set", "types", *heads, "ARI, K given"], rows)
    given, rows = table["ari_given"].mean(), []
    for name in ESTIMATORS:
        error = (table[f"k_{name}"] - table["k_given"]).abs()
        score = table[f"ari_{name}"].mean()
        rows.append([name, f"{error.median():.1f}", f"{error.mean():.2f}", f"{score:.3f}", f"{given - score:.3f}"])
    lines += ["", *markdown(["estimator", "median of abs(K - types)", "mean", "mean ARI", "ARI lost"], rows)]
    return "\n".join([*lines, f"\nSeconds of the estimate: {table['seconds'].min()} to {table['seconds'].max()}."])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--latents", type=Path, default=Path("latents"))
    parser.add_argument("--out", type=Path, default=Path("n_clusters.csv"))
    args = parser.parse_args()
    args.latents.mkdir(parents=True, exist_ok=True)
    names = ["given", *ESTIMATORS]
    table = run_study(
        args,
        ((name, seed) for seed in args.seeds for name in args.datasets),
        lambda name, seed: run(args.data / f"{name}.h5ad", args.latents / f"{name}-{seed}.npy", seed),
        keys=["dataset", "seed"],
        columns=["dataset", "seed", *(f"k_{n}" for n in names), *(f"ari_{n}" for n in names), "seconds"],
        text=["dataset"],
    )
    print(summary(table))


if __name__ == "__main__":
    main()
