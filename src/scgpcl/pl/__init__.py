"""Plots of a trained model and its clusters. Every function returns matplotlib axes and shows nothing by itself."""

from ._cluster_sizes import cluster_sizes
from ._comparison import comparison
from ._confidence import confidence
from ._history import history
from ._latent import latent
from ._marker_overlap import marker_overlap
from ._markers import markers
from ._n_clusters import n_clusters

__all__ = [
    "cluster_sizes",
    "comparison",
    "confidence",
    "history",
    "latent",
    "marker_overlap",
    "markers",
    "n_clusters",
]
