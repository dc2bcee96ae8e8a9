"""Agreement between a clustering and known labels: pure functions on arrays."""

from ._agreement import ari, nmi
from ._matching import accuracy, macro_f1, match_clusters

__all__ = ["accuracy", "ari", "macro_f1", "match_clusters", "nmi"]
