"""Score one run, optionally with scib-metrics. No other module compares clusters with the published types."""

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

#: Maximum number of cells used to compute the silhouette. More cells would take too long.
MAX_CELLS = 5000
BIO = ["silhouette_label", "clisi", "kmeans_nmi", "kmeans_ari", "leiden_nmi", "leiden_ari"]
BATCH = ["isolated_labels", "silhouette_batch", "ilisi", "kbet", "graph_connectivity", "pcr_comparison"]
N_NEIGHBORS = 90


def score(types: np.ndarray, outcome: Outcome) -> dict[str, float]:
    """Compute the agreement with published types, and the silhouette of the types in the latent space."""
    return {
        "n_clusters": len(np.unique(outcome.labels)),
        "ari": metrics.ari(types, outcome.labels),
        "nmi": metrics.nmi(types, outcome.labels),
        "acc": metrics.accuracy(types, outcome.labels),
        "macro_f1": metrics.macro_f1(types, outcome.labels),
        "silhouette": silhouette(outcome.latent, types),
    }


def silhouette(latent: np.ndarray | None, types: np.ndarray) -> float:
    """Compute the mean Euclidean silhouette of the types in the latent space (n_cells, n_latent).

    Larger data sets are subsampled to the same 5000 random cells. The result is NaN if there is no latent space, if
    there is only one type, or if every cell has its own type.
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
    """Check that scib-metrics is installed."""
    if find_spec("scib_metrics") is None:
        msg = "Expected scib-metrics, which `scib` needs, found none. Install it: pip install 'scgpcl[benchmark]'."
        raise InputError(msg)


def score_all(folder: Folder, datasets: Mapping[str, Path], *, labels: str, batch_key: str | None) -> None:
    """Write ``scib.csv`` with one row for each run that has a latent space. Existing rows are kept."""
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
    """Compute the scores of scib-metrics for latent vectors (n_cells, n_latent). Higher is better for all of them.

    The scores measure how well the types (n_cells,) are conserved. If there are batches (n_cells,), they also measure
    isolated labels and the removal of batches, relative to the principal components of the counts (n_cells, n_genes).
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
    """Find exact neighbours in the format of scib-metrics, where each cell comes first in its own row."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(latent))).fit(latent)
    distances, indices = search.kneighbors(latent)
    return NeighborsResults(indices=indices, distances=distances.astype(np.float32))


def _components(counts: Any) -> np.ndarray:
    """Compute 50 principal components of all log-normalised genes, shape (n_cells, 50)."""
    import anndata as ad
    import scanpy as sc

    adata = ad.AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(50, *(n - 1 for n in adata.shape)), random_state=0)
    return adata.obsm["X_pca"]
