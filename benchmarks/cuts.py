"""Does a cut of a model that was trained with another number agree with a model that was trained with this number?

    python -m benchmarks.cuts DATA_DIR --out cuts.csv

One model estimates the number of clusters, and its tree is cut into the published number; another is trained with that number. ``between`` is the
ARI between both labels; ``cut`` and ``trained`` are those with the types, which are read for the number and for scoring.
"""

from pathlib import Path
from typing import Any

import anndata as ad
from benchmarks._study import REAL, SORTED, parser_of, run_on_sets
from sklearn.metrics import adjusted_rand_score

import scgpcl

COLUMNS = ("dataset", "seed", "types", "estimated", "between", "cut", "trained")


def run(path: Path, seed: int) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    types = adata.obs.pop("cell_type").to_numpy()
    k = len(set(types))
    scgpcl.SCGPCL.setup_anndata(adata)
    models = [scgpcl.SCGPCL(adata, n, seed=seed) for n in (None, k)]
    for model in models:
        model.train(accelerator="cpu", enable_progress_bar=False)
    estimated = models[0].n_clusters_
    models[0].cut(k)
    cut, trained = (model.predict() for model in models)
    scores = {
        "between": adjusted_rand_score(cut, trained),
        "cut": adjusted_rand_score(types, cut),
        "trained": adjusted_rand_score(types, trained),
    }
    return [{"types": k, "estimated": estimated} | {name: round(value, 4) for name, value in scores.items()}]


def main() -> None:
    parser = parser_of(__doc__, datasets=(*REAL, *SORTED), seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("cuts.csv"))
    args = parser.parse_args()
    table = run_on_sets(args, run, columns=COLUMNS)
    print(table.to_string(index=False))
    print(table[["between", "cut", "trained"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
