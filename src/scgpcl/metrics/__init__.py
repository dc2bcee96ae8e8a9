"""Agreement between a clustering and known labels: functions on arrays, and one on the expression of marker genes."""

from ._agreement import ari, nmi
from ._markers import MarkerOverlap, marker_overlap
from ._matching import accuracy, macro_f1, match_clusters

__all__ = ["MarkerOverlap", "accuracy", "ari", "macro_f1", "marker_overlap", "match_clusters", "nmi"]
