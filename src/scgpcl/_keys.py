"""Names of all AnnData keys, registry entries and metrics that the package uses, each defined once."""

from typing import Final

# written to AnnData; ``key_added="scgpcl"`` is the stem of all of them
STEM: Final = "scgpcl"
LATENT: Final = "X_scgpcl"
CLUSTER: Final = "scgpcl_cluster"
PROBABILITY: Final = "scgpcl_probability"
CONFIDENCE: Final = "scgpcl_confidence"
SELECTED: Final = "scgpcl_selected"
UNS: Final = "scgpcl"
# entries of ``uns``: the table of cluster sizes, other stable numbers of clusters, and the table of
# ``get_cluster_stability``
SIZES: Final = "cluster_sizes"
ALSO_STABLE: Final = "also_stable"
STABILITY: Final = "stability"
#: Columns of the stability table: Jaccard indices for thinned counts, halves of the molecules and subsamples of cells.
STABILITIES: Final = ("thinned", "halves", "subsampled")
MARKERS: Final = "scgpcl_markers"
NAME: Final = "scgpcl_name"
#: Prefix of the columns for levels of the tree, which is followed by the number of clusters.
LEVEL: Final = "scgpcl_level_"

# scanpy's maps, under the names that scanpy uses
UMAP: Final = "X_umap"
TSNE: Final = "X_tsne"

# name of cells whose confidence is below the minimum, if one is given
UNASSIGNED: Final = "unassigned"
#: Prefix of the names of clusters that match none of the labelled types.
NEW: Final = "new"

# node and edge types of the graph, in PyG's vocabulary
CELL: Final = "cell"
GENE: Final = "gene"
CELL_TO_GENE: Final = (CELL, "expresses", GENE)
GENE_TO_CELL: Final = (GENE, "rev_expresses", CELL)

# metrics in ``history_``
STAGE: Final = "stage"
TRAIN_LOSS: Final = "train_loss_epoch"
VALIDATION_LOSS: Final = "validation_loss"
RECONSTRUCTION_LOSS: Final = "reconstruction_loss"
INSTANCE_LOSS: Final = "instance_loss"
PROTOTYPE_LOSS: Final = "prototype_loss"
LABEL_LOSS: Final = "label_loss"
CLUSTERING_LOSS: Final = "clustering_loss"
LABEL_AGREEMENT: Final = "label_agreement"
LABEL_CHANGE: Final = "label_change"
