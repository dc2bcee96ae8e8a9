import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scgpcl
from scgpcl.data import Cells, EvenBatchSampler, bipartite_loader, row_blocks


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "backed"])
@pytest.mark.parametrize("columns", [None, [3, 1, 7]])
def test_rows_come_in_the_order_asked_for(adata, tmp_path, form, columns):
    dense = adata.X.toarray()
    x = {"csr": adata.X, "csc": adata.X.tocsc(), "dense": dense, "backed": None}[form]
    if form == "backed":
        adata.write_h5ad(tmp_path / "a.h5ad")
        x = ad.read_h5ad(tmp_path / "a.h5ad", backed="r").X
    source = Cells(x, np.ones(len(dense)), None if columns is None else np.array(columns))
    index = np.array([9, 3, 7, 3, 110])
    wanted = dense[index] if columns is None else dense[np.ix_(index, columns)]
    np.testing.assert_array_equal(source.rows(index).toarray(), wanted)
    assert len(source) == len(dense)


def test_whole_csr_is_not_copied(counts):
    source = Cells(counts, np.ones(counts.shape[0]))
    assert np.shares_memory(source._x.data, counts.data)
    before = counts.copy()
    for _ in bipartite_loader(source, np.arange(counts.shape[0]), batch_size=50, seed=0):
        pass
    assert (before != counts).nnz == 0


def test_batches_are_even_and_shuffled_by_the_seed():
    sampler = EvenBatchSampler(np.arange(1025), 256, seed=1)
    first, second = [np.concatenate(list(sampler)) for _ in range(2)]
    assert [len(b) for b in sampler] == [205] * 5
    assert len(sampler) == 5
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.arange(1025))
    again = EvenBatchSampler(np.arange(1025), 256, seed=1)
    np.testing.assert_array_equal(first, np.concatenate(list(again)))
    plain = EvenBatchSampler(np.array([5, 2, 9]), 2)
    np.testing.assert_array_equal(np.concatenate(list(plain)), [5, 2, 9])


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "sizes"), [(1, 2, [1]), (3, 2, [3]), (4, 2, [2, 2]), (5, 2, [3, 2]), (6, 2, [2, 2, 2])]
)
def test_no_cell_is_alone_but_a_single_one(n_cells, batch_size, sizes):
    assert [len(batch) for batch in EvenBatchSampler(np.arange(n_cells), batch_size)] == sizes
    if sizes == [2, 2]:  # two processes have one each
        parts = [list(EvenBatchSampler(np.arange(4), batch_size, rank=rank, n_ranks=2)) for rank in (0, 1)]
        assert [[len(batch) for batch in part] for part in parts] == [[2], [2]]


def test_loader_leaves_the_global_state(counts):
    before = torch.random.get_rng_state()
    source = Cells(counts, np.ones(counts.shape[0]))
    batches = list(bipartite_loader(source, np.arange(counts.shape[0]), batch_size=64, seed=0))
    assert torch.equal(before, torch.random.get_rng_state())
    assert sum(len(b.counts) for b in batches) == counts.nnz


def test_row_blocks_cover_all_rows(counts):
    for x in (counts, counts.tocsc(), counts.toarray()):
        assert (sp.vstack(list(row_blocks(x, n_rows=37))) != counts).nnz == 0


def test_hetero_data_names_the_layers_that_there_are(adata):
    adata.layers["counts"] = adata.X.copy()
    with pytest.raises(KeyError, match=r"found layers \['counts'\]"):
        scgpcl.data.to_hetero_data(adata, layer="raw")


def test_hetero_data_has_both_directions_and_validates(adata):
    graph = scgpcl.data.to_hetero_data(adata)
    assert graph.validate()
    assert graph.edge_types == [("cell", "expresses", "gene"), ("gene", "rev_expresses", "cell")]
    edges, counts = graph["cell", "expresses", "gene"].edge_index, graph["cell", "expresses", "gene"].edge_attr
    np.testing.assert_array_equal(adata.X.toarray()[tuple(edges.numpy())], counts[:, 0])
    assert edges.shape[1] == adata.X.nnz
    torch.testing.assert_close(graph["gene", "rev_expresses", "cell"].edge_index, edges.flip(0))


def swapped(x):
    """The same counts in the other byte order."""
    x = x.copy()
    x.data = x.data.astype(x.dtype.newbyteorder(">"))
    return x


STORED = {
    "dense": lambda x: x.toarray(),
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "big-endian": swapped,
    "integers": lambda x: x.astype(np.int32),
}


@pytest.mark.parametrize("form", [*STORED, "on disk"])
def test_hetero_data_does_not_depend_on_the_storage(adata, form, tmp_path):
    wanted = scgpcl.data.to_hetero_data(adata)
    if form == "on disk":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        found = scgpcl.data.to_hetero_data(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    else:
        adata.layers["here"] = STORED[form](adata.X)
        del adata.X
        found = scgpcl.data.to_hetero_data(adata, layer="here")
    for edge in wanted.edge_types:
        assert torch.equal(found[edge].edge_index, wanted[edge].edge_index)
        assert torch.equal(found[edge].edge_attr, wanted[edge].edge_attr)


def test_hetero_data_is_of_counts(adata):
    with pytest.raises(TypeError, match="found csr_matrix"):
        scgpcl.data.to_hetero_data(adata.X)
    adata.layers["scaled"] = adata.X.toarray() - 1.0
    with pytest.raises(ValueError, match="Scaled or centred data is not supported"):
        scgpcl.data.to_hetero_data(adata, layer="scaled")
    del adata.X
    with pytest.raises(ValueError, match=r"raw counts in `adata.X`, found None"):
        scgpcl.data.to_hetero_data(adata)


def test_parts_of_a_split_hold_each_cell_once(counts):
    source = Cells(counts, np.ones(counts.shape[0]))
    splitter = scgpcl.data.BipartiteSplitter(source, seed=0, batch_size=32, train_size=0.6, validation_size=0.25)
    parts = [splitter.train_idx, splitter.val_idx, splitter.test_idx]
    assert [len(part) for part in parts] == [72, 30, 18]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(120))
    loaders = splitter.train_dataloader(), splitter.val_dataloader(), splitter.test_dataloader()
    for part, loader in zip(parts, loaders, strict=True):
        found = np.concatenate([batch.cell_index for batch in loader])
        np.testing.assert_array_equal(np.sort(found), part)
