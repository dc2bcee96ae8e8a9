"""How well are batches removed and types kept, compared with Harmony, scVI, scANVI and CONCORD?

    python -m benchmarks.batches DATA_DIR --out batches.csv --seeds 0

Beside the sets of the folder, ``half_shared`` is simulated: each of its two batches has six of eight types, four of which are in
both. ``scgpcl-without`` is scgpcl without the batches. The other methods see the log counts (scVI and scANVI: the counts) of
scanpy's 2000 ``seurat`` genes, chosen with ``batch_key``, and have default settings; their clusters are those of k-means with 20
restarts at the number of types. scANVI and ``scgpcl-types`` are given the type of every cell; all others read types for scoring
only. An interrupted study resumes where it stopped; so that processes do not compete, it runs one method at a time. Needs ``pip
install harmonypy concord-sc`` and the extra ``benchmark``.

* ``purity``: share of a cell's 15 nearest neighbours that are of its type, mean over cells of a type and then over types;
  ``mixed``: share that are of another batch.
* ``bio``: mean of isolated labels, k-means NMI and ARI, silhouette and cLISI of scib-metrics; ``batch``: mean of silhouette,
  iLISI, kBET, graph connectivity and PCR comparison; ``total``: .6 bio + .4 batch, unscaled.
* ``over``: share of the cells of types of 20 cells or more that only one batch has, which are in a cluster in which another type is
  the largest; ``lacking``: the same for types that at least one batch lacks.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from benchmarks._study import parser_of, run_study
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from scgpcl import SCGPCL, metrics, simulate
from scgpcl.benchmark._scores import scib_scores
from scgpcl.benchmark._tables import markdown
from scgpcl.benchmark.methods.pca_kmeans import N_GENES, kmeans

SIMULATED = "half_shared"
SETS = (
    "batches/blood_three_studies", "batches/kang_pbmc_stimulation", "baron_mouse_pancreas", "zilionis_mouse_lung_800",
    "simulated/Batch8", SIMULATED,
)  # fmt: skip
BIO = ["isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi"]
BATCH = ["silhouette_batch", "ilisi", "kbet", "graph_connectivity", "pcr_comparison"]
SCORES = ["purity", "mixed", "ari", "bio", "batch", "total", "over", "lacking"]
KEYS = ("dataset", "method", "seed")
N_NEIGHBORS = 15
LEAST_CELLS = 20
#: Data, seed and model of the last scVI that was trained, from which scANVI starts.
TRAINED: list[Any] = []
#: Vectors (n_cells, n) and, from methods that cluster, labels.
Result = tuple[np.ndarray, np.ndarray | None]


def half_shared(seed: int = 0) -> ad.AnnData:
    """Two simulated batches with six of eight types each, four of them in both."""
    adata = simulate.splatter(
        n_genes=3000,
        batch_cells=[2000, 2000],
        group_prob=[1 / 8] * 8,
        de_fac_scale=0.3,
        dropout_mid=1.0,
        dropout_shape=-1.0,
        seed=seed,
        true_counts=False,
    )
    group = adata.obs["group"].cat.codes.to_numpy()
    adata = adata[np.where(adata.obs["batch"] == "Batch1", group < 6, group >= 2)].copy()
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() > 0].copy()
    adata.X = adata.X.astype(np.float32)
    adata.obs["cell_type"] = adata.obs["group"]
    return adata


@lru_cache(maxsize=1)
def read(data: Path, name: str) -> ad.AnnData:
    """Counts with types and batches of a set."""
    adata = half_shared() if name == SIMULATED else ad.read_h5ad(data / f"{name}.h5ad")
    return ad.AnnData(adata.X, obs=adata.obs[["cell_type", "batch"]].astype(str), var=adata.var[[]])


def selected(adata: ad.AnnData) -> ad.AnnData:
    """Log counts of the genes that other methods see, with the counts in a layer."""
    adata = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > N_GENES:
        sc.pp.highly_variable_genes(adata, n_top_genes=N_GENES, flavor="seurat", batch_key="batch")
        adata = adata[:, adata.var["highly_variable"]].copy()
    return adata


def principal_components(adata: ad.AnnData, seed: int) -> Result:
    """50 components of standardised log counts, clipped at 10."""
    adata = selected(adata)
    sc.pp.scale(adata, max_value=10)
    return PCA(50, random_state=seed).fit_transform(adata.X), None


def harmony(adata: ad.AnnData, seed: int) -> Result:
    """The same components, corrected by Harmony."""
    import harmonypy

    z = principal_components(adata, seed)[0]
    z = np.asarray(harmonypy.run_harmony(z, adata.obs, "batch", random_state=seed, verbose=False).Z_corr)
    return (z if len(z) == adata.n_obs else z.T), None


def scvi_model(adata: ad.AnnData, seed: int) -> Any:
    """A trained scVI."""
    import scvi

    if TRAINED and TRAINED[0] is adata and TRAINED[1] == seed:
        return TRAINED[2]
    scvi.settings.seed = seed
    chosen = selected(adata)
    scvi.model.SCVI.setup_anndata(chosen, layer="counts", batch_key="batch", labels_key="cell_type")
    model = scvi.model.SCVI(chosen)
    model.train(accelerator="cpu", enable_progress_bar=False)
    TRAINED[:] = adata, seed, model
    return model


def scvi(adata: ad.AnnData, seed: int) -> Result:
    """Latent space of scVI, which does not use the types that it is set up with."""
    return scvi_model(adata, seed).get_latent_representation(), None


def scanvi(adata: ad.AnnData, seed: int) -> Result:
    """Latent space of scANVI, which is given all types."""
    import scvi

    model = scvi.model.SCANVI.from_scvi_model(scvi_model(adata, seed), "unlabelled")
    scvi.settings.seed = seed
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation(), None


def concord(adata: ad.AnnData, seed: int) -> Result:
    """Latent space of CONCORD."""
    from concord import Concord

    adata = selected(adata)
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    model = Concord(adata, save_dir=None, domain_key="batch", seed=seed, device="cpu")
    model.fit_transform(output_key="latent", save_model=False)
    return adata.obsm["latent"], None


def scgpcl(adata: ad.AnnData, seed: int, batch_key: str | None = "batch", labels_key: str | None = None) -> Result:
    """Latent vectors and clusters of this package."""
    n_types = adata.obs["cell_type"].nunique()
    columns = ["batch"] if labels_key is None else ["batch", labels_key]
    adata = ad.AnnData(adata.X.copy(), obs=adata.obs[columns].copy(), var=adata.var)
    SCGPCL.setup_anndata(adata, batch_key=batch_key, labels_key=labels_key)
    model = SCGPCL(adata, n_types, seed=seed)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_latent_representation(), model.predict()


METHODS: dict[str, Callable[[ad.AnnData, int], Result]] = {
    "pca": principal_components,
    "harmony": harmony,
    "scvi": scvi,
    "scanvi": scanvi,
    "concord": concord,
    "scgpcl": scgpcl,
    "scgpcl-without": lambda adata, seed: scgpcl(adata, seed, batch_key=None),
    "scgpcl-types": lambda adata, seed: scgpcl(adata, seed, labels_key="cell_type"),
}


def neighbor_scores(z: np.ndarray, types: np.ndarray, batch: np.ndarray) -> dict[str, float]:
    """Macro purity of the nearest neighbours, and their share from other batches."""
    near = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(z).kneighbors(return_distance=False)
    same = pd.Series((types[near] == types[:, None]).mean(1))
    return {
        "purity": float(same.groupby(types).mean().mean()),
        "mixed": float((batch[near] != batch[:, None]).mean()),
    }


def swallowed(labels: np.ndarray, types: np.ndarray, batch: np.ndarray, *, alone: bool) -> float:
    """Share of the cells of types that only one batch has, or that some batch lacks, in clusters of another type."""
    table = pd.crosstab(types, batch)
    table = table[table.sum(axis=1) >= LEAST_CELLS]
    n_batches = (table > 0).sum(axis=1)
    own = np.isin(types, table.index[n_batches == 1 if alone else n_batches < table.shape[1]])
    largest = pd.crosstab(labels, types).idxmax(axis=1)
    return float((largest[labels].to_numpy() != types)[own].mean()) if own.any() else float("nan")


def scored(z: np.ndarray, labels: np.ndarray, adata: ad.AnnData) -> dict[str, float]:
    """All scores of vectors (n_cells, n) and labels (n_cells,)."""
    types, batch = (adata.obs[name].to_numpy(dtype=str) for name in ("cell_type", "batch"))
    found = scib_scores(z.astype(np.float32), types, batch, adata.X)
    bio, removal = (float(np.mean([found[name] for name in names])) for names in (BIO, BATCH))
    return {
        **neighbor_scores(z, types, batch),
        "ari": metrics.ari(types, labels),
        "bio": bio,
        "batch": removal,
        "total": 0.6 * bio + 0.4 * removal,
        "over": swallowed(labels, types, batch, alone=True),
        "lacking": swallowed(labels, types, batch, alone=False),
        **{name: found[name] for name in (*BIO, *BATCH)},
    }


def study(data: Path, name: str, method: str, seed: int) -> list[dict[str, Any]]:
    """Run and score one method on one set."""
    adata = read(data, name)
    start = time.perf_counter()
    z, labels = METHODS[method](adata, seed)
    seconds = time.perf_counter() - start
    if labels is None:
        labels = kmeans(z, adata.obs["cell_type"].nunique(), seed=seed)
    return [
        {"seconds": round(seconds, 1)} | {name: round(value, 4) for name, value in scored(z, labels, adata).items()}
    ]


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean over seeds of every score, and the failures."""
    failed = table[table["error"] != ""]
    means = table[table["error"] == ""].groupby(["dataset", "method"], sort=False)[[*SCORES, "seconds"]].mean()
    shown = lambda value: "" if np.isnan(value) else f"{value:.3f}"
    rows = [
        [*names, *map(shown, row[:-1]), f"{row[-1]:.0f}"]
        for names, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    lines = markdown(["data set", "method", *SCORES, "seconds"], rows)
    return "\n".join([*lines, *(f"{row.dataset}, {row.method}: {row.error}" for row in failed.itertuples())])


def main() -> None:
    parser = parser_of(__doc__, datasets=SETS, seeds=(0,))
    parser.add_argument("--out", type=Path, default=Path("batches.csv"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    table = run_study(
        arguments,
        (
            (name, method, seed)
            for seed in arguments.seeds
            for name in arguments.datasets
            for method in arguments.methods
        ),
        lambda name, method, seed: study(arguments.data, name, method, seed),
        keys=KEYS,
        columns=(*KEYS, *SCORES, "seconds", *BIO, *BATCH, "error"),
        text=("dataset", "method", "error"),
        failure="error",
    )
    print(summary(table))


if __name__ == "__main__":
    main()
