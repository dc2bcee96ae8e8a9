"""Do runs with different seeds give the same labels, and how well do they agree with the types?

    python -m benchmarks.seeds DATA_DIR --labels LABELS --out seeds.csv --seeds 0 1 2 3 4

The number of clusters is given, everything else is the default. The labels of each run are stored in the folder LABELS. The last table
has, for each data set, the means over the seeds, the largest difference of ARI between seeds, and the mean ARI between pairs of runs.
The table has one row per (data set, seed); an interrupted study resumes where it stopped. Types are used for scoring only.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks._study import REAL, SORTED, best_f1, parser_of, run_on_sets
from benchmarks.depth import purity
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scgpcl

SCORES = ("ari", "nmi", "f1", "purity")


def run(path: Path, seed: int, labels: Path) -> list[dict[str, Any]]:
    """Train with one seed, store the labels, and score them."""
    adata = ad.read_h5ad(path)
    types = adata.obs.pop("cell_type").to_numpy()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters=len(set(types)), seed=seed)
    start = time.process_time()
    model.train(accelerator="cpu", enable_progress_bar=False)
    seconds = time.process_time() - start
    found = model.predict()
    np.save(labels / f"{path.stem}~{seed}.npy", found.astype(np.int16))
    scores = {
        "ari": adjusted_rand_score(types, found),
        "nmi": normalized_mutual_info_score(types, found),
        "f1": best_f1(types, found),
        "purity": purity(model.get_latent_representation(), types),
    }
    return [{name: round(value, 4) for name, value in scores.items()} | {"cpu_seconds": round(seconds, 1)}]


def summary(table: pd.DataFrame, labels: Path) -> pd.DataFrame:
    """One row per data set: means over seeds, largest difference of ARI, and mean ARI between runs."""
    grouped = table.groupby("dataset", sort=False)
    found = grouped[[*SCORES, "cpu_seconds"]].mean()
    found["ari_range"] = grouped["ari"].max() - grouped["ari"].min()
    between = {}
    for name, rows in grouped:
        runs = [np.load(labels / f"{name}~{seed}.npy") for seed in rows["seed"]]
        pairs = [adjusted_rand_score(one, other) for one, other in itertools.combinations(runs, 2)]
        between[name] = np.mean(pairs) if pairs else np.nan
    found["between_seeds"] = pd.Series(between)
    return found


def main() -> None:
    parser = parser_of(__doc__, datasets=(*REAL, *SORTED), seeds=(0, 1, 2, 3, 4))
    parser.add_argument("--out", type=Path, default=Path("seeds.csv"))
    parser.add_argument("--labels", type=Path, required=True, help="folder for the labels of each run")
    args = parser.parse_args()
    args.labels.mkdir(parents=True, exist_ok=True)
    table = run_on_sets(
        args, lambda path, seed: run(path, seed, args.labels), columns=["dataset", "seed", *SCORES, "cpu_seconds"]
    )
    found = summary(table, args.labels)
    print(pd.concat([found, found.mean().to_frame("mean").T]).round(3).to_string())


if __name__ == "__main__":
    main()
