"""How close is denoised expression to the truth, beside neighbour smoothing and library-size normalisation?

    python -m benchmarks.denoising DATA_DIR --out denoising.csv --seeds 0 1 2

Two protocols, each over the genes that the model uses:

* ``truth``, for sets simulated with Splatter: the expected expression of each cell before biological noise, counting and
  dropout is known (gene mean x factor of the group x factor of the batch). Score: root mean squared difference of
  ``log1p`` of the values scaled to 10,000 per cell.
* ``masked``: a tenth of the counts above zero, drawn at random, is set to zero before training, as in the imputation
  benchmark of scVI (Lopez et al. 2018, "uniform zero"). Score: median absolute difference from the masked counts; and
  ``log_error``, the root mean squared difference of ``log1p`` of both over the cell's size factor.

Methods: ``scgpcl`` (``get_normalized_expression`` after ``train`` and ``train_decoder``), ``scgpcl-train`` (after
``train`` alone), ``knn-5``, ``knn-15``, ``knn-50`` (mean of size-normalised counts of the cell and its nearest
neighbours on 50 principal components of log-normalised counts of the same genes), ``library-size`` (the cell's own
counts over its size) and, as a floor, ``gene-mean`` (the same for all cells). One row per (protocol, data set, seed,
method); an interrupted run goes on where it stopped. No labels but their number are used.
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from benchmarks._sets import REAL
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import scgpcl

SIMULATED = ("Batch8", "Imb1", "Sig1", "SimT6_5")
SHARE = 0.1
NEIGHBORS = (5, 15, 50)
METHODS = ["scgpcl", "scgpcl-train", *(f"knn-{k}" for k in NEIGHBORS), "library-size", "gene-mean"]
COLUMNS = ["protocol", "dataset", "seed", "method", "error", "log_error", "seconds", "failure"]

Score = Callable[[np.ndarray, np.ndarray, pd.Index], dict[str, float]]


class Task(NamedTuple):
    """Counts to learn from, and the errors of expected counts of the cells, given their size factors and genes."""

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
    """Expected counts of each method at each cell's own size, the genes, and seconds of the model."""
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
    near = NearestNeighbors(n_neighbors=max(NEIGHBORS)).fit(z).kneighbors(z, return_distance=False)  # itself first
    n_cells = len(z)
    for k in NEIGHBORS:
        columns = near[:, :k].ravel()
        mean = sp.csr_matrix(
            (np.full(n_cells * k, 1 / k), columns, np.arange(n_cells + 1) * k), shape=(n_cells, n_cells)
        )
        yield k, (mean @ normal).toarray()


def run(path: Path, protocol: str, seed: int) -> list[dict[str, Any]]:
    adata = ad.read_h5ad(path)
    row = {"protocol": protocol, "dataset": path.stem, "seed": seed}
    try:
        task = TASKS[protocol][0](adata, np.random.default_rng(seed))
        filled = np.asarray(task.counts.sum(1)).ravel() > 0
        if not filled.all():
            msg = f"{(~filled).sum()} cells are empty without what is held out"
            raise ValueError(msg)
        cells = ad.AnnData(task.counts, var=adata.var[[]], obs=adata.obs[[]])
        made = estimates(cells, adata.obs["cell_type"].nunique(), seed)
    except Exception as error:  # noqa: BLE001  (one failing set must not end a long run)
        return [row | {"method": "scgpcl", "failure": f"{type(error).__name__}: {error}"}]
    return [
        row
        | {"method": method, "seconds": made["seconds"].get(method)}
        | {name: round(float(v), 5) for name, v in task.score(values, made["size"], made["genes"]).items()}
        for method, values in made["found"].items()
    ]


def summary(table: pd.DataFrame) -> str:
    """Markdown: errors per protocol, set and method, mean over seeds."""
    lines = []
    for (protocol, part), score in itertools.product(table.groupby("protocol"), ("error", "log_error")):
        if part[score].isna().all():
            continue
        error = part.groupby(["dataset", "method"])[score].mean().unstack()[METHODS]
        lines += [
            f"\n{protocol}, {score}",
            "| data set | " + " | ".join(METHODS) + " |",
            "| --- |" + " --- |" * len(METHODS),
        ]
        lines += [f"| {name} | " + " | ".join(f"{v:.3f}" for v in error.loc[name]) + " |" for name in error.index]
        lines.append("| mean | " + " | ".join(f"{v:.3f}" for v in error.mean()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of h5ad files")
    parser.add_argument("--out", type=Path, default=Path("denoising.csv"))
    parser.add_argument("--protocols", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--datasets", nargs="+", help="default: all of a protocol")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    done = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=COLUMNS)
    finished = set(zip(done["protocol"], done["dataset"], done["seed"], strict=True))
    for seed in args.seeds:
        for protocol in args.protocols:
            for name in args.datasets or TASKS[protocol][1]:
                if (protocol, Path(name).stem, seed) not in finished:
                    rows = pd.DataFrame(run(args.data / f"{name}.h5ad", protocol, seed), columns=COLUMNS)
                    rows.to_csv(args.out, mode="a", header=not args.out.exists(), index=False)
    print(summary(pd.read_csv(args.out)))


if __name__ == "__main__":
    main()
