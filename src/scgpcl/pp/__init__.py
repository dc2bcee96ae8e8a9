"""Choice of genes, moments of the features, and batch effects."""

from scgpcl.pp._axes import N_AXES, principal_axes
from scgpcl.pp._batches import batch_moments, fit_batches
from scgpcl.pp._genes import GeneFlavor, fit_features, gene_statistics, library_sizes, select_genes, seurat_dispersion

__all__: list[str] = []
