"""Gene selection, moments of the features, and batch effects."""

from scgpcl.pp._axes import FeatureAxes, principal_axes, scores_along
from scgpcl.pp._batches import batch_moments, fit_batches
from scgpcl.pp._features import GeneFlavor, fit_features
from scgpcl.pp._genes import gene_statistics, library_sizes, select_genes, seurat_dispersion
from scgpcl.pp._pairs import holm, pair_test

__all__: list[str] = []
