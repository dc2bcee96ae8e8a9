"""Are the parts of one cluster closer to the types than the nodes of the tree, and as close as those of a new model?

    python -m benchmarks.subclusters DATA_DIR --out subclusters.csv --datasets pbmc3k zheng_facs8_2410

A model is trained with an estimated number of clusters. Every cluster that holds two or more types (each 5 % of it and 10 cells or more) is
divided into as many parts: by the coarsest level of the tree that has as many there, by `model.subcluster`, and by a new model trained on the
cells of the cluster alone. Scores are ARI within the cluster; types are read for the number and for scoring.
"""

import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks._study import parser_of, run_on_sets
from sklearn.metrics import adjusted_rand_score

import scgpcl

LEAST_SHARE, LEAST_CELLS, LEAST_DIVIDED = 0.05, 10, 60
COLUMNS = ("dataset", "seed", "cluster", "cells", "types", "tree", "subcluster", "new_model", "subcluster_seconds")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def run(path: Path, seed: int) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    types = adata.obs["cell_type"].to_numpy().astype(str)
    adata.obs = adata.obs[[]].copy()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, seed=seed)
    model.train(**QUIET)
    labels, levels = model.predict(), model.get_levels()
    rows = []
    for cluster in sorted(set(labels), key=int):
        own = np.flatnonzero(labels == cluster)
        count = pd.Series(types[own]).value_counts()
        k = int(((count >= LEAST_CELLS) & (count > LEAST_SHARE * len(own))).sum())
        if k < 2 or len(own) < LEAST_DIVIDED:
            continue
        score = lambda found, own=own: round(adjusted_rand_score(types[own], found), 3)
        finer = (levels[level].astype(str).to_numpy()[own] for level in levels)
        tree = next((found for found in finer if len(set(found)) >= k), labels[own])
        start = time.process_time()
        model.subcluster(cluster, k)
        seconds = round(time.process_time() - start, 1)
        parts = model.predict()[own]
        model.cut(model.n_clusters_)
        part = ad.AnnData(adata.X[own], var=adata.var[[]])
        scgpcl.SCGPCL.setup_anndata(part)
        inner = scgpcl.SCGPCL(part, k, seed=seed)
        inner.train(**QUIET)
        found = {"tree": score(tree), "subcluster": score(parts), "new_model": score(inner.predict())}
        rows.append({"cluster": cluster, "cells": len(own), "types": k, **found, "subcluster_seconds": seconds})
    return rows


def main() -> None:
    parser = parser_of(__doc__, datasets=("pbmc3k", "zheng_facs8_2410"), seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("subclusters.csv"))
    args = parser.parse_args()
    table = run_on_sets(args, run, columns=COLUMNS)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
