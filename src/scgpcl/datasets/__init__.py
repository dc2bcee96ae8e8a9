"""Labelled data sets: two that come with the package, and those that are downloaded."""

from ._bundled import pbmc3k, worm_neurons
from ._download import DownloadError
from ._load import available, load

__all__ = ["DownloadError", "available", "load", "pbmc3k", "worm_neurons"]
