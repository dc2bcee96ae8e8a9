"""Which groups does `model.test_clusters` call apart: random parts of homogeneous cells, parts by k-means, and published types?

    python -m benchmarks.told_apart DATA_DIR --out told_apart.csv

Homogeneous are a simulated group, 400 cells of pbmc3k whose genes are permuted, and three cell lines of ``tian_celseq2_5cl``. 100 random
parts of each are tested both ways (``clustered``), and 20 parts by k-means of principal components of other sub-samples. For the four sets
of bead-sorted cells and pbmc3k, all pairs of types are tested. The table has one row per (data set, kind, clustered, pair); an interrupted
study resumes with the next data set.
"""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from benchmarks._study import SORTED, parser_of, run_study
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import scgpcl

LINES = ("A549", "H838", "HCC827")
ONE_GROUP = ("simulated", "permuted", *LINES)
N_RANDOM, N_KMEANS = 100, 20
#: Fewest cells that express a gene that is permuted.
EXPRESSED = 10
COLUMNS = ("dataset", "seed", "kind", "clustered", "tests", "apart", "group1", "group2", "separation")


def one_group(name: str, data: Path) -> ad.AnnData:
    """Cells that are one group."""
    if name == "simulated":
        return scgpcl.simulate.splatter(400, 1500)
    if name == "permuted":
        counts = ad.read_h5ad(data / "pbmc3k.h5ad").X[:400].toarray()
        counts = counts[:, (counts > 0).sum(0) > EXPRESSED]
        rng = np.random.default_rng(0)
        return ad.AnnData(sp.csr_matrix(np.stack([rng.permutation(column) for column in counts.T], 1)))
    lines = ad.read_h5ad(data / "tian_celseq2_5cl.h5ad")
    return lines[lines.obs["cell_type"] == name].copy()


def run(name: str, seed: int, data: Path) -> list[dict[str, Any]]:
    """Rows of one set of cells."""
    if name not in ONE_GROUP:
        return pairs(ad.read_h5ad(data / f"{name}.h5ad"), seed)
    adata = one_group(name, data)
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 2)
    counts = sp.csr_matrix(adata.X, copy=True)
    size = np.asarray(counts.sum(1)).ravel()
    counts.data = np.log1p(counts.data / np.repeat(size / np.median(size), np.diff(counts.indptr)))
    components = PCA(20, random_state=seed).fit_transform(counts.toarray())
    rng = np.random.default_rng(seed)
    labels: dict[str, list[Any]] = {"random": [], "k-means": []}
    for _ in range(N_RANDOM):
        labels["random"].append((rng.random(adata.n_obs) < rng.uniform(0.2, 0.8)).astype(str))
    for i in range(N_KMEANS):
        some, found = rng.random(adata.n_obs) < 0.8, np.full(adata.n_obs, None, dtype=object)
        parts = KMeans(2, n_init=3, random_state=i).fit_predict(components[some][:, : rng.integers(2, 20)])
        found[some] = parts.astype(str)
        labels["k-means"].append(found)
    rows = []
    for kind, each in labels.items():
        for clustered in (True, False):
            apart = sum(
                bool(model.test_clusters(own, clustered=clustered, seed=i)["apart"].any()) for i, own in enumerate(each)
            )
            rows.append({"kind": kind, "clustered": clustered, "tests": len(each), "apart": apart})
    return rows


def pairs(adata: ad.AnnData, seed: int) -> list[dict[str, Any]]:
    """All pairs of the types of a set."""
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, 2)
    rows = []
    for clustered in (True, False):
        table = model.test_clusters("cell_type", clustered=clustered, seed=seed)
        for row in table.itertuples():
            found = {"group1": row.group1, "group2": row.group2, "separation": round(row.separation, 3)}
            rows.append({"kind": "types", "clustered": clustered, "tests": 1, "apart": int(row.apart), **found})
    return rows


def main() -> None:
    parser = parser_of(__doc__, datasets=(*ONE_GROUP, "pbmc3k", *SORTED), seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("told_apart.csv"))
    args = parser.parse_args()
    table = run_study(
        args,
        ((name, seed) for seed in args.seeds for name in args.datasets),
        lambda name, seed: run(name, seed, args.data),
        keys=["dataset", "seed"],
        columns=COLUMNS,
        text=["dataset", "kind", "group1", "group2"],
    )
    print(table.groupby(["kind", "dataset", "clustered"], sort=False)[["tests", "apart"]].sum().to_string())
    types = table[(table["kind"] == "types") & table["clustered"].astype(bool)]
    print(types.pivot_table(index=["group1", "group2"], columns="dataset", values="separation").to_string())


if __name__ == "__main__":
    main()
