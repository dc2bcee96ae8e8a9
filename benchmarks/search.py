"""What does each factor of the configuration change, one at a time, over data sets and seeds?

    python -m benchmarks.search DATA_DIR --out search.csv --variants default no_graph --seeds 0 1 2

The table has one row per (variant, data set, seed, stage); an interrupted study resumes where it stopped. Labels are used for
scoring only. The score of a variant is the mean of ARI, NMI and the best F1 of each type, with as many clusters as types and with a
half more (the columns that end in ``_finer``). The second table answers for each family of data sets: which variant is the best on
the other families, and what does it score on this one? ``--latents FOLDER`` stores the vectors after pre-training that the consensus
is made of, for ``benchmarks.readout``.
"""

import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks._study import FAMILIES, REAL, SORTED, best_f1, parser_of, run_study
from benchmarks.depth import purity
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scgpcl
from scgpcl import presets
from scgpcl.data import thinned

#: Draws of the molecules whose latent vectors are stored, and the share of the molecules in each, as in training.
N_DRAWS = 5
DRAWN_SHARE = 0.7
#: Cells encoded at a time.
ROWS = 4096
WEIGHTS = (0.001, 0.005, 0.05, 0.5, 1.0, 10.0)
#: Changes of each variant to the default: arguments of the model, of the pre-training plan, and of ``train``.
VARIANTS: dict[str, tuple[dict, dict, dict]] = {
    "default": ({}, {}, {}),
    "no_instance": ({}, {"lambda_instance": 0.0}, {}),
    "no_prototype": ({}, {"lambda_prototype": 0.0}, {}),
    "no_neighbors": ({}, {"n_neighbors": 0}, {}),
    "zinb_only": ({}, {"lambda_instance": 0.0, "lambda_prototype": 0.0}, {}),
    "no_graph": ({"use_graph": False}, {}, {}),
    "untrained": ({}, {}, {"pretrain_max_epochs": 0}),
    "untrained_pca": ({"start": "pca"}, {}, {"pretrain_max_epochs": 0}),
    "random_start": ({"start": "random"}, {}, {}),
    "pca_start": ({"start": "pca"}, {}, {}),
    "pearson_genes": ({"gene_flavor": "pearson_residuals"}, {}, {}),
    "pearson_pca": ({"gene_flavor": "pearson_residuals", "start": "pca", "n_top_genes": 2000}, {}, {}),
    "genes_2000": ({"n_top_genes": 2000}, {}, {}),
    "no_projection": ({}, {"projection": False}, {}),
    "gene_cell": ({"dispersion": "gene-cell"}, {}, {}),
    "seurat_genes": ({"gene_flavor": "seurat"}, {}, {}),
    "variance_genes": ({"gene_flavor": "variance"}, {}, {}),
    **{f"gene_scaling_{power:g}": ({"gene_scaling": power}, {}, {}) for power in (0.0, 0.5, 1.0)},
    "self_training": ({}, {}, {"clustering": "self_training"}),
    "whole_length": ({}, {}, {"cluster_plan_kwargs": {"shrinkage": 0.0}}),
    "shrinkage_.4": ({}, {}, {"cluster_plan_kwargs": {"shrinkage": 0.4}}),
    "not_thinned": ({}, {}, {"cluster_plan_kwargs": {"depth": 1.0}}),
    "depth_.2": ({}, {}, {"cluster_plan_kwargs": {"depth": 0.2}}),
    "constant_rate": ({}, {"one_cycle": False}, {}),
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
    "stopped": ({}, {}, {"agreement": 0.99}),
    **{f"decoded_{share:g}": ({}, {"decoded_genes": share}, {}) for share in (0.25, 0.5, 1.0)},
    **{f"epochs_{n}": ({}, {}, {"pretrain_max_epochs": n}) for n in (6, 12, 20, 40)},
    **{f"lambda2_{w:g}": ({}, {"lambda_prototype": w}, {}) for w in WEIGHTS},
}
#: The same for the published configuration.
PAPER_VARIANTS: dict[str, tuple[dict, dict, dict]] = {
    "paper": ({}, {}, {}),
    **{f"paper_lambda2_{w:g}": ({}, {"lambda_prototype": w}, {}) for w in WEIGHTS},
    **{f"paper_lambda2_{w:g}_unstopped": ({}, {"lambda_prototype": w}, {"agreement": None}) for w in WEIGHTS},
}
KEYS = ["variant", "dataset", "seed"]
#: Scores of a partition; with the second number of clusters their names end in ``_finer``.
SCORES = {"ari": adjusted_rand_score, "nmi": normalized_mutual_info_score, "f1": best_f1}
#: The second number of clusters, in numbers of types.
FINER = 1.5
COLUMNS = [*KEYS, "stage", "epochs", "seconds", *SCORES, *(f"{name}_finer" for name in SCORES), "purity"]


