"""Does training from disk work under a memory limit that training in memory exceeds? Linux only.

    python -m benchmarks.out_of_memory --cells 300000 --cap-mb 800

Counts of three groups of cells, with 500 of 3000 genes detected per cell, are written to an h5ad file in blocks. Two processes
then train on them, one from the file and one after reading it. Each may use ``--cap-mb`` in addition to its memory after the
imports (``RLIMIT_DATA``). The network is small (100 genes, 8 latent dimensions, one epoch per stage), so that reading
dominates.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem

N_GENES = 3000
PER_CELL = 500
#: Cells written at a time.
BLOCK = 20_000

CHILD = """
    import resource, sys, time, warnings
    warnings.simplefilter("ignore")
    from pathlib import Path
    import anndata, numpy, scanpy, scvi, torch
    import scgpcl
    scgpcl.SCGPCL
    torch.set_num_threads(1)
    path, mode, cap = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def status(name):
        return 1024 * int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

    before = status("VmData"), status("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (before[0] + cap, before[0] + cap))
    try:
        adata = anndata.read_h5ad(path, backed="r" if mode == "disk" else None)
        scgpcl.SCGPCL.setup_anndata(adata)
        model = scgpcl.SCGPCL(adata, 3, n_top_genes=100, gene_flavor="pearson_residuals", n_hidden=8, n_latent=8, start="random")
        model.train(
            pretrain_max_epochs=1, cluster_max_epochs=1, accelerator="cpu", enable_progress_bar=False, batch_size=2048,
            pretrain_plan_kwargs={"n_neighbors": 0},
        )
        n_cells = len(model.predict())
        rise = (status("VmHWM") - before[1]) / 1e6
        print(f"{n_cells} cells trained and labelled, {time.process_time():.0f} s CPU time, {rise:.0f} MB above the imports")
    except MemoryError:
        print("out of memory")
"""


def write(path: Path, n_cells: int) -> float:
    """Write the counts in blocks; returns their size in memory in MB."""
    rng = np.random.default_rng(0)
    values = (1 + rng.poisson(0.5, 100_003)).astype(np.float32)
    pattern = np.arange(0, N_GENES, N_GENES // PER_CELL, dtype=np.int32)
    with h5py.File(path, "w") as file:
        for start in range(0, n_cells, BLOCK):
            size = min(BLOCK, n_cells - start)
            genes = pattern + rng.integers(3, size=(size, 1), dtype=np.int32)
            data = np.resize(np.roll(values, start), genes.size)
            indptr = np.arange(size + 1, dtype=np.int64) * PER_CELL
            block = sp.csr_matrix((data, genes.ravel(), indptr), shape=(size, N_GENES))
            if start == 0:
                write_elem(file, "X", block)
            else:
                sparse_dataset(file["X"]).append(block)
        for axis, size in (("obs", n_cells), ("var", N_GENES)):
            write_elem(file, axis, pd.DataFrame(index=[f"{axis}{i}" for i in range(size)]))
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            write_elem(file, name, {})
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return n_cells * PER_CELL * 8 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=300_000)
    parser.add_argument("--cap-mb", type=int, default=800)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5ad"
        print(f"{args.cells} cells, {write(path, args.cells):.0f} MB of counts, a cap of {args.cap_mb} MB", flush=True)
        for mode in ("memory", "disk"):
            start = time.perf_counter()
            command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), mode, str(args.cap_mb * 10**6)]
            done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
            found = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else done.stderr[-2000:]
            print(f"{mode}: {found} ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
