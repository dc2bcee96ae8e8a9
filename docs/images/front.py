"""Draw front.png, the bundled blood cells as counts are turned into named clusters: ``python docs/images/front.py``."""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import scgpcl

BLOOD = {
    "T": ["CD3D", "IL7R", "LDHB"],
    "CD8 T": ["CD8A", "GZMK"],
    "B": ["CD79A", "MS4A1"],
    "NK": ["GNLY", "NKG7", "PRF1"],
    "CD14 monocyte": ["CD14", "LYZ", "S100A8"],
    "FCGR3A monocyte": ["FCGR3A", "MS4A7"],
    "dendritic cell": ["FCER1A", "CST3", "CLEC10A"],
    "platelet": ["PPBP", "PF4"],
}


def main() -> None:
    """Cluster with the default configuration and draw clusters, names and confidence."""
    adata = scgpcl.datasets.pbmc3k()
    scgpcl.SCGPCL.setup_anndata(adata, layer="counts")
    model = scgpcl.SCGPCL(adata, n_clusters=9, seed=0)
    model.train(accelerator="cpu", enable_progress_bar=False)
    scgpcl.tl.name_clusters(adata, BLOOD, layer="counts")
    axes = scgpcl.pl.latent(adata, ["scgpcl_cluster", "scgpcl_name", "scgpcl_confidence"])
    for ax, title in zip(axes, ("clusters", "named by marker genes", "confidence"), strict=True):
        ax.set_title(title, fontweight="bold")
    figure = axes[0].figure
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=90, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
