"""How well are new cells labelled by a model that has not seen them?

    python -m benchmarks.mapping DATA_DIR --out mapping.csv --seeds 0 1 2

A fifth of each set, drawn with the seed, is the query. One model is trained on all cells, another on the other four
fifths; the second one labels the query. The number of clusters is that of the published types in both. All scores are
of the query's cells alone:

* ``trained on all``: labels of the first model.
* ``mapped``: labels of the second model.
* ``without 10 %``, ``without 20 %``: as mapped, from a query in which that share of the model's genes, drawn at random,
  was not measured.
* ``model's genes only``: as mapped, from a query that has no other genes, so that library sizes count over these.
* ``updated``: labels after ``model.update(query)``; ``moved`` is the share of reference cells with another label then.

``reference_ari`` scores the other four fifths, which both models were trained on: where it falls between the first two
arms, fewer training cells led to another partition, and the query's fall is not one of mapping alone.

One row per (arm, data set, seed) is appended to the table when a set and seed is done, so that an interrupted run goes
on where it stopped. Labels are taken out of the data before a model sees it and are read by the scorer only.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from benchmarks._sets import REAL

import scgpcl

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
    """Give a cell that has none of the genes one count, since empty cells are refused."""
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
    row = {"dataset": path.stem, "seed": seed, "n_query": len(new), "n_clusters": n_clusters}
    try:
        found = labels_of_arms(adata, n_clusters, seed)
    except Exception as error:  # noqa: BLE001  (one failing set must not end a long run)
        return [row | {"arm": ALL, "error": f"{type(error).__name__}: {error}"}]
    rows = []
    for arm, values in found.items():
        labels, reference = values.pop("labels"), values.pop("reference", None)
        scores = {"ari": scgpcl.metrics.ari(truth[new], labels), "nmi": scgpcl.metrics.nmi(truth[new], labels)}
        if reference is not None:
            scores["reference_ari"] = scgpcl.metrics.ari(truth[kept], reference)
        rows.append(row | {"arm": arm} | {name: round(score, 4) for name, score in scores.items()} | values)
    return rows


def summary(table: pd.DataFrame) -> str:
    """Markdown: ARI per set and arm, mean and standard deviation over seeds, and the mean over sets."""
    table = table[table["error"].isna()]
    groups = table.groupby(["dataset", "arm"])["ari"]
    mean, std = (part.unstack()[ARMS] for part in (groups.mean(), groups.std()))
    lines = ["| data set | " + " | ".join([*ARMS, "moved", "reference: all", "reference: mapping"]) + " |"]
    lines.append("| --- |" + " --- |" * (len(ARMS) + 3))
    moved = table.groupby("dataset")["moved"].mean()
    reference = table.groupby(["dataset", "arm"])["reference_ari"].mean().unstack()[[ALL, MAPPED]]
    for name in mean.index:
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean.loc[name], std.loc[name], strict=True)]
        cells += [f"{moved[name]:.1%}", *(f"{v:.3f}" for v in reference.loc[name])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = [*(f"{m:.3f}" for m in mean.mean()), f"{moved.mean():.1%}", *(f"{v:.3f}" for v in reference.mean())]
    lines.append("| mean | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of h5ad files with obs['cell_type']")
    parser.add_argument("--out", type=Path, default=Path("mapping.csv"))
    parser.add_argument("--datasets", nargs="+", default=list(REAL))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    done = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=COLUMNS)
    finished = set(zip(done["dataset"], done["seed"], strict=True))
    for seed in args.seeds:
        for name in args.datasets:
            if (Path(name).stem, seed) not in finished:
                rows = pd.DataFrame(run(args.data / f"{name}.h5ad", seed), columns=COLUMNS)
                rows.to_csv(args.out, mode="a", header=not args.out.exists(), index=False)
    print(summary(pd.read_csv(args.out)))


if __name__ == "__main__":
    main()
