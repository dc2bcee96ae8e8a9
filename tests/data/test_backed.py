"""Counts on disk: the same rows and results as in memory."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scgpcl
from scgpcl.data import Cells, _cells

TRAIN = {"pretrain_max_epochs": 2, "cluster_max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def path(adata, tmp_path):
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "counts.h5ad")
    return tmp_path / "counts.h5ad"


@pytest.mark.parametrize(
    "index", [[5, 6, 7, 8], [8, 2, 5], [3, 3, 1], [], [4]], ids=["in a row", "any order", "repeated", "none", "one"]
)
@pytest.mark.parametrize("columns", [None, [4, 2, 40]])
def test_rows_are_those_of_memory_in_the_order_asked_for(path, index, columns):
    index, columns = np.array(index, dtype=int), None if columns is None else np.array(columns)
    backed = ad.read_h5ad(path, backed="r")
    memory = sp.csr_matrix(ad.read_h5ad(path).X).toarray()
    size = np.ones(len(memory))
    wanted = memory[index] if columns is None else memory[index][:, columns]
    for x in (backed.X, sp.csr_matrix(memory)):
        np.testing.assert_array_equal(Cells(x, size, columns).rows(index).toarray(), wanted)
    backed.file.close()


def test_training_and_getters_equal_those_in_memory(path, fit):
    models = [fit(ad.read_h5ad(path, **mode), train=TRAIN, seed=3) for mode in ({}, {"backed": "r"})]
    memory, backed = (model.get_latent_representation() for model in models)
    np.testing.assert_array_equal(memory, backed)
    np.testing.assert_array_equal(models[0].predict(), models[1].predict())
    order = np.array([9, 3, 50, 3])
    np.testing.assert_array_equal(models[1].get_latent_representation(indices=order), backed[order])


def write_large(path, n_cells, n_genes, per_cell):
    """Counts of three groups with the same number of genes in every cell, made without a dense array."""
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=(n_cells, 1), dtype=np.int32)
    genes = np.arange(0, n_genes, n_genes // per_cell, dtype=np.int32) + group
    values = np.resize((1 + rng.poisson(0.5, 100_003)).astype(np.float32), genes.size)
    indptr = np.arange(n_cells + 1, dtype=np.int64) * per_cell
    ad.AnnData(sp.csr_matrix((values, genes.ravel(), indptr), shape=(n_cells, n_genes))).write_h5ad(path)
    return values.nbytes + genes.nbytes


CAPPED = """
    import resource, sys, warnings
    warnings.simplefilter("ignore")
    from pathlib import Path
    import anndata, numpy
    import scgpcl

    def train(adata):
        scgpcl.SCGPCL.setup_anndata(adata)
        model = scgpcl.SCGPCL(adata, 3, n_top_genes=100, gene_flavor="pearson_residuals", n_hidden=8, n_latent=4, start="random")
        model.train(
            pretrain_max_epochs=1, cluster_max_epochs=1, accelerator="cpu", enable_progress_bar=False, batch_size=2048,
            pretrain_plan_kwargs={"n_neighbors": 0},
        )
        return len(model.predict())

    path, extra = sys.argv[1], int(sys.argv[2])
    train(anndata.AnnData(numpy.ones((30, 3000), dtype="float32")))  # imports and threads are not counted
    data = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (data + extra, data + extra))
    try:
        train(anndata.read_h5ad(path))
    except MemoryError:
        print("out of memory")
    print(train(anndata.read_h5ad(path, backed="r")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the cap is Linux's")
def test_data_larger_than_the_memory_allowed_is_trained_on(tmp_path):
    """A process that may take less memory than the counts need, beyond what it has, trains from disk only."""
    n_cells = 65_000
    stored = write_large(tmp_path / "large.h5ad", n_cells, 3_000, 600)
    cap = 230 << 20
    assert cap < 0.8 * stored
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CAPPED), str(tmp_path / "large.h5ad"), str(cap)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(scgpcl.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",  # glibc would keep, and Linux count, what is free again
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == ["out of memory", str(n_cells)]


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("layer", [None, "counts"])
def test_zarr_on_disk_trains_like_memory(adata, fit, tmp_path, layer):
    zarr = pytest.importorskip("zarr")
    adata.X = sp.csr_matrix(adata.X)
    adata.layers["counts"] = adata.X.copy()
    adata.write_zarr(tmp_path / "counts.zarr")
    group = zarr.open(tmp_path / "counts.zarr", mode="r")
    counts = ad.io.sparse_dataset(group["X" if layer is None else f"layers/{layer}"])
    disk = ad.AnnData(
        counts if layer is None else None,
        obs=ad.io.read_elem(group["obs"]),
        var=ad.io.read_elem(group["var"]),
        layers={} if layer is None else {layer: counts},
    )
    models = [fit(cells, setup={"layer": layer}, train=TRAIN, seed=3) for cells in (adata, disk)]
    np.testing.assert_array_equal(*(model.get_latent_representation() for model in models))
    np.testing.assert_array_equal(
        models[1].get_latent_representation(indices=[9, 3]), models[0].get_latent_representation()[[9, 3]]
    )


def test_many_rows_are_read_in_blocks(path, monkeypatch):
    """Only a block of rows of a file has all its genes in memory."""
    monkeypatch.setattr(_cells, "BLOCK_ROWS", 7)
    backed = ad.read_h5ad(path, backed="r")
    source = Cells(backed.X, np.ones(120), np.array([4, 2, 40]))
    index = np.random.default_rng(0).integers(120, size=50)
    taken = []
    read = _cells._read_block
    monkeypatch.setattr(_cells, "_read_block", lambda x, rows, *more: taken.append(len(rows)) or read(x, rows, *more))
    np.testing.assert_array_equal(source.rows(index).toarray(), ad.read_h5ad(path).X[index][:, [4, 2, 40]].toarray())
    assert max(taken) == 7
    assert sum(taken) == len(set(index.tolist()))
    backed.file.close()


def test_files_joined_on_disk_train_like_their_cells_in_memory(adata, fit, tmp_path):
    from anndata.experimental import concat_on_disk

    adata.X = sp.csr_matrix(adata.X)
    parts = {"a": adata[:50].copy(), "b": adata[50:].copy()}
    for name, part in parts.items():
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    concat_on_disk({name: tmp_path / f"{name}.h5ad" for name in parts}, tmp_path / "all.h5ad", label="sample")
    memory, disk = ad.concat(parts, label="sample"), ad.read_h5ad(tmp_path / "all.h5ad", backed="r")
    models = [fit(cells, setup={"batch_key": "sample"}, train=TRAIN, seed=3) for cells in (memory, disk)]
    np.testing.assert_array_equal(*(model.get_latent_representation() for model in models))


def test_registering_a_collection_is_refused_with_a_way_out(path):
    from anndata.experimental import AnnCollection
    from scvi.dataloaders import CollectionAdapter

    collection = AnnCollection([ad.read_h5ad(path, backed="r")])
    for cells in (collection, CollectionAdapter(collection)):
        with pytest.raises(TypeError, match=r"Expected .* an AnnData, found .*Coll.*CollectionDataModule"):
            scgpcl.SCGPCL.setup_anndata(cells)
