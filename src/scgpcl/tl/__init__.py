"""Tools to rank marker genes and to name clusters. They do not change ``X``, ``raw`` or ``layers``."""

from scgpcl.tl._annotation import apply_annotation
from scgpcl.tl._names import name_clusters
from scgpcl.tl._ranking import rank_markers, top_markers
from scgpcl.tl._sources import marker_sets

__all__ = ["apply_annotation", "marker_sets", "name_clusters", "rank_markers", "top_markers"]
