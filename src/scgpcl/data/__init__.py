"""Counts as blocks of the cell-gene graph."""

from scgpcl.data._counts import CountSource, row_blocks
from scgpcl.data._datamodule import CollectionDataModule, DataModuleCounts, tensors_to_counts
from scgpcl.data._graph import BipartiteBatch, bipartite_batch
from scgpcl.data._hetero import to_hetero_data
from scgpcl.data._loader import EvenBatchSampler, bipartite_loader
from scgpcl.data._splitter import BipartiteSplitter

__all__ = [
    "BipartiteBatch",
    "BipartiteSplitter",
    "CollectionDataModule",
    "CountSource",
    "DataModuleCounts",
    "EvenBatchSampler",
    "bipartite_batch",
    "bipartite_loader",
    "row_blocks",
    "tensors_to_counts",
    "to_hetero_data",
]
