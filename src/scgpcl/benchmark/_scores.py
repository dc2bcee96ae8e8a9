"""Score one run, optionally with scib-metrics. No other module compares with the published types."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import silhouette_score

from scgpcl import metrics
from scgpcl._files import InputError
from scgpcl.benchmark._datasets import read_dataset
from scgpcl.benchmark._results import KEYS, Folder, Table, load_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scgpcl.benchmark._worker import Outcome

logger = logging.getLogger(__name__)

#: Maximum number of cells for which the silhouette is computed; more would take too long.
MAX_CELLS = 5000
BIO = ["silhouette_label", "clisi", "kmeans_nmi", "kmeans_ari", "leiden_nmi", "leiden_ari"]
BATCH = ["isolated_labels", "silhouette_batch", "ilisi", "kbet", "graph_connectivity", "pcr_comparison"]
N_NEIGHBORS = 90


def score(types: np.ndarray, outcome: Outcome) -> dict[str, float]:
    """Agreement with published types, and the silhouette of the types in the latent space."""
    return {
        "n_clusters": len(np.unique(outcome.labels)),
        "ari": metrics.ari(types, outcome.labels),
        "nmi": metrics.nmi(types, outcome.labels),
        "acc": metrics.accuracy(types, outcome.labels),
        "macro_f1": metrics.macro_f1(types, outcome.labels),
        "silhouette": silhouette(outcome.latent, types),
    }


def silhouette(latent: np.ndarray | None, types: np.ndarray) -> float:
    """Mean Euclidean silhouette of the types in the latent space (n_cells, n_latent).

    Larger data sets are subsampled to the same 5000 random cells. NaN without a latent space, or if there is only one
    type or every cell has its own.
    """
    if latent is None:
        return float("nan")
    if len(types) > MAX_CELLS:
        chosen = np.random.default_rng(0).choice(len(types), MAX_CELLS, replace=False)
        latent, types = latent[chosen], types[chosen]
    if not 1 < len(np.unique(types)) < len(types):
        return float("nan")
    return float(silhouette_score(latent, types))


def check_installed() -> None:
    """Require scib-metrics."""
    if find_spec("scib_metrics") is None:
        msg = "Expected scib-metrics, which `scib` needs, found none. Install it: pip install 'scgpcl[benchmark]'."
        raise InputError(msg)


def score_all(folder: Folder, datasets: Mapping[str, Path], *, labels: str, batch_key: str | None) -> None:
    """Write ``scib.csv``: one row for each run with a latent space; existing rows are kept."""
    columns = [*KEYS, *BIO, *(BATCH if batch_key else []), "error"]
    scored = Table(folder.path / "scib.csv", KEYS, columns, text=("dataset", "method", "error"))
    done = scored.done()
    table = folder.read()
    for name, runs in table[table["error"] == ""].groupby("dataset", sort=False):
        left = [run for run in runs[KEYS].itertuples(index=False, name=None) if run not in done]
        if not left or name not in datasets:
            continue
        dataset = read_dataset(datasets[str(name)], labels=labels, batch_key=batch_key)
        for run in left:
            latent = load_run(folder.path, *run).latent
            if latent is None:
                continue
            row = dict(zip(KEYS, run, strict=True)) | {"error": ""}
            try:
                row |= scib_scores(latent, dataset.types, dataset.batch, dataset.counts)
            except Exception as error:  # noqa: BLE001  (a failing score must not end a long benchmark)
                row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            scored.add([row])
            logger.info("%s / %s / seed %d: scib-metrics done.", *run)


def scib_scores(latent: np.ndarray, types: np.ndarray, batch: np.ndarray | None, counts: Any) -> dict[str, float]:
    """Scores of scib-metrics for latent vectors (n_cells, n_latent); higher is better for all of them.

    Conservation of the types (n_cells,), and with batches (n_cells,) also isolated labels and removal of batches, relative to the
    principal components of the counts (n_cells, n_genes).
    """
    import scib_metrics as scib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        neighbors = _neighbors(latent)
        near = neighbors.subset_neighbors(min(15, neighbors.n_neighbors))
        kmeans = scib.nmi_ari_cluster_labels_kmeans(latent, types)
        leiden = scib.nmi_ari_cluster_labels_leiden(near, types)
        scores = {
            "silhouette_label": scib.silhouette_label(latent, types),
            "clisi": scib.clisi_knn(neighbors, types),
            **{f"kmeans_{name}": value for name, value in kmeans.items()},
            **{f"leiden_{name}": value for name, value in leiden.items()},
        }
        if batch is not None:
            middle = neighbors.subset_neighbors(min(50, neighbors.n_neighbors))
            scores |= {
                "isolated_labels": scib.isolated_labels(latent, types, batch),
                "silhouette_batch": scib.silhouette_batch(latent, types, batch),
                "ilisi": scib.ilisi_knn(neighbors, batch),
                "kbet": scib.kbet_per_label(middle, batch, types),
                "graph_connectivity": scib.graph_connectivity(near, types),
                "pcr_comparison": scib.pcr_comparison(_components(counts), latent, batch, categorical=True),
            }
    return {name: float(value) for name, value in scores.items()}


def _neighbors(latent: np.ndarray) -> Any:
    """Exact neighbours, each cell first in its own row, in the format of scib-metrics."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(latent))).fit(latent)
    distances, indices = search.kneighbors(latent)
    return NeighborsResults(indices=indices, distances=distances.astype(np.float32))


def _components(counts: Any) -> np.ndarray:
    """50 principal components of all log-normalised genes, shape (n_cells, 50)."""
    import anndata as ad
    import scanpy as sc

    adata = ad.AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(50, *(n - 1 for n in adata.shape)), random_state=0)
    return adata.obsm["X_pca"]
