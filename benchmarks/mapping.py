"""How well are new cells labelled by a model that has not seen them?

    python -m benchmarks.mapping DATA_DIR --out mapping.csv --seeds 0 1 2

A random fifth of each data set is the query. One model is trained on all cells and one on the remaining four fifths; the
second one labels the query. Both are given the number of published types. All scores refer to the cells of the query:

* ``trained on all``: labels of the first model.
* ``mapped``: labels of the second model.
* ``without 10 %``, ``without 20 %``: as mapped, but a random 10 or 20 % of the model's genes are missing in the query.
* ``model's genes only``: as mapped, but the query has only the model's genes, which then determine library sizes.
* ``updated``: labels after ``model.update(query)``; ``moved`` is the share of reference cells whose label changes.

``reference_ari`` scores the other four fifths, on which both models were trained: if it is lower for the second model, fewer
training cells led to another partition, and a lower score of the query is not due to mapping alone.

The table has one row per (arm, data set, seed); an interrupted study resumes where it stopped. Labels are removed before a
model sees the data and are used for scoring only.
"""

import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks._study import parser_of, run_on_sets

import scgpcl
from scgpcl.benchmark._tables import markdown

ALL, MAPPED, UPDATED, MODEL_GENES = "trained on all", "mapped", "updated", "model's genes only"
MISSING = {"without 10 %": 0.1, "without 20 %": 0.2}
ARMS = [ALL, MAPPED, *MISSING, MODEL_GENES, UPDATED]
COLUMNS = [
    "dataset",
    "seed",
    "arm",
    "n_query",
    "n_clusters",
    "ari",
    "nmi",
    "reference_ari",
    "moved",
    "seconds",
    "error",
]


def split(n_cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and query cells, in their order."""
    order = np.random.default_rng(seed).permutation(n_cells)
    n_query = n_cells // 5
    return np.sort(order[n_query:]), np.sort(order[:n_query])


def fit(adata: ad.AnnData, n_clusters: int, seed: int) -> scgpcl.SCGPCL:
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=seed)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def without(query: ad.AnnData, model: scgpcl.SCGPCL, share: float, seed: int) -> ad.AnnData:
    genes = model.selected_genes_
    lost = np.random.default_rng(seed).choice(genes, int(share * len(genes)), replace=False)
    return query[:, ~query.var_names.isin(lost)].copy()


def labels_of_arms(adata: ad.AnnData, n_clusters: int, seed: int) -> dict[str, dict[str, Any]]:
    """Labels of the query, seconds, and share of moved reference cells, per arm."""
    kept, new = split(adata.n_obs, seed)
    found = {}

    def timed(arm: str, call: Any) -> Any:
        start = time.perf_counter()
        labels = call()
        found[arm] = {"labels": labels, "seconds": round(time.perf_counter() - start, 2)}

    timed(ALL, lambda: fit(adata.copy(), n_clusters, seed).predict())
    found[ALL] |= {"reference": found[ALL]["labels"][kept], "labels": found[ALL]["labels"][new]}
    reference, query = adata[kept].copy(), adata[new].copy()
    model = fit(reference, n_clusters, seed)
    timed(MAPPED, lambda: model.predict(query))
    for arm, share in MISSING.items():
        timed(arm, lambda share=share: model.predict(without(query, model, share, seed)))
    timed(MODEL_GENES, lambda: model.predict(_counted(query[:, model.selected_genes_].copy())))
    found[MAPPED]["reference"] = before = model.predict()
    timed(UPDATED, lambda: (model.update(query, accelerator="cpu", enable_progress_bar=False), model.predict(query))[1])
    found[UPDATED]["moved"] = round(float((model.predict() != before).mean()), 4)
    return found


def _counted(query: ad.AnnData) -> ad.AnnData:
    """Give empty cells one count, because the model refuses them."""
    x = query.X.tolil()
    for row in np.flatnonzero(np.asarray(query.X.sum(1)).ravel() == 0):
        x[row, 0] = 1
    query.X = x.tocsr()
    return query


def run(path: Path, seed: int) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    truth = adata.obs["cell_type"].to_numpy()
    adata.obs = adata.obs[[]].copy()
    n_clusters = len(set(truth))
    kept, new = split(adata.n_obs, seed)
    rows = []
    for arm, values in labels_of_arms(adata, n_clusters, seed).items():
        labels, reference = values.pop("labels"), values.pop("reference", None)
        scores = {"ari": scgpcl.metrics.ari(truth[new], labels), "nmi": scgpcl.metrics.nmi(truth[new], labels)}
        if reference is not None:
            scores["reference_ari"] = scgpcl.metrics.ari(truth[kept], reference)
        row = {"arm": arm, "n_query": len(new), "n_clusters": n_clusters, **values}
        rows.append(row | {name: round(score, 4) for name, score in scores.items()})
    return rows


def summary(table: pd.DataFrame) -> str:
    """Markdown: ARI per data set and arm, mean and standard deviation over seeds, and means over data sets."""
    table = table[table["error"] == ""]
    groups = table.groupby(["dataset", "arm"])["ari"]
    mean, std = (part.unstack()[ARMS] for part in (groups.mean(), groups.std()))
    moved = table.groupby("dataset")["moved"].mean()
    reference = table.groupby(["dataset", "arm"])["reference_ari"].mean().unstack()[[ALL, MAPPED]]
    rows = []
    for name in mean.index:
        scores = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean.loc[name], std.loc[name], strict=True)]
        rows.append([str(name), *scores, f"{moved[name]:.1%}", *(f"{v:.3f}" for v in reference.loc[name])])
    means = [f"{m:.3f}" for m in mean.mean()]
    rows.append(["mean", *means, f"{moved.mean():.1%}", *(f"{v:.3f}" for v in reference.mean())])
    return "\n".join(markdown(["data set", *ARMS, "moved", "reference: all", "reference: mapping"], rows))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("mapping.csv"))
    args = parser.parse_args()
    table = run_on_sets(args, run, columns=COLUMNS, text=["dataset", "arm", "error"], failure="error")
    print(summary(table))


if __name__ == "__main__":
    main()
