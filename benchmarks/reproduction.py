"""How do results compare with the published ones? Tables and figure of docs/reproduction.md.

    scgpcl benchmark DATA_DIR --methods scgpcl --seeds 3 --threads 1 --out OUT           # and scgpcl-paper
    python -m benchmarks.search DATA_DIR --out search.csv --variants default no_neighbors no_instance no_prototype \\
        no_graph mse zinb_only
    python -m benchmarks.search DATA_DIR --out lambda2.csv --variants lambda2_0.001 ... --datasets ...
    python -m benchmarks.reproduction --quality OUT/results.csv --ablations search.csv --weights lambda2.csv
    python -m benchmarks.reproduction --losses DATA_DIR --figure losses.png              # trains four sets

The published figures and those of an independent replication are constants in this file; the others are read from tables.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import pandas as pd
import torch

import scgpcl
from scgpcl.benchmark._tables import markdown

SCORES = ["nmi", "acc", "ari"]
#: Data sets that the paper used as well: NMI, ACC, ARI of the authors' saved ZINB weights, the means of three runs of an
#: independent replication, and differences from the authors' cells.
PUBLISHED = {
    "mouse_bladder_2100": ((0.7501, 0.6806, 0.5869), (0.7296, 0.6022, 0.4562), "2100 of 2746 cells"),
    "worm_neuron": ((0.7563, 0.7040, 0.5400), (0.7550, 0.7258, 0.5848), ""),
    "pbmc4k_top2000": ((0.7758, 0.8228, 0.7846), (0.7468, 0.7341, 0.6805), "4271 of 4340 cells, 2000 genes"),
    "human_kidney_young_top2000": ((0.8395, 0.8371, 0.7596), (0.7970, 0.7821, 0.6716), "2000 genes"),
}


def _three(values: pd.Series | tuple[float, ...]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def published_table(quality: pd.DataFrame) -> list[str]:
    """NMI / ACC / ARI on the data sets that the paper used as well."""
    rows = []
    for name, (published, replicated, note) in PUBLISHED.items():
        cells = [f"{name} ({note})" if note else name, _three(published), _three(replicated)]
        for method in ("scgpcl-paper", "scgpcl"):
            runs = quality[(quality["dataset"] == name) & (quality["method"] == method)]
            seeds = f" ({len(runs)})" if len(runs) else ""
            cells.append(_three(runs[SCORES].mean()) + seeds if len(runs) else "-")
        rows.append(cells)
    return markdown(["data set", "published, one run", "replication, three runs", "`PAPER` here", "default here"], rows)


def ablation_table(search: pd.DataFrame) -> list[str]:
    """Mean ARI over data sets of each variant after both stages, and its difference from the default with standard error."""
    runs = search.pivot_table(index=["dataset", "seed"], columns=["variant", "stage"], values="ari").dropna()
    rows = []
    default = runs[("default", "cluster")]
    means = runs.mean().unstack("stage")
    for variant in means.sort_values("cluster", ascending=False).index:
        change = (runs[(variant, "cluster")] - default).groupby("dataset").mean()
        error = change.std() / len(change) ** 0.5
        shown = "" if variant == "default" else f"{change.mean():+.3f} ± {error:.3f}"
        pretrain, cluster = means.loc[variant, ["pretrain", "cluster"]]
        rows.append([variant, f"{pretrain:.3f}", f"{cluster:.3f}", shown])
    heads = ["ARI after pre-training", "ARI after clustering", "difference from the default"]
    return markdown([f"variant ({len(runs)} runs each)", *heads], rows)


def weight_table(search: pd.DataFrame) -> list[str]:
    """Last epoch of pre-training and ARI after clustering, by weight of the prototype loss."""
    runs = search.pivot_table(index="variant", columns=["dataset", "stage"], values=["epochs", "ari"])
    runs = runs.reindex([name for name in dict.fromkeys(search["variant"]) if name in runs.index])
    datasets = list(dict.fromkeys(search["dataset"]))
    rows = []
    for variant, row in runs.iterrows():
        cells = [[f"{row['epochs', n, 'pretrain']:.0f}", f"{row['ari', n, 'cluster']:.3f}"] for n in datasets]
        rows.append([variant, *sum(cells, [])])
    return markdown(["variant", *sum(([f"{name}: epochs", "ARI"] for name in datasets), [])], rows)


def time_table(search: pd.DataFrame) -> list[str]:
    """Seconds of both stages, each including the read-out, by variant and data set."""
    part = search[
        search["dataset"].isin(PUBLISHED) & search["variant"].isin(["default", "paper", "paper_lambda2_0.05"])
    ]
    table = part.pivot_table(index=["dataset", "variant"], columns="stage", values="seconds")
    rows = [[*names, f"{row['pretrain']:.0f}", f"{row['cluster']:.0f}"] for names, row in table.iterrows()]
    return markdown(["data set", "variant", "pre-training, s", "clustering, s"], rows)


def draw_losses(data: Path, figure: Path, threads: int) -> None:
    """Draw the losses of both stages on the data sets that the paper used as well, with seed 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    torch.set_num_threads(threads)
    fig, rows = plt.subplots(len(PUBLISHED), 4, figsize=(13, 2.6 * len(PUBLISHED)), layout="constrained")
    for axes, name in zip(rows, PUBLISHED, strict=True):
        adata = ad.read_h5ad(data / f"{name}.h5ad")
        n_types = adata.obs.pop("cell_type").nunique()
        scgpcl.SCGPCL.setup_anndata(adata)
        model = scgpcl.SCGPCL(adata, n_types, seed=0)
        model.train(accelerator="cpu", enable_progress_bar=False)
        losses = ("reconstruction_loss", "instance_loss", "prototype_loss", "clustering_loss")
        for ax, loss in zip(axes, losses, strict=True):
            values = model.history_[f"{loss}_train"].dropna()
            ax.plot(values.index, values.iloc[:, 0], lw=1.5, marker="o", ms=3)
            ax.set(title=f"{name}\n{loss.replace('_', ' ')}", xlabel="epoch")
            ax.title.set_fontsize(8)
            ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(figure, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", type=Path, nargs="+")
    parser.add_argument("--ablations", type=Path)
    parser.add_argument("--weights", type=Path, nargs="+")
    parser.add_argument("--losses", type=Path, metavar="DATA_DIR")
    parser.add_argument("--figure", type=Path, default=Path("losses.png"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = []
    if args.quality:
        parts.append(published_table(pd.concat([pd.read_csv(path) for path in args.quality])))
    if args.ablations:
        parts += [ablation_table(pd.read_csv(args.ablations)), time_table(pd.read_csv(args.ablations))]
    for path in args.weights or ():
        parts += [weight_table(pd.read_csv(path)), time_table(pd.read_csv(path))]
    print("\n\n".join("\n".join(lines) for lines in parts))
    if args.losses:
        draw_losses(args.losses, args.figure, args.threads)


if __name__ == "__main__":
    main()