def settings(variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the model and of ``train``."""
    preset = presets.PAPER if variant in PAPER_VARIANTS else {"model": {}, "train": {}}
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
        labels = {"": model.predict()}
        n_leaves = (len(model.get_tree()) + 1) // 2
        model.cut(min(round(FINER * len(set(truth))), n_leaves))
        labels["_finer"] = model.predict()
        model.cut(len(set(truth)))
        rows.append({
            "stage": stage,
            "epochs": int((model.history_["stage"].iloc[:, 0] == len(rows) + 1).sum()) if model.history_ else 0,
            "seconds": round(seconds, 1),
            **{name + at: round(score(truth, of), 4) for at, of in labels.items() for name, score in SCORES.items()},
            "purity": round(purity(model.get_latent_representation(), truth), 4),
        })  # fmt: skip
        if stage == "pretrain" and latents is not None:
            np.savez(latents / f"{variant}~{path.stem}~{seed}.npz", **vectors_of_draws(model, seed))
    return rows


@torch.no_grad()
def vectors_of_draws(model: scgpcl.SCGPCL, seed: int) -> dict[str, np.ndarray]:
    """Trained latent vectors of whole length, and components of the whole cells and of draws of their molecules, (n_cells, n)."""
    module, generator = model.module, torch.Generator().manual_seed(seed)
    axes = torch.from_numpy(model._axes_of(model._prepare()).start)
    batches = list(model._read(None, None, ROWS))
    found = {"trained": torch.cat([module.depth(module.encode(batch), batch.size_factor) for batch in batches])}
    for draw in range(1 + N_DRAWS):
        parts = []
        for batch in batches:
            share = torch.full((len(batch.cell_index),), DRAWN_SHARE)
            drawn = thinned(batch, share, generator) if draw else batch
            parts.append(module.features(drawn).project(axes)[:, 0])
        found[f"components {draw}"] = torch.cat(parts) - torch.cat(parts).mean(0)
    return {name: vectors.numpy() for name, vectors in found.items()}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over data sets of each variant's mean over seeds, for the runs that all variants have."""
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


def left_out(table: pd.DataFrame) -> pd.DataFrame:
    """For each family, the variant with the best mean score over the other families, and its score on this one."""
    last = table[table["stage"] == "cluster"]
    score = last[[name + at for at in ("", "_finer") for name in SCORES]].mean(axis=1)
    family = last["dataset"].map({name: family for family, names in FAMILIES.items() for name in names})
    means = score.groupby([last["variant"], last["dataset"], family.rename("family")]).mean()
    means = means.groupby(level=["variant", "family"]).mean().unstack("family").dropna()
    rows = []
    for name in means if len(means.columns) > 1 else ():
        chosen = means.drop(columns=name).mean(axis=1).idxmax()
        rows.append((name, chosen, means.loc[chosen, name], means[name].max()))
    return pd.DataFrame(rows, columns=["family", "chosen", "score", "best score"]).set_index("family")


def main() -> None:
    parser = parser_of(__doc__, datasets=(*REAL, *SORTED), seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("search.csv"))
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, *PAPER_VARIANTS])
    args = parser.parse_args()
    if args.latents:
        args.latents.mkdir(parents=True, exist_ok=True)
    table = run_study(
        args,
        ((variant, name, seed) for seed in args.seeds for variant in args.variants for name in args.datasets),
        lambda variant, name, seed: run(args.data / f"{name}.h5ad", variant, seed, args.latents),
        keys=KEYS,
        columns=COLUMNS,
        text=["variant", "dataset", "stage"],
    )
    print(summary(table).round(3).to_string())
    print(left_out(table).round(3).to_string())


if __name__ == "__main__":
    main()
