"""Designed study of the configuration: one factor at a time over data sets and seeds, resumable.

    python -m benchmarks.search DATA_DIR --out search.csv --variants default no_graph --seeds 0 1 2
    python -m benchmarks.search --summary search.csv

Each row of the table is one (variant, data set, seed, stage). Labels are read by the scorer only. `--latents FOLDER`
keeps the latent vectors after pre-training for `benchmarks.readout`.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks._sets import REAL
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scgpcl
from scgpcl import presets

#: Agreement that no two clusterings exceed: pre-training then runs all its epochs.
NEVER = 2.0
WEIGHTS = (0.001, 0.005, 0.05, 0.5, 1.0, 10.0)
#: What each variant changes of the default: arguments of the model, of the pre-training plan, and of train().
VARIANTS: dict[str, tuple[dict, dict, dict]] = {
    "default": ({}, {}, {}),
    "no_instance": ({}, {"lambda_instance": 0.0}, {}),
    "no_prototype": ({}, {"lambda_prototype": 0.0}, {}),
    "no_neighbors": ({}, {"n_neighbors": 0}, {}),
    "zinb_only": ({}, {"lambda_instance": 0.0, "lambda_prototype": 0.0}, {}),
    "no_graph": ({"use_graph": False}, {}, {}),
    "random_start": ({"start": "random"}, {}, {}),
    "no_projection": ({}, {"projection": False}, {}),
    "gene_cell": ({"dispersion": "gene-cell"}, {}, {}),
    "whole_length": ({}, {}, {"cluster_plan_kwargs": {"shrinkage": 0.0}}),
    "shrinkage_.4": ({}, {}, {"cluster_plan_kwargs": {"shrinkage": 0.4}}),
    "constant_rate": ({}, {"one_cycle": False}, {}),
    "encoder_rate_1": ({}, {"encoder_lr": 1.0}, {}),
    "encoder_rate_.1": ({}, {"encoder_lr": 0.1}, {}),
    "neighbors_5": ({}, {"n_neighbors": 5}, {}),
    "neighbors_30": ({}, {"n_neighbors": 30}, {}),
    "instance_.3": ({}, {"lambda_instance": 0.3}, {}),
    "prototype_2": ({}, {"lambda_prototype": 2.0}, {}),
    "tau_.5": ({}, {"tau": 0.5}, {}),
    "strong_views": ({}, {"neighbor_keep": 0.5, "feature_drop": 0.5}, {}),
    "latent_32": ({"n_latent": 32}, {}, {}),
    "hidden_256": ({"n_hidden": 256}, {}, {}),
    "batch_128": ({}, {}, {"batch_size": 128}),
    "batch_512": ({}, {}, {"batch_size": 512}),
    **{
        f"decoded_{share:g}": ({}, {"decoded_genes": share}, {"cluster_plan_kwargs": {"decoded_genes": share}})
        for share in (0.1, 0.25, 0.5)
    },
    **{f"epochs_{n}": ({}, {}, {"pretrain_max_epochs": n, "agreement": NEVER}) for n in (6, 12, 20, 40)},
    **{f"lambda2_{w:g}": ({}, {"lambda_prototype": w}, {}) for w in WEIGHTS},
    **{f"lambda2_{w:g}_unstopped": ({}, {"lambda_prototype": w}, {"agreement": NEVER}) for w in WEIGHTS},
}
#: The same for the published configuration.
PAPER_VARIANTS: dict[str, tuple[dict, dict, dict]] = {
    "paper": ({}, {}, {}),
    **{f"paper_lambda2_{w:g}": ({}, {"lambda_prototype": w}, {}) for w in WEIGHTS},
    **{f"paper_lambda2_{w:g}_unstopped": ({}, {"lambda_prototype": w}, {"agreement": NEVER}) for w in WEIGHTS},
}
KEYS = ["variant", "dataset", "seed"]


def settings(variant: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Arguments of the model, of both stages, and of the clustering stage's plan."""
    plain = {
        "model": {},
        "train": {"pretrain_plan_kwargs": {"lambda_prototype": 0.5}},
    }  # the default, which variants replace
    preset = presets.PAPER if variant in PAPER_VARIANTS else plain
    model_kwargs, plan_kwargs, train_kwargs = (PAPER_VARIANTS | VARIANTS)[variant]
    train = {**preset["train"], **train_kwargs}
    train["pretrain_plan_kwargs"] = {**train.get("pretrain_plan_kwargs", {}), **plan_kwargs}
    return {**preset["model"], **model_kwargs}, train


def run(path: Path, variant: str, seed: int, latents: Path | None) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    truth = adata.obs.pop("cell_type").to_numpy()
    model_kwargs, train_kwargs = settings(variant)
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters=len(set(truth)), seed=seed, **model_kwargs)
    rows = []
    for stage, other in (("pretrain", "cluster"), ("cluster", "pretrain")):
        begun = time.perf_counter()
        model.train(**{**train_kwargs, f"{other}_max_epochs": 0}, accelerator="cpu", enable_progress_bar=False)
        seconds = time.perf_counter() - begun
        labels = model.predict()
        rows.append({
            "variant": variant, "dataset": path.stem, "seed": seed, "stage": stage,
            "epochs": int((model.history_["stage"].iloc[:, 0] == len(rows) + 1).sum()),
            "seconds": round(seconds, 1),
            "ari": round(adjusted_rand_score(truth, labels), 4),
            "nmi": round(normalized_mutual_info_score(truth, labels), 4),
        })  # fmt: skip
        if stage == "pretrain" and latents is not None:
            model.module.shrinkage.zero_()  # whole lengths; the clustering stage chooses anew
            np.save(latents / f"{variant}~{path.stem}~{seed}.npy", model.get_latent_representation())
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over data sets of each variant's mean over seeds, on the sets and seeds that all variants have."""
    runs = table.pivot_table(index=["dataset", "seed"], columns=["variant", "stage"], values="ari").dropna()
    per_set = runs.groupby("dataset").mean()
    spread = runs.groupby("dataset").std().mean()
    rows = table.set_index(["variant", "stage"])
    return pd.DataFrame({
        "sets": len(per_set),
        "runs": len(runs),
        "ari": per_set.mean(),
        "seed_sd": spread,
        "epochs": rows.groupby(level=[0, 1])["epochs"].mean(),
        "seconds": rows.groupby(level=[0, 1])["seconds"].mean(),
    }).dropna(subset="ari")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--summary", type=Path, metavar="CSV", help="print the means of a table and do nothing else")
    parser.add_argument("--out", type=Path, default=Path("search.csv"))
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, *PAPER_VARIANTS])
    parser.add_argument("--datasets", nargs="+", default=list(REAL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.summary:
        print(summary(pd.read_csv(args.summary)).round(3).to_string())
        return
    if args.data is None:
        parser.error("give the folder of the data sets")
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    if args.latents:
        args.latents.mkdir(parents=True, exist_ok=True)
    done = set()
    if args.out.exists():
        done = set(pd.read_csv(args.out)[KEYS].itertuples(index=False, name=None))
    for seed in args.seeds:
        for variant in args.variants:
            for name in args.datasets:
                if (variant, name, seed) not in done:
                    rows = pd.DataFrame(run(args.data / f"{name}.h5ad", variant, seed, args.latents))
                    rows.to_csv(args.out, mode="a", header=not args.out.exists(), index=False)


if __name__ == "__main__":
    main()
