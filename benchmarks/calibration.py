"""How often is a held-out cell of a given confidence in the right cluster?

    python -m benchmarks.calibration DATA_DIR --kept KEPT --seeds 0 1 2 --figure reliability.png

The model is trained on nine tenths of each data set with the number of clusters given. Clusters are matched one to one
to published types on these cells (Hungarian method); a held-out cell is right if its cluster is matched to its type. The
expected calibration error (ECE) is the mean difference between confidence and accuracy in ten equal bins of confidence,
weighted by their number of cells (Guo et al. 2017). What scoring needs is stored in KEPT, so that an interrupted study resumes
where it stopped. Labels are used for scoring only.

The model's own probabilities are compared with two others that need no labels either: those with other degrees of freedom, and
the posterior of spherical normal distributions fitted to the clusters of the training cells.
"""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks._study import parser_of
from sklearn.metrics import roc_auc_score

import scgpcl
from scgpcl.benchmark._tables import markdown
from scgpcl.nn import soft_assign
from scgpcl.train import DistillationPlan

N_BINS = 10
#: Minimum confidence whose effect is reported.
LEAST = 0.6
#: Bins with fewer cells are not drawn.
MIN_DRAWN = 10


class Kept(NamedTuple):
    """Latent vectors (n_cells, n_latent) and types of both parts, the centres (n_clusters, n_latent) and the temperature."""

    z_train: np.ndarray
    z_test: np.ndarray
    centers: np.ndarray
    truth_train: np.ndarray
    truth_test: np.ndarray
    temperature: float = 1.0


