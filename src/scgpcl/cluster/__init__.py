"""Clustering of latent vectors: functions on tensors and arrays."""

from scgpcl.cluster._agreement import adjusted_rand
from scgpcl.cluster._init import Start, cosine_silhouette, select_start
from scgpcl.cluster._kmeans import KMeansResult, KMeansRuns, kmeans, kmeans_runs, nearest
from scgpcl.cluster._n_clusters import leiden_n_clusters

__all__ = [
    "KMeansResult",
    "KMeansRuns",
    "Start",
    "adjusted_rand",
    "cosine_silhouette",
    "kmeans",
    "kmeans_runs",
    "leiden_n_clusters",
    "nearest",
    "select_start",
]
