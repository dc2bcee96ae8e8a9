"""Plots of a trained model and its clusters. Every function returns matplotlib axes and shows nothing by itself."""

from ._cluster_sizes import cluster_sizes
from ._comparison import comparison
from ._history import history
from ._latent import latent
from ._markers import markers

__all__ = ["cluster_sizes", "comparison", "history", "latent", "markers"]
