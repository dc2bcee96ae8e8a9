"""Two labelled data sets that are bundled with the package."""

from scgpcl.datasets._bundled import pbmc3k, worm_neurons

__all__ = ["pbmc3k", "worm_neurons"]
