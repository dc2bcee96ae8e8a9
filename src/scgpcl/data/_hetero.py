"""Cell-gene graph in PyG's own format, for use outside this package."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch_geometric.data import HeteroData

from scgpcl import _keys
from scgpcl.data._counts import canonical, check_counts, counts_of


def to_hetero_data(adata: AnnData, *, layer: str | None = None) -> HeteroData:
    """Build the cell-gene graph of an AnnData, with an edge from a cell to every gene with a count above zero.

    Parameters
    ----------
    adata
        Counts of ``n_cells`` cells and ``n_genes`` genes, which are not changed.
    layer
        Layer with the counts. If ``None``, ``adata.X`` is used.

    Returns
    -------
    Graph with node types ``cell`` and ``gene`` (``num_nodes`` and ``name``), and edge types
    ``("cell", "expresses", "gene")`` and ``("gene", "rev_expresses", "cell")``, each with ``edge_index`` of shape
    (2, n_edges) and the counts as ``edge_attr`` of shape (n_edges, 1).

    Raises
    ------
    KeyError
        If the layer does not exist.
    TypeError
        If ``adata`` is not an AnnData, or if the storage of the counts is not supported.
    ValueError
        If the layer does not contain raw counts, or if a cell has no counts.
    """
    if not isinstance(adata, AnnData):
        msg = f"Expected `adata` to be an AnnData, found {type(adata).__name__}. Create one: `anndata.AnnData(counts)`."
        raise TypeError(msg)
    x = counts_of(adata, layer)
    check_counts(x, layer, min_cells=1)
    coo = sp.coo_matrix(x if isinstance(x, np.ndarray | sp.csr_matrix) else canonical(x[:]))  # read from disk
    stored = coo.data != 0
    edges = torch.from_numpy(np.vstack([coo.row[stored], coo.col[stored]]).astype(np.int64))
    counts = torch.from_numpy(coo.data[stored].astype(np.float32)).unsqueeze(1)
    graph = HeteroData()
    for node, names in ((_keys.CELL, adata.obs_names), (_keys.GENE, adata.var_names)):
        graph[node].num_nodes = len(names)
        graph[node].name = list(names)
    graph[_keys.CELL_TO_GENE].edge_index = edges
    graph[_keys.CELL_TO_GENE].edge_attr = counts
    graph[_keys.GENE_TO_CELL].edge_index = edges.flip(0)
    graph[_keys.GENE_TO_CELL].edge_attr = counts
    return graph
