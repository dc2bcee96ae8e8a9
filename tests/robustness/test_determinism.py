"""What may not change the result: threads, saving, order and names of cells, and how the counts are stored."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scgpcl

RUN = {"pretrain_max_epochs": 3, "cluster_max_epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def reference(cells, build):
    return build(cells(), train=RUN)


def test_one_and_two_threads_give_the_same_labels(cells, build):
    # sums are rounded differently, and what training makes of that grows with the steps of the encoder
    run = {**RUN, "pretrain_plan_kwargs": {"encoder_lr": 0.3}}
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            model = build(cells(), train=run)
            found.append((model.predict(), model.get_latent_representation()))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    # the losses of pre-training do not see a constant added to all cells: its gradient is rounding, which Adam enlarges
    one, two = (latent - latent.mean(0) for _, latent in found)
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_getters_do_not_depend_on_threads(reference, cells):
    query = cells(seed=1)
    wanted = reference.get_latent_representation(query)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(reference.get_latent_representation(query), wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("safe", [False, True])
def test_saved_and_loaded_models_predict_bit_for_bit(reference, cells, tmp_path, safe):
    query = cells(seed=1)
    reference.save(tmp_path / "m", safe=safe)
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    for name in ("get_latent_representation", "predict", "get_normalized_expression", "posterior_predictive_sample"):
        ours, theirs = getattr(reference, name)(query), getattr(loaded, name)(query)
        if name == "posterior_predictive_sample":
            ours, theirs = ours.todense(), theirs.todense()
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_order_names_and_company_of_cells_do_not_matter(reference, cells):
    query = cells(seed=1)
    wanted = reference.predict(query, soft=True).to_numpy()
    order = np.random.default_rng(0).permutation(query.n_obs)
    moved = query[order].copy()
    moved.obs_names = [f"<{i}>/../{'x' * 300}" for i in range(query.n_obs)]
    np.testing.assert_array_equal(reference.predict(moved, soft=True).to_numpy(), wanted[order])
    some = order[:7]
    np.testing.assert_array_equal(reference.predict(query[some].copy(), soft=True).to_numpy(), wanted[some])
    np.testing.assert_array_equal(reference.predict(query, indices=some, soft=True).to_numpy(), wanted[some])
    np.testing.assert_array_equal(reference.predict(query, batch_size=5, soft=True).to_numpy(), wanted)


def dense(adata, folder):
    adata.X = adata.X.toarray()
    return adata


def fortran(adata, folder):
    adata.X = np.asfortranarray(adata.X.toarray())
    return adata


def csc(adata, folder):
    adata.X = adata.X.tocsc()
    return adata


def integers(adata, folder):
    adata.X = adata.X.astype(np.int64)
    return adata


def doubles(adata, folder):
    adata.X = adata.X.astype(np.float64)
    return adata


def unsorted(adata, folder):
    """Each row back to front, as some files have it."""
    x = adata.X.tocsr()
    parts = [np.arange(x.indptr[i], x.indptr[i + 1])[::-1] for i in range(x.shape[0])]
    turned = np.concatenate(parts)
    adata.X = sp.csr_matrix((x.data[turned], x.indices[turned], x.indptr), shape=x.shape)
    return adata


def with_zeros(adata, folder):
    """Stored zeros."""
    x = sp.csr_matrix(np.ones(adata.shape, dtype=np.float32))
    x.data[:] = adata.X.toarray().ravel()
    adata.X = x
    return adata


def in_parts(adata, folder):
    """Entries above 1 in two parts, as some tools write them."""
    coo = adata.X.tocoo()
    big = coo.data > 1
    data = np.concatenate([np.where(big, coo.data - 1, coo.data), np.ones(big.sum(), np.float32)])
    row, column = np.concatenate([coo.row, coo.row[big]]), np.concatenate([coo.col, coo.col[big]])
    order = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=adata.n_obs))])
    adata.X = sp.csr_matrix((data[order], column[order], indptr), shape=adata.shape)
    return adata


def in_parts_backed(adata, folder):
    return backed(in_parts(adata, folder), folder)


def sparse_array(adata, folder):
    adata.X = sp.csr_array(adata.X)
    return adata


def sparse_array_of_columns(adata, folder):
    adata.X = sp.csc_array(adata.X)
    return adata


def big_endian(adata, folder):
    adata.X.data = adata.X.data.astype(">f4")
    return adata


def big_endian_dense(adata, folder):
    adata.X = adata.X.toarray().astype(">i4")
    return adata


def bytes_of_counts(adata, folder):
    adata.X = adata.X.astype(np.uint16)
    return adata


def wide_indices(adata, folder):
    x = adata.X.copy()
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    adata.X = x
    return adata


def copied_view(adata, folder):
    twice = ad.concat([adata, adata], index_unique="-")
    return twice[: adata.n_obs].copy()


def backed(adata, folder):
    adata.write_h5ad(folder / "cells.h5ad")
    return ad.read_h5ad(folder / "cells.h5ad", backed="r")


def backed_dense(adata, folder):
    adata.X = adata.X.toarray()
    return backed(adata, folder)


def read_again(adata, folder):
    adata.write_h5ad(folder / "cells.h5ad", compression="gzip")
    return ad.read_h5ad(folder / "cells.h5ad")


def in_a_layer(adata, folder):
    adata.layers["counts"] = adata.X
    adata.X = None
    return adata


STORAGES = [
    dense, fortran, csc, integers, doubles, unsorted, with_zeros, copied_view, backed, read_again, in_a_layer,
    in_parts, in_parts_backed, sparse_array, sparse_array_of_columns, big_endian, big_endian_dense, bytes_of_counts,
    wide_indices,
]  # fmt: skip


@pytest.mark.parametrize("storage", STORAGES)
def test_storage_does_not_matter(cells, build, reference, tmp_path, storage):
    adata = storage(cells(), tmp_path)
    layer = "counts" if storage is in_a_layer else None
    model = build(adata, train=RUN, setup={"layer": layer})
    np.testing.assert_array_equal(model.predict(), reference.predict())
    np.testing.assert_array_equal(model.get_latent_representation(), reference.get_latent_representation())
    if layer is None:  # new cells may be stored alike
        (tmp_path / "query").mkdir()
        query = storage(cells(seed=1), tmp_path / "query")
        np.testing.assert_array_equal(reference.predict(query, soft=True), reference.predict(cells(seed=1), soft=True))
        if query.isbacked:
            query.file.close()
    if adata.isbacked:
        adata.file.close()


def test_files_that_are_read_as_sparse_arrays(cells, build, reference, tmp_path):
    with ad.settings.override(use_sparse_array_on_read=True):
        for adata in (backed(cells(), tmp_path), ad.read_h5ad(tmp_path / "cells.h5ad")):
            model = build(adata, train=RUN)
            np.testing.assert_array_equal(model.get_latent_representation(), reference.get_latent_representation())
            if adata.isbacked:
                adata.file.close()


def test_a_dense_file_is_read_or_refused_with_a_hint(cells, build, reference, tmp_path):
    adata = backed_dense(cells(), tmp_path)
    with pytest.raises(TypeError, match="Expected adata.X to be a CSR matrix or a numpy array, found Dataset. Convert"):
        build(adata, train=RUN)
    adata.file.close()
