"""Data sets that come with the package."""

from ._pbmc3k import pbmc3k

__all__ = ["pbmc3k"]
