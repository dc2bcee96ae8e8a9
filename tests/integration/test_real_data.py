"""Every labelled data set trains with the default configuration: no warnings, finite losses, no empty result; on
one of them training is shown to help."""

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, silhouette_samples, silhouette_score
from sklearn.neighbors import NearestNeighbors

import scgpcl

SETS = [
    "baron_mouse_pancreas",
    "human_kidney_young_top2000",
    "mouse_bladder_2100",
    "pbmc3k",
    "pbmc4k_top2000",
    "tian_celseq2_5cl",
    "tm_kidney_smartseq2",
    "worm_neuron",
    "zheng_sorted_2140",
    "zilionis_mouse_lung_800",
    "simulated/Batch8",
    "simulated/Imb1",
    "simulated/Sig1",
    "simulated/SimT6_5",
]
N_CELLS = 300


@pytest.mark.parametrize("name", SETS)
def test_trains(data_dir, name):
    adata = ad.read_h5ad(data_dir / f"{name}.h5ad")
    cells = np.random.default_rng(0).permutation(adata.n_obs)[:N_CELLS]
    adata = adata[np.sort(cells)].copy()
    n_types = adata.obs["cell_type"].nunique()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters=n_types)
    model.train(pretrain_max_epochs=5, cluster_max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    for metric, table in model.history_.items():
        assert np.isfinite(table.to_numpy(dtype=float)).all(), metric
    assert np.isfinite(adata.obsm["X_scgpcl"]).all()
    assert 2 <= adata.obs["scgpcl_cluster"].nunique() <= n_types
    if not name.startswith("simulated/"):  # at their hardest settings few hundred simulated cells hold no groups
        assert scgpcl.metrics.nmi(adata.obs["cell_type"], adata.obs["scgpcl_cluster"]) > 0.4


def estimated(adata):
    """Number of clusters that a short training finds."""
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert set(adata.obs["scgpcl_cluster"]) <= {str(i) for i in range(model.n_clusters_)}
    return model.n_clusters_


@pytest.mark.parametrize("line", ["A549", "H1975", "H2228", "H838", "HCC827"])
def test_one_cell_line_is_one_cluster(data_dir, line):
    adata = ad.read_h5ad(data_dir / "tian_celseq2_5cl.h5ad")
    assert estimated(adata[adata.obs["cell_type"] == line].copy()) == 1


def test_cells_with_shuffled_genes_are_one_cluster():
    adata = scgpcl.datasets.pbmc3k()[:800].copy()
    counts = adata.layers.pop("counts").toarray()
    rng = np.random.default_rng(0)
    adata.X = np.stack([rng.permutation(column) for column in counts.T], axis=1)
    assert estimated(adata) == 1


def test_simulated_cells_of_one_group_are_one_cluster():
    for seed in range(3):
        assert estimated(scgpcl.simulate.splatter(300, 800, group_prob=[1.0], seed=seed)) == 1


def purity(z, types, n_neighbors=15):
    """Share of a cell's nearest cells that are of its type, mean over the cells of a type, then over types."""
    near = NearestNeighbors(n_neighbors=n_neighbors).fit(z).kneighbors(return_distance=False)
    same = (types[near] == types[:, None]).mean(1)
    return np.mean([same[types == each].mean() for each in np.unique(types)])


def test_blood_cells_fall_into_as_many_clusters_as_published_types():
    adata = scgpcl.datasets.pbmc3k()
    types = adata.obs["cell_type"].copy()
    adata.X = adata.layers["counts"].copy()
    assert estimated(adata) in (8, 9, 10)
    assert scgpcl.metrics.ari(types, adata.obs["scgpcl_cluster"]) > 0.65


def test_training_beats_its_own_start():
    """Neighbours in the latent space are of one type more often than among the components that the encoder starts at."""
    adata = scgpcl.datasets.worm_neurons()
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:1000])].copy()
    types = adata.obs["cell_type"].to_numpy().astype(str)
    scgpcl.SCGPCL.setup_anndata(adata)
    found = []
    for n_epochs in (0, 8):
        model = scgpcl.SCGPCL(adata, 10, n_top_genes=2000, gene_flavor="pearson_residuals", start="pca")
        model.train(pretrain_max_epochs=n_epochs, cluster_max_epochs=0, accelerator="cpu", enable_progress_bar=False)
        found.append(purity(model.get_latent_representation(), types))
    assert found[1] > found[0] + 0.02


@pytest.mark.slow
def test_simulated_groups_are_found(data_dir):
    """The paper's hardest dropout setting: its groups are recovered almost perfectly."""
    adata = ad.read_h5ad(data_dir / "simulated/SimT6_5.h5ad")[::2].copy()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters=6)
    model.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    assert scgpcl.metrics.ari(adata.obs["cell_type"], adata.obs["scgpcl_cluster"]) > 0.95


def test_a_labelled_reference_separates_new_cells_and_notices_a_type_that_it_lacks(data_dir):
    adata = ad.read_h5ad(data_dir / "tm_kidney_smartseq2.h5ad")
    types = adata.obs["cell_type"].astype(str).to_numpy()
    half = np.random.default_rng(0).random(adata.n_obs) < 0.5
    lacking = max(types)
    reference = adata[half & (types != lacking)].copy()
    scgpcl.SCGPCL.setup_anndata(reference, labels_key="cell_type")
    model = scgpcl.SCGPCL(reference, seed=0)
    model.train(accelerator="cpu", enable_progress_bar=False)
    query, own = adata[~half].copy(), types[~half]
    assert roc_auc_score(own == lacking, model.get_novelty(query)) > 0.8
    separated = model.get_latent_representation(query)
    del model.statistics_["type_axes"]
    clustered = model.get_latent_representation(query)
    known = own != lacking
    assert silhouette_score(separated[known], own[known]) > silhouette_score(clustered[known], own[known]) + 0.1
    assert silhouette_samples(separated, own)[~known].mean() > silhouette_samples(clustered, own)[~known].mean()
