"""Run time, memory and agreement with the labels, compared with scVI and Leiden in one run.

    python -m benchmarks.peers worm_neuron.h5ad pbmc4k.h5ad --cells 30000 --out peers

The methods are those of ``scgpcl benchmark``, which resumes where it stopped: ``scgpcl``, ``scvi-kmeans`` (default number of
epochs), ``scvi-short`` (as many epochs as both stages of scgpcl may take), ``pca-leiden`` (at the number of types), ``pca-leiden-sparse``
(the same with all genes and without scaling them, so that a million cells fit into memory) and ``concord`` (CONCORD with its defaults and
$k$-means; needs ``pip install concord-sc``). Files have counts in X and types in
``obs["cell_type"]``; ``--cells`` adds simulated cells.
"""

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import scanpy as sc
from benchmarks import batches

from scgpcl.benchmark import Clustering, register, run
from scgpcl.benchmark._tables import markdown
from scgpcl.benchmark.methods.pca_kmeans import kmeans
from scgpcl.benchmark.methods.pca_leiden import compile_neighbors, leiden_clusters
from scgpcl.benchmark.methods.scvi_kmeans import scvi_latent
from scgpcl.model import SCGPCL
from scgpcl.train._run import PRETRAIN_EPOCHS

if TYPE_CHECKING:
    import anndata as ad

METHODS = ("scgpcl", "pca-leiden", "scvi-short", "scvi-kmeans")
#: Most epochs of both stages by default.
EPOCHS = PRETRAIN_EPOCHS[1] + inspect.signature(SCGPCL.train).parameters["cluster_max_epochs"].default
COLUMNS = {"train_seconds": "seconds", "peak_memory_mb": "memory, MB", "ari": "ARI", "n_clusters": "clusters"}


@register("scvi-short")
def scvi_short(adata: "ad.AnnData", n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    z = scvi_latent(adata, seed=seed, batch_key=batch_key, max_epochs=EPOCHS)
    return Clustering(kmeans(z, n_clusters, seed=seed), z)


@register("pca-leiden-sparse", prepare=compile_neighbors)
def pca_leiden_sparse(adata: "ad.AnnData", n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, random_state=seed)
    return leiden_clusters(adata.obsm["X_pca"], n_clusters, seed=seed)


@register("concord")
def concord(adata: "ad.AnnData", n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    adata.obs["batch"] = "all" if batch_key is None else adata.obs[batch_key]
    z = batches.concord(adata, seed)[0]
    return Clustering(kmeans(z, n_clusters, seed=seed), z)


def write_simulated(n_cells: int, folder: Path) -> Path:
    """Write simulated counts with the group of each cell; returns the file."""
    import anndata
    from benchmarks._runs import simulate, simulated_groups

    path = folder / f"simulated_{n_cells}.h5ad"
    if not path.exists():
        adata = anndata.AnnData(simulate(n_cells))
        adata.obs_names = [f"cell{i}" for i in range(n_cells)]
        adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
        adata.obs["cell_type"] = [f"group {g}" for g in simulated_groups(n_cells)]
        adata.write_h5ad(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--cells", type=int, nargs="*", default=[])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = args.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    files = [*args.data, *(write_simulated(n, folder) for n in args.cells)]
    table = run(files, args.methods, out=args.out / "runs", seeds=args.seeds, threads=args.threads, progress=False)
    means = table.groupby(["dataset", "method"], sort=False)[list(COLUMNS)].mean().astype(float)
    rows = [
        [*names, *(f"{value:.3f}" for value in row)] for names, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    print("\n".join(markdown(["dataset", "method", *COLUMNS.values()], rows)))
    for row in table[table["error"] != ""].itertuples():
        print(f"{row.dataset}, {row.method}: {row.error}")


if __name__ == "__main__":
    main()
