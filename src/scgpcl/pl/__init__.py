"""Plots of a trained model and its clusters. Every function returns matplotlib axes and shows nothing by itself."""

from ._cluster_sizes import cluster_sizes
from ._comparison import comparison
from ._history import history
from ._marker_overlap import marker_overlap

__all__ = ["cluster_sizes", "comparison", "history", "marker_overlap"]
