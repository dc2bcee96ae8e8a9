"""Gene selection and feature statistics."""

from scgpcl.pp._batches import BatchMoments, batch_moments
from scgpcl.pp._select import GeneFlavor, select_genes, seurat_dispersion
from scgpcl.pp._statistics import GeneStatistics, gene_statistics, library_sizes

__all__ = [
    "BatchMoments",
    "GeneFlavor",
    "GeneStatistics",
    "batch_moments",
    "gene_statistics",
    "library_sizes",
    "select_genes",
    "seurat_dispersion",
]
