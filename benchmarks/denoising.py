"""How close is denoised expression to the truth, compared with neighbour smoothing and library-size normalisation?

    python -m benchmarks.denoising DATA_DIR --out denoising.csv --seeds 0 1 2

There are two protocols, both on the genes that the model uses:

* ``truth``, for data sets simulated with Splatter: the expected expression of each cell without biological noise, sampling
  noise and dropout is known (gene mean x group factor x batch factor). Score: root mean squared difference of ``log1p`` of the
  values scaled to 10,000 per cell.
* ``masked``: a random tenth of the positive counts is set to zero before training, as in the imputation benchmark of scVI
  (Lopez et al. 2018, "uniform zero"). Scores: median absolute difference from the masked counts, and ``log_error``, the root
  mean squared difference of ``log1p`` of both after division by the cell's size factor.

Methods: ``scgpcl`` (``get_normalized_expression`` after ``train`` and ``train_decoder``), ``scgpcl-train`` (after
``train`` alone), ``knn-5``, ``knn-15``, ``knn-50`` (mean of size-normalised counts of the cell and its nearest
neighbours on 50 principal components of log-normalised counts of the same genes), ``library-size`` (the cell's own
counts over its size) and ``gene-mean`` (the same for all cells). The table has one row per (protocol, data set, seed, method);
an interrupted study resumes where it stopped. Only the number of labels is used.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from benchmarks._study import REAL, parser_of, run_study
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import scgpcl
from scgpcl.benchmark._tables import markdown

SIMULATED = ("Batch8", "Imb1", "Sig1", "SimT6_5")
SHARE = 0.1
NEIGHBORS = (5, 15, 50)
METHODS = ["scgpcl", "scgpcl-train", *(f"knn-{k}" for k in NEIGHBORS), "library-size", "gene-mean"]
COLUMNS = ["protocol", "dataset", "seed", "method", "error", "log_error", "seconds", "failure"]

Score = Callable[[np.ndarray, np.ndarray, pd.Index], dict[str, float]]


class Task(NamedTuple):
    """Counts to train on, and a function that scores expected counts, given size factors and genes."""

    counts: sp.csr_matrix
    score: Score


def truth_task(adata: ad.AnnData, rng: np.random.Generator) -> Task:
    groups, batches = adata.obs["Group"].astype(str), adata.obs["batch"].astype(str)
    mean = np.tile(adata.var["GeneMean"].to_numpy(), (adata.n_obs, 1))
    for prefix, names in (("DEFac", groups), ("BatchFac", batches)):
        for name in names.unique():
            if f"{prefix}{name}" in adata.var:
                mean[(names == name).to_numpy()] *= adata.var[f"{prefix}{name}"].to_numpy()

    def score(expected: np.ndarray, size: np.ndarray, genes: pd.Index) -> dict[str, float]:
        wanted = mean[:, adata.var_names.get_indexer(genes)]
        return {"error": np.sqrt(np.mean((_log_share(expected) - _log_share(wanted)) ** 2))}

    return Task(sp.csr_matrix(adata.X), score)


def _log_share(x: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * x / x.sum(1, keepdims=True))


def masked_task(adata: ad.AnnData, rng: np.random.Generator) -> Task:
    counts = sp.csr_matrix(adata.X)
    counts.eliminate_zeros()
    hidden = rng.random(counts.nnz) < SHARE
    kept, masked = counts.copy(), counts.copy()
    kept.data[hidden], masked.data[~hidden] = 0, 0
    kept.eliminate_zeros()
    masked.eliminate_zeros()

    def score(expected: np.ndarray, size: np.ndarray, genes: pd.Index) -> dict[str, float]:
        wanted = masked[:, adata.var_names.get_indexer(genes)].tocoo()
        found, size = expected[wanted.row, wanted.col], size[wanted.row]
        log = np.log1p(found / size) - np.log1p(wanted.data / size)
        return {"error": np.median(np.abs(found - wanted.data)), "log_error": np.sqrt(np.mean(log**2))}

    return Task(kept, score)


TASKS: dict[str, tuple[Callable[[ad.AnnData, np.random.Generator], Task], tuple[str, ...]]] = {
    "truth": (truth_task, tuple(f"simulated/{name}" for name in SIMULATED)),
    "masked": (masked_task, REAL),
}


def estimates(adata: ad.AnnData, n_clusters: int, seed: int) -> dict[str, Any]:
    """Expected counts of each method at the size of each cell, the genes, and the run time of the model."""
    start = time.perf_counter()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=seed)
    model.train(accelerator="cpu", enable_progress_bar=False)
    found = {"scgpcl-train": model.get_normalized_expression(library_size="latent", return_numpy=True)}
    trained = time.perf_counter()
    model.train_decoder(accelerator="cpu", enable_progress_bar=False)
    found["scgpcl"] = model.get_normalized_expression(library_size="latent", return_numpy=True)
    seconds = {"scgpcl-train": trained - start, "scgpcl": time.perf_counter() - start}
    genes = pd.Index(model.selected_genes_)
    size = np.asarray(adata.X.sum(1)).ravel()
    size = size / np.median(size)
    normal = sp.diags(1.0 / size) @ adata[:, genes].X
    found |= {f"knn-{k}": size[:, None] * smooth for k, smooth in _smoothed(normal, seed)}
    found["library-size"] = adata[:, genes].X.toarray()
    found["gene-mean"] = size[:, None] * np.asarray(normal.mean(0))
    return {"found": found, "genes": genes, "size": size, "seconds": seconds}


def _smoothed(normal: sp.csr_matrix, seed: int) -> Any:
    log = np.log1p(normal.toarray())
    z = PCA(min(50, *(n - 1 for n in log.shape)), random_state=seed).fit_transform(log)
    near = (
        NearestNeighbors(n_neighbors=max(NEIGHBORS)).fit(z).kneighbors(z, return_distance=False)
    )  # each cell first in its own row
    n_cells = len(z)
    for k in NEIGHBORS:
        columns = near[:, :k].ravel()
        mean = sp.csr_matrix(
            (np.full(n_cells * k, 1 / k), columns, np.arange(n_cells + 1) * k), shape=(n_cells, n_cells)
        )
        yield k, (mean @ normal).toarray()


def run(path: Path, protocol: str, seed: int) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    task = TASKS[protocol][0](adata, np.random.default_rng(seed))
    n_empty = int((np.asarray(task.counts.sum(1)).ravel() == 0).sum())
    if n_empty:
        msg = f"{n_empty} cells are empty after masking"
        raise ValueError(msg)
    cells = ad.AnnData(task.counts, var=adata.var[[]], obs=adata.obs[[]])
    made = estimates(cells, adata.obs["cell_type"].nunique(), seed)
    rows = []
    for method, values in made["found"].items():
        scores = task.score(values, made["size"], made["genes"])
        row = {"method": method, "seconds": made["seconds"].get(method)}
        rows.append(row | {name: round(float(v), 5) for name, v in scores.items()})
    return rows


def summary(table: pd.DataFrame) -> str:
    """Markdown: errors per protocol, data set and method, mean over seeds."""
    lines = []
    table = table[table["failure"] == ""]
    for (protocol, part), score in itertools.product(table.groupby("protocol"), ("error", "log_error")):
        if part[score].isna().all():
            continue
        error = part.groupby(["dataset", "method"])[score].mean().unstack()[METHODS]
        rows = [[str(name), *(f"{v:.3f}" for v in error.loc[name])] for name in error.index]
        rows.append(["mean", *(f"{v:.3f}" for v in error.mean())])
        lines += [f"\n{protocol}, {score}", *markdown(["data set", *METHODS], rows)]
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__, datasets=())
    parser.add_argument("--out", type=Path, default=Path("denoising.csv"))
    parser.add_argument("--protocols", nargs="+", choices=TASKS, default=list(TASKS))
    args = parser.parse_args()
    table = run_study(
        args,
        ((p, name, seed) for seed in args.seeds for p in args.protocols for name in args.datasets or TASKS[p][1]),
        lambda protocol, name, seed: run(args.data / f"{name}.h5ad", protocol, seed),
        keys=["protocol", "dataset", "seed"],
        columns=COLUMNS,
        text=["protocol", "dataset", "method", "failure"],
        failure="failure",
    )
    print(summary(table))


if __name__ == "__main__":
    main()
