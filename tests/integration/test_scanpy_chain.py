"""What a scanpy user does with the result, from counts to pictures."""

import numpy as np
import pytest
import scanpy as sc

import scgpcl


@pytest.fixture(scope="module")
def clustered():
    adata = scgpcl.datasets.pbmc3k()
    scgpcl.SCGPCL.setup_anndata(adata, layer="counts")
    model = scgpcl.SCGPCL(adata, n_clusters=9)
    model.train(pretrain_max_epochs=8, cluster_max_epochs=5, accelerator="cpu", enable_progress_bar=False)
    return adata, model


# scanpy calls set_bad on colour maps, and since 1.12 advises on the dendrogram of all genes
@pytest.mark.filterwarnings(
    "ignore:The set_bad function will be deprecated", "ignore:You.re trying to run this on 1000"
)
def test_neighbors_umap_markers_and_plots(clustered):
    adata, _ = clustered
    adata = adata.copy()
    sc.pp.neighbors(adata, use_rep="X_scgpcl")
    sc.tl.umap(adata, maxiter=20)
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    sc.pl.umap(adata, color="scgpcl_cluster", show=False)
    assert len(adata.uns["scgpcl_cluster_colors"]) == 9
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    adata = adata[:, adata.var["scgpcl_selected"]].copy()
    sc.tl.rank_genes_groups(adata, "scgpcl_cluster", method="wilcoxon")
    sc.pl.rank_genes_groups_dotplot(adata, n_genes=3, show=False)
    markers = sc.get.rank_genes_groups_df(adata, None)
    top = {group: set(frame["names"][:10]) for group, frame in markers.groupby("group", observed=True)}
    assert any({"CD79A", "MS4A1"} & genes for genes in top.values())  # B cells
    assert any({"NKG7", "GNLY"} & genes for genes in top.values())  # NK cells
    assert any({"PPBP", "PF4"} & genes for genes in top.values())  # platelets


def test_clusters_agree_with_the_published_types(clustered):
    adata, _ = clustered
    assert scgpcl.metrics.ari(adata.obs["cell_type"], adata.obs["scgpcl_cluster"]) > 0.55
    assert scgpcl.metrics.nmi(adata.obs["cell_type"], adata.obs["scgpcl_cluster"]) > 0.70


def test_model_travels(clustered, tmp_path):
    adata, model = clustered
    model.save(tmp_path / "m")
    loaded = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(), model.predict())
    new_cells = adata[::20, ::-1].copy()
    np.testing.assert_array_equal(loaded.predict(new_cells), model.predict()[::20])


def test_neighbors_of_more_than_4096_cells():
    """From 4096 cells on scanpy searches neighbours approximately; some versions of its search library break there."""
    import anndata as ad

    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(4200, 4)).astype(np.float32))
    adata.obsm["X_scgpcl"] = rng.normal(size=(4200, 16)).astype(np.float32)
    sc.pp.neighbors(adata, use_rep="X_scgpcl")
    assert adata.obsp["connectivities"].shape == (4200, 4200)


def test_clusters_get_the_names_of_their_published_types(clustered):
    adata, _ = clustered
    adata = adata.copy()
    markers = {
        "CD4 T": ["IL7R", "CCR7"],
        "CD8 T": ["CD8A", "CD8B"],
        "B": ["CD79A", "MS4A1"],
        "NK": ["GNLY", "NKG7"],
        "CD14+ Mono": ["CD14", "LYZ"],
        "FCGR3A+ Mono": ["FCGR3A", "MS4A7"],
        "DC": ["FCER1A", "CST3"],
        "Platelet": ["PPBP", "PF4"],
    }
    scgpcl.tl.name_clusters(adata, markers, layer="counts")
    # one name for the two halves of the CD4 T cells, which the clusters need not separate
    published = adata.obs["cell_type"].astype(str).replace({"Naive CD4 T": "CD4 T", "Memory CD4 T": "CD4 T"})
    assert (adata.obs["scgpcl_name"].astype(str) == published).mean() > 0.8
