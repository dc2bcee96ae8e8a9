"""From which partition of the latent vectors should the clustering stage start?

    python -m benchmarks.search DATA_DIR --out search.csv --variants default --seeds 0 1 2 --latents LATENTS
    python -m benchmarks.readout DATA_DIR --latents LATENTS --out candidates.csv

The candidates are runs of k-means on latent vectors from ``benchmarks.search --latents``, for several powers of shrinkage.
The table has one row per candidate: its rank by inertia, its silhouette in several spaces, and its adjusted Rand index, which
only the summary uses. An interrupted study resumes where it stopped.
"""

import inspect
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from benchmarks._study import parser_of, run_study
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from scgpcl.cluster import cosine_silhouette, kmeans_runs, nearest
from scgpcl.model import SCGPCL
from scgpcl.nn import shrink_length
from scgpcl.pp import gene_statistics, library_sizes, select_genes

POWERS = (0.0, 0.25, 0.4, 0.6, 1.0)
N_RUNS = 120
N_KEPT = 40
N_AXES = 50
#: Rules that the summary compares: runs per power, and the number of those with the lowest inertia that are compared.
RULES = ((40, 10), (120, 10), (120, 15), (120, 20), (120, 30), (120, 40))
SPACES = ("latent", "centred", "standardised", "half")


def comparison_spaces(counts: sp.csr_matrix) -> dict[str, Tensor]:
    """Principal components (n_cells, 50) of log counts of the default genes, with three weightings of the genes."""
    chosen = {name: each.default for name, each in inspect.signature(SCGPCL).parameters.items()}
    size = library_sizes(counts)
    factor = size / np.median(size)
    scale = min(1.0, chosen["feature_total"] / np.median(size))
    moments = gene_statistics(counts, factor, scale=scale)
    if counts.shape[1] > chosen["n_top_genes"]:
        genes = select_genes(
            moments, chosen["n_top_genes"], flavor=chosen["gene_flavor"], scale=1e4 / float(np.median(size))
        )
        counts = counts[:, np.flatnonzero(genes)]
    x = np.log1p(counts.toarray() * (scale / factor)[:, None])
    x -= x.mean(0)
    std = np.where(x.std(0) > 0, x.std(0), 1.0)
    weighted = {"centred": x, "standardised": np.minimum(x / std, 10.0), "half": x / np.sqrt(std)}
    return {
        name: torch.from_numpy(PCA(N_AXES, random_state=0).fit_transform(values)).float()
        for name, values in weighted.items()
    }


def candidates(z: Tensor, spaces: dict[str, Tensor], truth: np.ndarray, seed: int) -> pd.DataFrame:
    k = len(set(truth))
    rows = []
    for power in POWERS:
        x = shrink_length(z, power)
        runs = kmeans_runs(x, k, n_runs=N_RUNS, seed=seed)
        for rank, run in enumerate(runs.inertia.argsort(stable=True)[:N_KEPT].tolist()):
            labels = nearest(x, runs.centers[run])[0]
            scores = {name: cosine_silhouette(space, labels, k) for name, space in {"latent": z, **spaces}.items()}
            ari = adjusted_rand_score(truth, labels.numpy())
            rows.append({"power": power, "run": run, "rank": rank, "ari": ari, **scores})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean adjusted Rand index over data sets of the candidate that each rule chooses, and its spread over seeds."""
    rows = []
    for n_runs, n_compared in RULES:
        part = table[table["run"] < n_runs].sort_values(["variant", "dataset", "seed", "power", "rank"])
        part = part.groupby(["variant", "dataset", "seed", "power"]).head(n_compared)
        for space in (*SPACES, "ari"):
            best = part.loc[part.groupby(["variant", "dataset", "seed"])[space].idxmax()]
            sets = best.groupby(["variant", "dataset"])["ari"]
            rows.append({
                "compared_in": "oracle" if space == "ari" else space, "rule": f"{n_compared} of {n_runs}",
                "ari": sets.mean().mean(), "seed_sd": sets.std().mean(),
            })  # fmt: skip
    return pd.DataFrame(rows).pivot(index="compared_in", columns="rule", values=["ari", "seed_sd"])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("candidates.csv"))
    args = parser.parse_args()
    spaces: dict[str, dict[str, Tensor]] = {}

    def run(variant: str, name: str, seed: int) -> list[dict[str, Any]]:
        adata = ad.read_h5ad(args.data / f"{name}.h5ad")
        if name not in spaces:
            spaces[name] = comparison_spaces(sp.csr_matrix(adata.X, dtype=np.float32))
        z = torch.from_numpy(np.load(args.latents / f"{variant}~{name}~{seed}.npy"))
        return candidates(z, spaces[name], adata.obs["cell_type"].to_numpy(), seed).round(5).to_dict("records")

    table = run_study(
        args,
        (
            (variant, name, int(seed))
            for variant, name, seed in (path.stem.split("~") for path in sorted(args.latents.glob("*.npy")))
        ),
        run,
        keys=["variant", "dataset", "seed"],
        columns=["variant", "dataset", "seed", "power", "run", "rank", "ari", *SPACES],
        text=["variant", "dataset"],
    )
    print(summary(table).round(3).to_string())


if __name__ == "__main__":
    main()
