"""Figures of a trained model and its clusters. All functions return matplotlib axes and do not show the figure."""

from scgpcl.pl._clusters import cluster_sizes, confidence, gene_attributions
from scgpcl.pl._dotplot import markers
from scgpcl.pl._heatmaps import comparison, marker_overlap
from scgpcl.pl._latent import latent
from scgpcl.pl._levels import levels, tree
from scgpcl.pl._stability import stability
from scgpcl.pl._training import history, n_clusters

__all__ = [
    "cluster_sizes",
    "comparison",
    "confidence",
    "gene_attributions",
    "history",
    "latent",
    "levels",
    "marker_overlap",
    "markers",
    "n_clusters",
    "stability",
    "tree",
]
