"""Counts on disk: the same results as in memory, without ever loading them whole."""

import json
import subprocess
import sys
import textwrap

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scgpcl.data import CountSource

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
        np.testing.assert_array_equal(CountSource(x, size, columns).rows(index).toarray(), wanted)
    backed.file.close()


def test_training_and_getters_equal_those_in_memory(path, fit):
    models = [fit(ad.read_h5ad(path, **mode), train=TRAIN, seed=3) for mode in ({}, {"backed": "r"})]
    memory, backed = (model.get_latent_representation() for model in models)
    np.testing.assert_array_equal(memory, backed)
    np.testing.assert_array_equal(models[0].predict(), models[1].predict())
    order = np.array([9, 3, 50, 3])
    np.testing.assert_array_equal(models[1].get_latent_representation(indices=order), backed[order])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the cap is Linux's")
def test_data_larger_than_the_memory_allowed_is_trained_on(tmp_path):
    """Counts take 312 MB, and a process may take 250 MB beyond what it has after its imports: only disk will do."""
    n_cells, n_genes, per_cell = 130_000, 3_000, 300
    rng = np.random.default_rng(0)
    values = (1 + rng.poisson(0.5, 100_000)).astype(np.float32)
    path = tmp_path / "large.h5ad"
    genes = (
        np.arange(0, n_genes, n_genes // per_cell, dtype=np.int32) + np.arange(n_cells, dtype=np.int32)[:, None] % 10
    )
    indptr = np.arange(n_cells + 1, dtype=np.int64) * per_cell
    x = sp.csr_matrix((np.resize(values, n_cells * per_cell), genes.ravel(), indptr), shape=(n_cells, n_genes))
    ad.AnnData(x).write_h5ad(path)
    del x, genes
    code = textwrap.dedent("""
        import json, resource, sys, warnings
        warnings.simplefilter("ignore")
        import anndata, numpy, torch, scgpcl
        from pathlib import Path
        torch.set_num_threads(1)
        path, mode, extra = sys.argv[1], sys.argv[2], int(sys.argv[3])
        scgpcl.SCGPCL  # what is imported is not counted
        import scvi, scanpy
        size = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (size + extra, size + extra))
        try:
            adata = anndata.read_h5ad(path, backed="r" if mode == "disk" else None)
            scgpcl.SCGPCL.setup_anndata(adata)
            model = scgpcl.SCGPCL(adata, 3, n_top_genes=50, n_hidden=8, n_latent=4, start="random")
            model.train(
                pretrain_max_epochs=1, cluster_max_epochs=0, accelerator="cpu", enable_progress_bar=False,
                logger=False, batch_size=1024,
            )
            print(json.dumps(len(model.predict())))
        except (MemoryError, numpy._core._exceptions._ArrayMemoryError):
            print(json.dumps("out of memory"))
    """)

    def run(mode):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), mode, str(250 << 20)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    assert run("memory") == "out of memory"
    assert run("disk") == n_cells
