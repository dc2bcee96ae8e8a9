"""Draw the figures of the pages by task from the bundled blood cells: ``python docs/images/tasks.py [NAME ...]``."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scgpcl

HERE = Path(__file__).parent
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def save(figure, name: str) -> None:
    """Write a figure as PNG and close it."""
    figure.savefig(HERE / f"{name}.png", dpi=80, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close("all")


def train(adata, n_clusters=None, **setup) -> scgpcl.SCGPCL:
    """Train with the default configuration."""
    scgpcl.SCGPCL.setup_anndata(adata, layer="counts", **setup)
    model = scgpcl.SCGPCL(adata, n_clusters, seed=0)
    model.train(**QUIET)
    return model


def thinned(adata, rate, seed: int):
    """Cells of which every molecule is kept with the probability ``rate``, of shape (n_genes,) or a number."""
    cells = adata.copy()
    counts = cells.layers["counts"].tocsr().astype(np.int64)
    rate = np.broadcast_to(rate, cells.n_vars)[counts.indices]
    counts.data = np.random.default_rng(seed).binomial(counts.data, rate).astype(np.float32)
    counts.eliminate_zeros()
    cells.layers["counts"] = cells.X = counts.astype(np.float32)
    return cells


def one_sample() -> None:
    """Clusters and two genes; the number of clusters; what it costs to take others."""
    adata = scgpcl.datasets.pbmc3k()
    model = train(adata)
    axes = scgpcl.pl.latent(adata, ["scgpcl_cluster", "scgpcl_confidence", "CD3D", "LYZ"], layer="counts", ncols=2)
    save(axes[0].figure, "task_one_sample")
    save(scgpcl.pl.n_clusters(model).figure, "task_how_fine")
    save(scgpcl.pl.tree(model).figure, "task_how_fine_tree")
    save(scgpcl.pl.levels(model).figure, "task_how_fine_levels")


def several_samples() -> None:
    """The same cells clustered without and with the correction; half of them have lost molecules, gene by gene."""
    adata = scgpcl.datasets.pbmc3k()[::2].copy()
    rng = np.random.default_rng(0)
    half = rng.random(adata.n_obs) < 0.5
    rate = np.where(half[:, None], rng.uniform(0.15, 1.0, adata.n_vars), 1.0)
    counts = adata.layers["counts"].toarray().astype(np.int64)
    adata.layers["counts"] = adata.X = scipy_csr(rng.binomial(counts, rate))
    adata.obs["sample"] = np.where(half, "patient 2", "patient 1")
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    plain = adata.copy()
    train(plain, 9)
    scgpcl.pl.latent(plain, "sample", legend_loc="right margin", ax=axes[0])
    axes[0].set_title("without batch_key")
    train(adata, 9, batch_key="sample")
    scgpcl.pl.latent(adata, "sample", legend_loc="right margin", ax=axes[1])
    axes[1].set_title('batch_key="sample"')
    scgpcl.pl.latent(adata, "cell_type", ax=axes[2])
    axes[2].set_title("types of the corrected cells")
    save(figure, "task_several_samples")


def scipy_csr(counts):
    """Counts as CSR in single precision."""
    import scipy.sparse as sp

    return sp.csr_matrix(counts.astype(np.float32))


def new_cells() -> None:
    """Confidence of cells that a model has not seen, whole and with a tenth of their molecules."""
    adata = scgpcl.datasets.pbmc3k()
    is_new = np.random.default_rng(0).random(adata.n_obs) < 0.4
    model = train(adata[~is_new].copy(), 9)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for ax, rate, title in zip(axes, (1.0, 0.1), ("new cells", "with a tenth of their molecules"), strict=True):
        query = thinned(adata[is_new].copy(), rate, seed=1)
        query = query[query.X.sum(1).A1 > 0].copy() if hasattr(query.X.sum(1), "A1") else query
        model.annotate(query)
        scgpcl.pl.confidence(query, min_confidence=0.6, ax=ax)
        ax.set_title(title, pad=14)
    save(figure, "task_new_cells")


def some_labels() -> None:
    """Five labelled cells of each of three types, and the names of all cells."""
    adata = scgpcl.datasets.pbmc3k()[::2].copy()
    rng = np.random.default_rng(0)
    adata.obs["label"] = "Unknown"
    for name in ("B", "NK", "CD14+ Mono"):
        cells = rng.choice(np.flatnonzero(adata.obs["cell_type"] == name), 5, replace=False)
        adata.obs.iloc[cells, adata.obs.columns.get_loc("label")] = name
    train(adata, labels_key="label", unlabeled_category="Unknown")
    axes = scgpcl.pl.latent(adata, ["scgpcl_cluster", "cell_type"])
    axes[0].set_title("clusters from 15 labels")
    axes[1].set_title("published types")
    save(axes[0].figure, "task_some_labels")


def million_cells() -> None:
    """Time and memory of the command against the number of cells, from the results of ``benchmarks.million``."""
    table = (
        pd.read_csv(HERE.parents[1] / "benchmarks" / "results" / "million.csv")
        .query("source == 'h5ad'")
        .sort_values("cells")
    )
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for ax, values, label in zip(
        axes, (table["cpu_seconds"] / 60, table["peak_mb"] / 1000), ("CPU minutes", "memory at most, GB"), strict=True
    ):
        ax.plot(table["cells"] / 1e6, values, marker="o")
        ax.set(xlabel="million cells", ylabel=label, xlim=(0, 10.5), ylim=(0, 1.15 * values.max()))
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, "task_million_cells")


TASKS = {each.__name__: each for each in (one_sample, several_samples, new_cells, some_labels, million_cells)}

if __name__ == "__main__":
    for name in sys.argv[1:] or TASKS:
        TASKS[name]()
