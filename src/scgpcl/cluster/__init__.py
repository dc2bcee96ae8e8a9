"""Functions that cluster latent vectors, given as tensors or arrays."""

from scgpcl.cluster._branches import Branches, calibrated, fit_branches
from scgpcl.cluster._consensus import Evidence, targets
from scgpcl.cluster._discriminants import enough_labels, type_axes
from scgpcl.cluster._gap import gap
from scgpcl.cluster._kmeans import KMeansResult, KMeansRuns, add_rows, kmeans, kmeans_runs, nearest
from scgpcl.cluster._n_clusters import MAJORITY, NClusters, also_stable, estimate_n_clusters, runners_up
from scgpcl.cluster._named import NamedSupport, named_support
from scgpcl.cluster._stability import SplitTest, any_apart, jaccard, split_test
from scgpcl.cluster._tree import (
    NUMBERED,
    Grown,
    Tree,
    grow,
    merged_name,
    most_leaves,
    name_order,
    part_names,
    support_of,
)

__all__: list[str] = []
