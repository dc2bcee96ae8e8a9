"""Clustering of latent vectors: functions on tensors and arrays."""

from scgpcl.cluster._agreement import adjusted_rand
from scgpcl.cluster._kmeans import KMeansResult, assign, kmeans
from scgpcl.cluster._n_clusters import leiden_n_clusters

__all__ = ["KMeansResult", "adjusted_rand", "assign", "kmeans", "leiden_n_clusters"]
