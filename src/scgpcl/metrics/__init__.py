"""Agreement between a clustering and known labels, on arrays or on the marker genes of an AnnData."""

from scgpcl.metrics._marker_overlap import MarkerOverlap, marker_overlap
from scgpcl.metrics._partitions import accuracy, ari, macro_f1, match_clusters, nmi

__all__ = ["MarkerOverlap", "accuracy", "ari", "macro_f1", "marker_overlap", "match_clusters", "nmi"]
