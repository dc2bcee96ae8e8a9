"""Does a reference know what it does not know?

    python -m benchmarks.reference DATA_DIR --out reference.csv

One half of each data set is the reference, the other the query; the number of published types is given, and labels are used for
scoring only.

* ``left out``: all cells of one type are in the query, and none in the reference. ``auroc``: novelty of these cells against that
  of the other cells of the query; ``auroc_confidence``: the same by low confidence. Each type of 20 cells or more in turn.
* ``missing 0.3``, ``0.5``, ``0.7``: this share of the model's genes is missing in the query; ``depth 0.1``: a tenth of its
  molecules is left. ``agreement`` with the clusters of the whole query, and the mean ``confidence``, which should equal it.
* ``updated``: ``agreement`` of the clusters of the reference before and after ``model.update(query)``.
"""

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from benchmarks._study import parser_of, run_study
from sklearn.metrics import roc_auc_score

import scgpcl
from scgpcl.benchmark._tables import markdown

COLUMNS = ["dataset", "seed", "left", "arm", "ari", "auroc", "auroc_confidence", "agreement", "confidence"]
LEAST_CELLS = 20
MISSING = (0.3, 0.5, 0.7)
DEPTH = 0.1
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def fit(adata: ad.AnnData, n_clusters: int, seed: int) -> scgpcl.SCGPCL:
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=seed)
    model.train(**QUIET)
    return model


def thinned(query: ad.AnnData, share: float, seed: int) -> ad.AnnData:
    x = sp.csr_matrix(query.X, copy=True)
    x.data = np.random.default_rng(seed).binomial(x.data.astype(np.int64), share).astype(np.float32)
    x.eliminate_zeros()
    return ad.AnnData(x, obs=query.obs[[]], var=query.var[[]])


def run(path: Path, seed: int, left: str) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    adata.obs = adata.obs[[]].copy()
    half = np.random.default_rng(seed).random(adata.n_obs) < 0.5
    known = half & (types != left)
    model = fit(adata[known].copy(), len(set(types[known])), seed)
    query, own = adata[~known].copy(), types[~known]
    if left:
        confidence = model.predict(query, soft=True).to_numpy().max(1)
        auroc = [roc_auc_score(own == left, score) for score in (model.get_novelty(query), -confidence)]
        return [{"arm": "left out", "auroc": auroc[0], "auroc_confidence": auroc[1]}]
    whole = model.predict(query)
    rows = [{"arm": "whole", "ari": scgpcl.metrics.ari(own, whole)}]
    lost = np.random.default_rng(seed).permutation(model.selected_genes_)
    queries = {f"missing {m}": query[:, ~query.var_names.isin(lost[: int(m * len(lost))])].copy() for m in MISSING}
    queries[f"depth {DEPTH}"] = thinned(query, DEPTH, seed)
    for arm, cells in queries.items():
        kept = np.asarray(cells.X.sum(1)).ravel() > 0
        found = model.predict(cells[kept].copy(), soft=True, max_missing=0.99)
        names = found.columns.to_numpy()[found.to_numpy().argmax(1)]
        scores = {"agreement": (names == whole[kept]).mean(), "confidence": found.to_numpy().max(1).mean()}
        rows.append({"arm": arm, "ari": scgpcl.metrics.ari(own[kept], names), **scores})
    before = model.predict()
    model.update(query, **QUIET)
    rows.append({"arm": "updated", "agreement": (model.predict() == before).mean()})
    return rows


def summary(table: pd.DataFrame) -> str:
    """Markdown: means over the tasks of each set and arm."""
    columns = ["ari", "auroc", "auroc_confidence", "agreement", "confidence"]
    means = table.groupby(["dataset", "arm"], sort=False)[columns].mean()
    shown = [[*key, *("" if np.isnan(v) else f"{v:.3f}" for v in row)] for key, row in means.iterrows()]
    return "\n".join(markdown(["data set", "arm", *columns], shown))


def tasks(args: Any) -> Any:
    """Every data set as a whole, then with each of its types left out."""
    for seed in args.seeds:
        for name in args.datasets:
            counts = ad.read_h5ad(args.data / f"{name}.h5ad", backed="r").obs["cell_type"].astype(str).value_counts()
            for left in ("", *sorted(counts.index[counts >= LEAST_CELLS])):
                yield name, seed, left


def main() -> None:
    parser = parser_of(__doc__, seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("reference.csv"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    table = run_study(
        args,
        tasks(args),
        lambda name, seed, left: run(args.data / f"{name}.h5ad", seed, left),
        keys=["dataset", "seed", "left"],
        columns=COLUMNS,
        text=["dataset", "left", "arm"],
    )
    print(summary(table))


if __name__ == "__main__":
    main()
