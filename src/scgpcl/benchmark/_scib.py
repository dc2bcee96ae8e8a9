"""Scores of scib-metrics on the latent spaces of a benchmark."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl._files import InputError, replacing

from ._datasets import Dataset, read_dataset
from ._results import KEYS, Folder, load_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

BIO = ["silhouette_label", "clisi", "kmeans_nmi", "kmeans_ari", "leiden_nmi", "leiden_ari"]
BATCH = ["isolated_labels", "silhouette_batch", "ilisi", "kbet", "graph_connectivity", "pcr_comparison"]
N_NEIGHBORS = 90


def check_installed() -> None:
    """Require scib-metrics.

    Raises
    ------
    InputError
        If it is not installed.
    """
    if find_spec("scib_metrics") is None:
        msg = "Expected scib-metrics, which `scib` needs, found none. Install it: pip install 'scgpcl[benchmark]'."
        raise InputError(msg)


def score_all(folder: Folder, datasets: Mapping[str, Path], *, labels: str, batch_key: str | None) -> None:
    """Write `scib.csv`: one row for each run with a latent space; rows that are there stay.

    Parameters
    ----------
    folder
        Results of `run`.
    datasets
        Files by name of the set.
    labels
        Column of `obs` with the published types.
    batch_key
        Column of `obs` with batches, which the scores of batch removal and of isolated labels need.
    """
    path = folder.path / "scib.csv"
    columns = [*KEYS, *BIO, *(BATCH if batch_key else []), "error"]
    rows = _read(path) if path.exists() else None
    done = set() if rows is None else set(rows[KEYS].itertuples(index=False, name=None))
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
            new = pd.DataFrame([dict(zip(KEYS, run, strict=True)) | _row(latent, dataset)], columns=columns)
            rows = new if rows is None else pd.concat([rows, new], ignore_index=True)
            with replacing(path) as temporary:
                rows.to_csv(temporary, index=False, float_format="%.6g")
            logger.info("%s / %s / seed %d: scib-metrics done.", *run)


def _read(path: Path) -> pd.DataFrame:
    text = {"dataset": str, "method": str, "error": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={name: [""] for name in BIO + BATCH})


def _row(latent: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    try:
        return {**scib_scores(latent, dataset.types, dataset.batch, dataset.counts), "error": ""}
    except Exception as error:  # noqa: BLE001  (a score that fails must not end a long run)
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def scib_scores(latent: np.ndarray, types: np.ndarray, batch: np.ndarray | None, counts: Any) -> dict[str, float]:
    """Scores of scib-metrics; all are better when larger.

    Parameters
    ----------
    latent
        Cell vectors, shape (n_cells, n_latent).
    types
        Published types, shape (n_cells,).
    batch
        Batches, shape (n_cells,); `None` leaves out what needs them.
    counts
        Counts, shape (n_cells, n_genes), whose principal components are the space before batch removal.

    Returns
    -------
    Conservation of the types (`silhouette_label`, `clisi`, `kmeans_nmi`, ...), and with batches also `isolated_labels`
    and the removal of batches (`silhouette_batch`, `ilisi`, `kbet`, `graph_connectivity`, `pcr_comparison`).
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
    """Exact neighbours, the cell itself first, in the package's own form."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(latent))).fit(latent)
    distances, indices = search.kneighbors(latent)
    return NeighborsResults(indices=indices, distances=distances.astype(np.float32))


def _components(counts: Any) -> np.ndarray:
    """50 principal components of all genes, log-normalised."""
    import anndata as ad
    import scanpy as sc

    adata = ad.AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(50, *(n - 1 for n in adata.shape)), random_state=0)
    return adata.obsm["X_pca"]
