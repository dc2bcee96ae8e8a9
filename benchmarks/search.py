"""Designed study of the default configuration: one factor at a time over data sets and seeds, resumable.

    python -m benchmarks.search DATA_DIR --out search.csv --variants base lr_low --seeds 0 1 2

Each row of the table is one (variant, data set, seed, epoch, read-out). Labels are read by the scorer only.
"""

import argparse
import csv
import time
import warnings
from pathlib import Path

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import torch
from benchmarks._sets import REAL
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scgpcl
from scgpcl.cluster import kmeans, nearest, select_start
from scgpcl.nn import shrink_length
from scgpcl.train import encode_all

#: What each variant changes: arguments of the model, of the pre-training plan, and of train().
VARIANTS: dict[str, tuple[dict, dict, dict]] = {
    "base": ({}, {}, {}),
    "shrinkage_0": ({"shrinkage": 0.0}, {}, {}),
    "shrinkage_.4": ({"shrinkage": 0.4}, {}, {}),
    "constant_rate": ({}, {"one_cycle": False}, {}),
    "encoder_rate_1": ({}, {"encoder_lr": 1.0}, {}),
    "encoder_rate_.1": ({}, {"encoder_lr": 0.1}, {}),
    "prototype_.05": ({}, {"lambda_prototype": 0.05}, {}),
    "prototype_0": ({}, {"lambda_prototype": 0.0}, {}),
    "prototype_2": ({}, {"lambda_prototype": 2.0}, {}),
    "instance_0": ({}, {"lambda_instance": 0.0}, {}),
    "zinb_only": ({}, {"lambda_instance": 0.0, "lambda_prototype": 0.0}, {}),
    "no_projection": ({"projection": False}, {}, {}),
    "random_start": ({"start": "random"}, {}, {}),
    "no_graph": ({"use_graph": False}, {}, {}),
    "tau_.5": ({"tau": 0.5}, {}, {}),
    "tau_1": ({"tau": 1.0}, {}, {}),
    "strong_views": ({"neighbor_keep": 0.5, "feature_drop": 0.5}, {}, {}),
    "latent_32": ({"n_latent": 32}, {}, {}),
    "hidden_256": ({"n_hidden": 256}, {}, {}),
    "gene_cell": ({"dispersion": "gene-cell"}, {}, {}),
    "batch_128": ({}, {}, {"batch_size": 128}),
    "batch_512": ({}, {}, {"batch_size": 512}),
    "mse": ({"reconstruction": "mse"}, {}, {}),
}
EPOCHS = (1, 3, 5, 10, 15, 20, 30, 40, 60)


class Watch(pl.Callback):
    """Score k-means on the latent space at some epochs, and keep the latents."""

    def __init__(self, score):
        self.score = score

    def on_train_epoch_end(self, trainer, pl_module):
        epoch = trainer.current_epoch + 1
        if pl_module.stage == 1 and epoch in EPOCHS:
            self.score(epoch, encode_all(pl_module.module, trainer.datamodule))


def run(path: Path, variant: str, seed: int, epochs: int, latents: Path | None) -> list[dict]:
    adata = ad.read_h5ad(path)
    truth = adata.obs.pop("cell_type").to_numpy()
    k = len(set(truth))
    rows = []

    def add(epoch, readout, labels, seconds=0.0):
        rows.append({
            "variant": variant, "dataset": path.stem, "seed": seed, "epoch": epoch, "readout": readout,
            "ari": round(adjusted_rand_score(truth, labels), 4),
            "nmi": round(normalized_mutual_info_score(truth, labels), 4), "seconds": round(seconds, 1),
        })  # fmt: skip

    def score(epoch, z):
        if latents is not None:
            np.save(latents / f"{variant}-{path.stem}-{seed}-{epoch}.npy", z.numpy())
        add(epoch, "kmeans", kmeans(z, k, n_init=20, seed=seed).labels.numpy())
        start = select_start(z, k, seed=seed)
        add(epoch, "select", nearest(shrink_length(z, start.power), start.centers)[0].numpy())

    model_kwargs, plan_kwargs, train_kwargs = VARIANTS[variant]
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters=k, seed=seed, **model_kwargs)
    common = {"accelerator": "cpu", "enable_progress_bar": False, **train_kwargs}
    if seed == 0:
        model.train(pretrain_max_epochs=0, cluster_max_epochs=0, **common)
        score(0, torch.from_numpy(model.get_latent_representation()))
    start = time.perf_counter()
    model.train(
        pretrain_max_epochs=epochs, cluster_max_epochs=0, agreement=2.0, pretrain_plan_kwargs=plan_kwargs,
        callbacks=[Watch(score)], **common,
    )  # fmt: skip
    add(epochs, "stage1", model.predict(), time.perf_counter() - start)
    model.train(pretrain_max_epochs=0, cluster_max_epochs=10, **common)
    add(epochs + 10, "stage2", model.predict(), time.perf_counter() - start)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("search.csv"))
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--datasets", nargs="+", default=list(REAL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    if args.latents:
        args.latents.mkdir(parents=True, exist_ok=True)
    done = set()
    if args.out.exists():
        with args.out.open() as file:
            done = {
                (r["variant"], r["dataset"], int(r["seed"])) for r in csv.DictReader(file) if r["readout"] == "stage2"
            }
    for variant in args.variants:
        for seed in args.seeds:
            for name in args.datasets:
                if (variant, name, seed) in done:
                    continue
                rows = run(args.data / f"{name}.h5ad", variant, seed, args.epochs, args.latents)
                new = not args.out.exists()
                with args.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                    if new:
                        writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    main()
