"""How well are batches removed and types kept, compared with scVI and Harmony?

    python -m benchmarks.batches DATA_DIR --out batches --seeds 3

The methods run through ``scgpcl benchmark`` (``obs["batch"]`` as batches, number of clusters given, labels used for scoring
only), which resumes where it stopped. ``scgpcl-without`` is scgpcl without the batches. Harmony corrects the principal
components of ``pca-kmeans``; its clusters are those of k-means with 20 restarts. Harmony needs ``pip install harmonypy``, the
scores of scib-metrics need the extra ``benchmark``.

Batch ARI compares clusters with batches. ``bio`` is the mean of isolated labels, k-means NMI and ARI, silhouette and cLISI;
``batch`` the mean of silhouette, iLISI, kBET, graph connectivity and PCR comparison; ``total`` is .6 bio + .4 batch.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks._study import parser_of

from scgpcl import metrics
from scgpcl.benchmark import Clustering, load_run, register, run
from scgpcl.benchmark._registry import find_source, load
from scgpcl.benchmark._scores import BATCH
from scgpcl.benchmark._tables import markdown
from scgpcl.benchmark.methods.pca_kmeans import components, kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence

SETS = ("simulated/Batch8", "baron_mouse_pancreas", "tian_celseq2_5cl")
METHODS = ("scgpcl", "scgpcl-without", "pca-kmeans", "harmony-kmeans", "scvi-kmeans")
BIO = ["isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi"]


@register("scgpcl-without")
def scgpcl_without(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    return load(find_source("scgpcl"))(adata, n_clusters, seed=seed, batch_key=None)


@register("harmony-kmeans")
def harmony_kmeans(adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None) -> Clustering:
    import harmonypy

    obs = adata.obs
    z = components(adata, seed=seed)
    z = np.asarray(harmonypy.run_harmony(z, obs, batch_key, random_state=seed, verbose=False).Z_corr)
    z = z if z.shape[0] == len(obs) else z.T
    return Clustering(kmeans(z, n_clusters, seed=seed), z)


def scored(table: pd.DataFrame, out: Path, files: "Sequence[Path]", *, scib: bool) -> pd.DataFrame:
    """Successful runs with their batch ARI and the aggregates of scib-metrics."""
    table = table[table["error"] == ""].reset_index(drop=True)
    batches = {path.stem: ad.read_h5ad(path, backed="r").obs["batch"].astype(str).to_numpy() for path in files}
    table["batch_ari"] = [
        metrics.ari(batches[row.dataset], load_run(out, row.dataset, row.method, row.seed).labels)
        for row in table.itertuples()
    ]
    if scib:
        single = table.merge(pd.read_csv(out / "scib.csv"), on=["dataset", "method", "seed"], how="left")
        table["bio"] = single[BIO].mean(axis=1)
        table["batch"] = single[[name for name in BATCH if name not in BIO]].mean(axis=1)
        table["total"] = 0.6 * table["bio"] + 0.4 * table["batch"]
    return table


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean and standard deviation over seeds of every score."""
    names = ("ari", "nmi", "acc", "batch_ari", "bio", "batch", "total", "train_seconds")
    scores = [name for name in names if name in table]
    rows = [
        [*names, *(f"{part[score].mean():.3f} ± {part[score].std():.3f}" for score in scores)]
        for names, part in table.groupby(["dataset", "method"], sort=False)
    ]
    return "\n".join(markdown(["data set", "method", *scores], rows))


def main() -> None:
    parser = parser_of(__doc__, datasets=SETS)
    parser.add_argument("--out", type=Path, default=Path("batches"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--no-scib", action="store_true", help="leave scib-metrics out")
    args = parser.parse_args()
    files = [args.data / f"{name}.h5ad" for name in args.datasets]
    shared = {"batch_key": "batch", "threads": args.threads, "progress": False}
    table = run(files, args.methods, out=args.out, seeds=args.seeds, scib=not args.no_scib, **shared)
    print(summary(scored(table, args.out, files, scib=not args.no_scib)))


if __name__ == "__main__":
    main()
