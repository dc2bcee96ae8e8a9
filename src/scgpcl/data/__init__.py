"""Counts represented as blocks of the cell-gene graph."""

from scgpcl.data._cells import (
    BipartiteBatch,
    Cells,
    GeneMatch,
    bipartite_batch,
    concatenated,
    halves,
    of_genes,
    read_cells,
    read_rows,
    thinned,
)
from scgpcl.data._counts import MAX_COUNT, canonical, check_counts, check_key, counts_of, place_of, row_blocks
from scgpcl.data._datamodule import SPARE, CollectionDataModule, DataModuleCounts, tensors_to_counts
from scgpcl.data._hetero import to_hetero_data
from scgpcl.data._splitter import BipartiteSplitter, EvenBatchSampler, bipartite_loader

__all__ = ["CollectionDataModule", "to_hetero_data"]
