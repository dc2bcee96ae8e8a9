"""How many cells must the encoder of a large data set learn from, and are rare types found?

    python -m benchmarks.rare --cells 30000 --samples 5000 20000 0 --out rare.csv

Counts of twelve types, from 30 % down to .1 % of the cells, are simulated in blocks (2000 genes, about 7 % nonzero); types differ in
the means of a fifth of the genes. ``--samples`` are values of ``train(pretrain_max_cells=)``, 0 for all cells, and ``--clusters``
numbers of clusters, 0 for the estimate. A type is found if a cluster has more than half of its cells and these are more than half of
the cluster. ``ari_10`` is the ARI of the tree's cut into ten clusters: the two rarest types are too small for clusters of their own, and
with twelve clusters the ARI depends on which of the larger types are divided instead. Seconds are those of the processor.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from benchmarks._study import run_study

from scgpcl import SCGPCL, metrics

SHARES = np.array([30.0, 20.0, 15.0, 10.0, 8.0, 6.0, 5.0, 3.0, 1.8, 0.7, 0.4, 0.1]) / 100.0
N_GENES = 2000
#: Share of the genes that differ in a type, and the standard deviation of the logarithm of their fold changes.
CHANGED, FOLD = 0.2, 0.8
BLOCK = 20_000
KEYS = ("cells", "sample", "clusters", "seed")
COLUMNS = (*KEYS, "n_clusters", "ari", "ari_10", "found", "seconds")


def simulated_blocks(n_cells: int, *, seed: int = 0) -> Iterator[ad.AnnData]:
    """Multinomial counts of types of unequal size, in blocks that share the profiles of the types."""
    rng = np.random.default_rng(seed)
    changed = rng.random((len(SHARES), N_GENES)) < CHANGED
    fold = np.where(changed, rng.lognormal(0.0, FOLD, changed.shape), 1.0)
    profile = rng.lognormal(0.0, 1.5, N_GENES) * fold
    cumulative = (profile / profile.sum(1, keepdims=True)).cumsum(1)
    names = [f"type {i:02}" for i in range(len(SHARES))]
    for block, start in enumerate(range(0, n_cells, BLOCK)):
        rng = np.random.default_rng([seed, 1, block])
        size = min(BLOCK, n_cells - start)
        own = rng.choice(len(SHARES), size, p=SHARES)
        reads = np.maximum(20, rng.lognormal(np.log(175.0), 0.35, size)).astype(np.int64)
        cells = np.repeat(np.arange(size), reads)
        genes = np.empty(len(cells), dtype=np.int64)
        for each in range(len(SHARES)):
            here = own[cells] == each
            genes[here] = np.searchsorted(cumulative[each], rng.random(int(here.sum()))).clip(max=N_GENES - 1)
        counts = sp.csr_matrix((np.ones(len(cells), dtype=np.float32), (cells, genes)), shape=(size, N_GENES))
        counts.sum_duplicates()
        adata = ad.AnnData(counts)
        adata.obs_names = [f"cell {start + i}" for i in range(size)]
        adata.obs["cell_type"] = pd.Categorical.from_codes(own, names)
        yield adata


def found_types(types: Any, clusters: Any) -> np.ndarray:
    """Whether each type has a cluster of its own, shape (n_types,)."""
    table = pd.crosstab(np.asarray(types), np.asarray(clusters)).to_numpy()
    return ((table > table.sum(1, keepdims=True) / 2) & (table > table.sum(0) / 2)).any(1)


def run(n_cells: int, sample: int, n_clusters: int, seed: int) -> list[dict[str, Any]]:
    """Train on a sample; one row."""
    adata = ad.concat(list(simulated_blocks(n_cells)))
    SCGPCL.setup_anndata(adata)
    model = SCGPCL(adata, n_clusters or None, seed=seed)
    start = time.process_time()
    model.train(pretrain_max_cells=sample or None, enable_progress_bar=False)
    seconds = time.process_time() - start
    types, clusters = adata.obs["cell_type"], adata.obs["scgpcl_cluster"]
    found = " ".join(types.cat.categories[found_types(types, clusters)].str.removeprefix("type "))
    row = {"n_clusters": clusters.nunique(), "ari": metrics.ari(types, clusters), "found": found, "seconds": seconds}
    model.cut(10)
    return [row | {"ari_10": metrics.ari(types, adata.obs["scgpcl_cluster"])}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", type=int, default=[30_000])
    parser.add_argument("--samples", nargs="+", type=int, default=[5000, 20_000, 0])
    parser.add_argument("--clusters", nargs="+", type=int, default=[len(SHARES)])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tasks = list(product(args.cells, args.samples, args.clusters, args.seeds))
    table = run_study(args, tasks, run, keys=KEYS, columns=COLUMNS, text=["found"])
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
