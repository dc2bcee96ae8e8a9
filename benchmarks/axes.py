"""Which genes and axes tell types apart, before any training?

    python -m benchmarks.axes DATA_DIR --out axes.csv --seeds 0

For each choice of genes and axes: macro purity of the scores along the axes (``benchmarks.depth``), and the adjusted Rand index of
k-means at half length with the published number of clusters. An interrupted study resumes where it stopped. Labels are used for
scoring only.
"""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from benchmarks._runs import defaults
from benchmarks._study import REAL, SORTED, parser_of, run_on_sets
from benchmarks.depth import purity
from sklearn.metrics import adjusted_rand_score

from scgpcl import SCGPCL
from scgpcl.cluster import kmeans
from scgpcl.nn import shrink_length
from scgpcl.pp import FeatureAxes, fit_features, principal_axes
from scgpcl.pp._axes import scores_along

#: Genes by their flavor and number.
GENES = (("seurat", 2000), ("pearson_residuals", 2000), ("pearson_residuals", 1000), ("discriminant", 1000))
#: Axes by their kind and number, leading first.
AXES = (("principal", 20), ("principal", 30), ("principal", 50), ("discriminant", 20), ("discriminant", 30))
KEYS = ("dataset", "seed")


def study(path: Path, seed: int) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    types = adata.obs["cell_type"].to_numpy().astype(str)
    given, rows = defaults(SCGPCL), []
    for flavor, n_genes in GENES:
        features = fit_features(
            adata.X,
            size=None,
            n_genes=n_genes,
            flavor=flavor,
            gene_scaling=given["gene_scaling"],
            feature_total=given["feature_total"],
            seed=seed,
        )
        found = {
            "principal": principal_axes(features.cells, features.moments, 50, seed=seed),
            "discriminant": FeatureAxes(features.cells, features.moments, discriminant=True, seed=seed).start,
        }
        for kind, n_axes in AXES:
            scores = scores_along(features.cells, features.moments, found[kind][:n_axes])
            scores -= scores.mean(0)
            vectors = shrink_length(torch.from_numpy(scores), 0.5)
            labels = kmeans(vectors, len(np.unique(types)), n_init=5, seed=seed).labels.numpy()
            rows.append({
                "genes": flavor,
                "n_genes": n_genes,
                "axes": kind,
                "n_axes": n_axes,
                "purity": round(purity(scores, types), 4),
                "ari": round(adjusted_rand_score(types, labels), 4),
            })  # fmt: skip
    return rows


def main() -> None:
    parser = parser_of(__doc__, datasets=(*REAL, *SORTED), seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("axes.csv"))
    arguments = parser.parse_args()
    rows = run_on_sets(
        arguments,
        study,
        columns=(*KEYS, "genes", "n_genes", "axes", "n_axes", "purity", "ari"),
        text=("dataset", "genes", "axes"),
    )
    print(
        rows.groupby(["genes", "n_genes", "axes", "n_axes"], sort=False)[["purity", "ari"]].mean().round(3).to_string()
    )


if __name__ == "__main__":
    main()
