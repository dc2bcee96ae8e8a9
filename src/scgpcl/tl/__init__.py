"""Tools for clusters: marker genes and names. Leaves `X`, `raw` and `layers` as they are."""

from ._markers import rank_markers, top_markers
from ._names import name_clusters

__all__ = ["name_clusters", "rank_markers", "top_markers"]