def train(path: Path, seed: int) -> Kept:
    adata = ad.read_h5ad(path)
    truth = adata.obs["cell_type"].to_numpy().astype(str)
    adata.obs = adata.obs[[]].copy()
    test = np.zeros(adata.n_obs, dtype=bool)
    test[np.random.default_rng(seed).choice(adata.n_obs, adata.n_obs // 10, replace=False)] = True
    fitted, new = adata[~test].copy(), adata[test].copy()
    scgpcl.SCGPCL.setup_anndata(fitted)
    fit = scgpcl.SCGPCL(fitted, len(set(truth)), seed=seed)
    fit.train(accelerator="cpu", enable_progress_bar=False)
    z_train, z_test = fit.get_latent_representation(), fit.get_latent_representation(new)
    centers, temperature = fit.module.centers.detach().cpu().numpy(), fit.module.temperature.item()
    return Kept(z_train, z_test, centers, truth[~test], truth[test], temperature)


def student(alpha: float) -> Callable[[Kept, np.ndarray], np.ndarray]:
    def probability(kept: Kept, z: np.ndarray) -> np.ndarray:
        return soft_assign(torch.from_numpy(z), torch.from_numpy(kept.centers), alpha=alpha).numpy()

    return probability


def model(kept: Kept, z: np.ndarray) -> np.ndarray:
    """The model's own probabilities, calibrated on halves of the molecules of the training cells."""
    alpha = inspect.signature(DistillationPlan).parameters["alpha"].default
    centers = torch.from_numpy(kept.centers)
    return soft_assign(torch.from_numpy(z), centers, alpha=alpha, temperature=float(kept.temperature)).numpy()


def normal(kept: Kept, z: np.ndarray) -> np.ndarray:
    """Posterior of one spherical normal distribution per cluster, with the moments and the proportion of its cells."""
    labels = nearest_center(kept, kept.z_train)
    log_density = np.full((len(z), len(kept.centers)), -np.inf)
    for k in np.unique(labels):
        cells = kept.z_train[labels == k]
        variance = max(cells.var(0).mean(), 1e-6)
        squared = np.square(z - cells.mean(0)).sum(1)
        log_density[:, k] = np.log(len(cells)) - squared / (2 * variance) - z.shape[1] / 2 * np.log(variance)
    weight = np.exp(log_density - log_density.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def nearest_center(kept: Kept, z: np.ndarray) -> np.ndarray:
    return student(1.0)(kept, z).argmax(1)


PROBABILITIES: dict[str, Callable[[Kept, np.ndarray], np.ndarray]] = {
    "model": model,
    "alpha 1": student(1.0),
    "alpha 10": student(10.0),
    "normal": normal,
}


def score(kept: Kept, probability: np.ndarray) -> pd.DataFrame:
    """Confidence of each held-out cell in its cluster, and whether the cluster is matched to the cell's type."""
    match = scgpcl.metrics.match_clusters(kept.truth_train, nearest_center(kept, kept.z_train))
    labels = nearest_center(kept, kept.z_test)
    right = np.array([match.get(k) == t for k, t in zip(labels, kept.truth_test, strict=True)])
    return pd.DataFrame({"confidence": probability[np.arange(len(labels)), labels], "right": right})


def reliability(cells: pd.DataFrame) -> pd.DataFrame:
    """Number of cells, mean confidence and accuracy of each non-empty bin of confidence."""
    bins = np.minimum((cells["confidence"] * N_BINS).astype(int), N_BINS - 1)
    groups = cells.groupby(bins)
    return pd.DataFrame(
        {"cells": groups.size(), "confidence": groups["confidence"].mean(), "accuracy": groups["right"].mean()}
    )


def expected_error(cells: pd.DataFrame) -> float:
    table = reliability(cells)
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["cells"]))


def ranking(cells: pd.DataFrame) -> float:
    """Probability that a right cell has a higher confidence than a wrong one (area under the ROC curve)."""
    return float(roc_auc_score(cells["right"], cells["confidence"])) if cells["right"].nunique() > 1 else np.nan


def summary(scored: dict[str, pd.DataFrame]) -> str:
    """Markdown: errors by data set and probability, then the pooled reliability of the model's own confidence."""
    names, own = list(scored), scored["model"]
    table = pd.DataFrame(
        {
            dataset: [cells["right"].mean(), cells["confidence"].mean(), ranking(cells)]
            + [expected_error(part[part["dataset"] == dataset]) for part in scored.values()]
            for dataset, cells in own.groupby("dataset")
        }
    ).T
    table.loc["**mean**"] = table.mean()
    rows = [[str(dataset), *(f"{value:.3f}" for value in row)] for dataset, row in table.iterrows()]
    heads = ["accuracy", "confidence", "ranking", *(f"ECE, {name}" for name in names)]
    lines = markdown(["data set", *heads], rows)
    rows = [
        [
            f"{b / N_BINS:.1f} to {(b + 1) / N_BINS:.1f}",
            f"{row.cells:.0f}",
            f"{row.confidence:.3f}",
            f"{row.accuracy:.3f}",
        ]
        for b, row in reliability(own).iterrows()
    ]
    lines += ["", *markdown(["confidence", "cells", "mean confidence", "accuracy"], rows)]
    sure = own["confidence"] >= LEAST
    kept, right = sure.groupby(own["dataset"]).mean().mean(), own[sure].groupby("dataset")["right"].mean().mean()
    lines += [
        "",
        f"With confidence at least {LEAST}: {kept:.3f} of the cells, {right:.3f} right (means over data sets).",
    ]
    return "\n".join(lines)


def draw(scored: dict[str, pd.DataFrame], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.6", ls="--", lw=1)
    for name, cells in scored.items():
        table = reliability(cells)
        table = table[table["cells"] >= MIN_DRAWN]
        ax.plot(table["confidence"], table["accuracy"], marker="o", ms=4, label=name, lw=2 if name == "model" else 1)
    ax.set(xlabel="confidence", ylabel="share of held-out cells that are right", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--kept", type=Path, default=Path("calibration"))
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    args.kept.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in PROBABILITIES}
    for seed in args.seeds:
        for name in args.datasets:
            file = args.kept / f"{name}-{seed}.npz"
            if not file.exists():
                np.savez(file, **train(args.data / f"{name}.h5ad", seed)._asdict())
            kept = Kept(**np.load(file))
            for kind, probability in PROBABILITIES.items():
                parts[kind].append(score(kept, probability(kept, kept.z_test)).assign(dataset=name, seed=seed))
    scored = {kind: pd.concat(cells, ignore_index=True) for kind, cells in parts.items()}
    print(summary(scored))
    if args.figure is not None:
        draw(scored, args.figure)


if __name__ == "__main__":
    main()
