"""How should latent vectors be read out as clusters?

    python -m benchmarks.search DATA_DIR --out search.csv --variants default --seeds 0 1 2 --latents LATENTS
    python -m benchmarks.readout DATA_DIR --latents LATENTS --out readout.csv

Each read-out partitions vectors that ``benchmarks.search --latents`` has stored: the trained latent vectors or the principal
components of the features, by k-means for several powers of shrinkage and by Leiden communities of shared neighbours; and the
consensus of all of these, over the trained vectors, over the components of the whole cells and of draws of their molecules, and over
both. The table has one row per read-out: its adjusted Rand index, which only the summary uses, and the size of its smallest cluster.
An interrupted study resumes where it stopped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks._study import parser_of, run_study
from sklearn.metrics import adjusted_rand_score

from scgpcl.cluster import Evidence
from scgpcl.cluster._consensus import N_INIT, POWERS, partitions

#: Names of the partitions of one set of vectors, in their order.
PARTITIONS = (*(f"k-means, power {power:g}" for power in POWERS), "Leiden")
SOURCES = ("trained", "components 0")
READOUTS = (
    *(f"{name} of {source.split()[0]}" for source in SOURCES for name in PARTITIONS),
    "consensus of trained",
    "consensus of components",
    "consensus",
)
KEYS = ["variant", "dataset", "seed"]


def readouts(vectors: Mapping[str, np.ndarray], n_clusters: int, *, seed: int) -> dict[str, np.ndarray]:
    """Labels (n_cells,) by each read-out of vectors (n_cells, n) by their name, the trained ones first."""
    draws = {name: torch.from_numpy(values) for name, values in vectors.items()}
    found = []
    for source in SOURCES:
        found += partitions(draws[source], [n_clusters], n_init=N_INIT, seed=seed)
    components = [values for name, values in draws.items() if name != "trained"]
    for some in ([draws["trained"]], components, [draws["trained"], *components]):
        found.append(Evidence.of(some, n_clusters, seed=seed).support(n_clusters).argmax(1))
    return {name: labels.numpy() for name, labels in zip(READOUTS, found, strict=True)}


def scored(vectors: Mapping[str, np.ndarray], truth: np.ndarray, *, seed: int) -> list[dict[str, Any]]:
    """Rows of the table for one data set and seed."""
    found = readouts(vectors, len(set(truth)), seed=seed)
    return [
        {
            "readout": name,
            "ari": round(adjusted_rand_score(truth, labels), 5),
            "smallest": int(np.unique(labels, return_counts=True)[1].min()),
        }
        for name, labels in found.items()
    ]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean adjusted Rand index over data sets of each read-out, its spread over seeds, and how often it is the best."""
    runs = table.pivot_table(index=KEYS, columns="readout", values="ari")[list(READOUTS)]
    sets = runs.groupby(["variant", "dataset"])
    return pd.DataFrame({
        "ari": sets.mean().mean(),
        "seed_sd": sets.std().mean(),
        "best_in": runs.eq(runs.max(axis=1), axis=0).mean(),
    })  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("readout.csv"))
    args = parser.parse_args()

    def run(variant: str, name: str, seed: int) -> list[dict[str, Any]]:
        truth = ad.read_h5ad(args.data / f"{name}.h5ad").obs["cell_type"].to_numpy()
        with np.load(args.latents / f"{variant}~{name}~{seed}.npz") as vectors:
            return scored(vectors, truth, seed=seed)

    table = run_study(
        args,
        (
            (variant, name, int(seed))
            for variant, name, seed in (path.stem.split("~") for path in sorted(args.latents.glob("*.npz")))
        ),
        run,
        keys=KEYS,
        columns=[*KEYS, "readout", "ari", "smallest"],
        text=["variant", "dataset", "readout"],
    )
    print(summary(table).round(3).to_string())


if __name__ == "__main__":
    main()
