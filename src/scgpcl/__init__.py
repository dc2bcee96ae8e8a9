"""Cluster single-cell RNA-seq counts with graph prototypical contrastive learning."""

from importlib.metadata import version

from scgpcl import cluster, data, datasets, metrics, nn, pl, pp, presets, train
from scgpcl.model import SCGPCL
from scgpcl.module import SCGPCLModule

__all__ = [
    "SCGPCL",
    "SCGPCLModule",
    "cluster",
    "data",
    "datasets",
    "metrics",
    "nn",
    "pl",
    "pp",
    "presets",
    "train",
]

__version__ = version("scgpcl")
