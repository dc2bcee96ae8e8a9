"""Clustering of latent vectors: functions on tensors and arrays."""

from scgpcl.cluster._agreement import adjusted_rand
from scgpcl.cluster._init import Start, cosine_silhouette, select_start
from scgpcl.cluster._kmeans import KMeansResult, KMeansRuns, kmeans, kmeans_runs, nearest
from scgpcl.cluster._n_clusters import NClusters, estimate_n_clusters
from scgpcl.cluster._neighbors import neighborhood

__all__ = [
    "KMeansResult",
    "KMeansRuns",
    "NClusters",
    "Start",
    "adjusted_rand",
    "cosine_silhouette",
    "estimate_n_clusters",
    "kmeans",
    "kmeans_runs",
    "nearest",
    "neighborhood",
    "select_start",
]
