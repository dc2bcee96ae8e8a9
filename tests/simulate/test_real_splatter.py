"""Against sets that the R package Splatter made."""

import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import stats

from scgpcl import simulate
from scgpcl.simulate import _model, _splatter


@pytest.fixture
def simulator(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.simulator")


@pytest.fixture(scope="module")
def imbalanced(data_dir):
    return ad.read_h5ad(data_dir / "simulated" / "Imb1.h5ad")


def latents_of(adata: ad.AnnData, parameters: simulate.SplatParameters) -> _model.Latents:
    """The truths that Splatter stored with a set; the noise of each gene, which it does not store, from its law."""
    n_batches = parameters.n_batches
    group = adata.obs["Group"].to_numpy() - 1
    batch = adata.obs["batch"].cat.codes.to_numpy() if n_batches > 1 else np.zeros(adata.n_obs, dtype=int)
    groups = np.array([adata.var[f"DEFacGroup{k + 1}"] for k in range(parameters.n_groups)])
    names = [f"BatchFacBatch{b + 1}" for b in range(n_batches)] if n_batches > 1 else []
    batches = np.array([adata.var[n] for n in names]) if names else np.ones((1, adata.n_vars))
    profiles = adata.var["GeneMean"].to_numpy() * batches[:, None] * groups
    profiles /= profiles.sum(-1, keepdims=True)
    noise = parameters.bcv_df / stats.chi2(parameters.bcv_df).rvs(adata.n_vars, random_state=1)
    return _model.Latents(profiles, noise, batch, group, adata.obs["ExpLibSize"].to_numpy())


@pytest.mark.parametrize("name", ["Imb1", "Batch8"])
def test_with_the_truths_of_splatter_genes_and_cells_have_its_counts(simulator, data_dir, name):
    """Gene by gene and cell by cell: only the counts are drawn anew."""
    reference = ad.read_h5ad(data_dir / "simulated" / f"{name}.h5ad")
    parameters = simulate.SplatParameters(
        **_lists(simulator.parameters_of(reference.uns["source"])) | {"n_genes": reference.n_vars}
    )
    x, _ = _splatter._draw_counts(parameters, latents_of(reference, parameters), 0, keep_true=False)
    # Rare genes all have a count in the reference, where those without were left out: they are not compared.
    often = np.asarray(reference.X.mean(0)).ravel() > 0.1
    means, zeros = [], []
    for counts in (reference.X, x):
        means.append(np.log(np.maximum(np.asarray(counts.mean(0)).ravel()[often], 1e-3)))
        zeros.append(1 - counts.getnnz(0)[often] / counts.shape[0])
    n_cells = reference.n_obs
    # Standard errors of both sets: a variance of about m + m * m / 5 at most counts above one, and dropout.
    assert abs(np.median(means[0] - means[1])) < 0.01
    np.testing.assert_allclose(np.corrcoef(means)[0, 1], 1, atol=2e-3)
    standard_error = np.sqrt((zeros[0] * (1 - zeros[0]) + zeros[1] * (1 - zeros[1]) + 1e-3) / n_cells)
    z = (zeros[0] - zeros[1]) / standard_error
    assert abs(z.mean()) < 0.2
    assert 0.8 < z.std() < 1.3
    variances = [_variance(counts)[often] for counts in (reference.X, x)]
    assert abs(np.median(np.log(variances[0] / variances[1]))) < 0.02
    totals = [np.log(np.asarray(counts.sum(1)).ravel()) for counts in (reference.X, x)]
    assert abs(np.mean(totals[0] - totals[1])) < 0.01
    assert np.corrcoef(totals)[0, 1] > 0.95


@pytest.mark.parametrize("name", ["Sig1", "Batch8"])
def test_genes_groups_and_cells_have_the_laws_of_splatter(simulator, data_dir, name):
    """What is drawn before the counts, against the truths that Splatter stored."""
    obs, var, source = _truths(data_dir / "simulated" / f"{name}.h5ad")
    parameters = simulate.SplatParameters(**_lists(simulator.parameters_of(source)))
    _, sites = _splatter._draw_latents(parameters, 0)
    factors = np.array([var[f"DEFacGroup{k + 1}"] for k in range(parameters.n_groups)])
    pairs = [
        (obs["ExpLibSize"], sites["lib_size"]),
        (var["BaseGeneMean"], sites["base_mean"]),
        (var["OutlierFactor"][var["OutlierFactor"] != 1], sites["outlier_factor"][sites["outlier_factor"] != 1]),
        (factors[factors != 1], sites["de_factor"][sites["de_factor"] != 1]),
    ]
    if parameters.n_batches > 1:
        pairs.append((np.ravel([var[f"BatchFacBatch{b + 1}"] for b in range(3)]), sites["batch_factor"]))
    for theirs, ours in pairs:
        # Genes without a count, less than two in a hundred, are not in the file.
        assert (
            stats.ks_2samp(theirs, np.ravel(ours)).statistic
            < 1.95 * np.sqrt(1 / len(theirs) + 1 / np.size(ours)) + 0.02
        )
    assert abs((factors != 1).mean() - (sites["de_factor"] != 1).mean()) < 0.02


def test_another_draw_looks_like_the_reference(simulator, imbalanced):
    """Genes are drawn anew as well, so the tolerances are those between two seeds."""
    other = simulate.imbalance(0.1, seed=0, true_counts=False)
    used = simulate.splatter(20, 20, group_prob=[1.0])  # any set: names of all parameters
    assert set(simulator.parameters_of(imbalanced.uns["source"])) <= set(used.uns["simulation"])
    for name, value in simulator.parameters_of(imbalanced.uns["source"]).items():
        np.testing.assert_allclose(np.ravel(other.uns["simulation"][name]).mean(), np.mean(value), err_msg=name)
    distance = simulator.compare(imbalanced, other)
    assert distance["log variance at a mean"] < 0.1
    assert distance["zeros at a mean"] < 0.03
    assert distance["mean of genes (KS)"] < 0.05
    assert distance["zeros of genes (KS)"] < 0.05
    assert distance["median log library size"] < 0.04
    assert distance["sd of log library size"] < 0.02
    assert distance["median zeros of cells"] < 0.03
    # The comparison sees what it should: another dropout, another noise.
    wrong = simulate.imbalance(0.1, seed=0, true_counts=False, dropout_mid=1.0)
    assert simulator.compare(imbalanced, wrong)["zeros at a mean"] > 0.05
    wrong = simulate.imbalance(0.1, seed=0, true_counts=False, bcv_common=0.4)
    assert simulator.compare(imbalanced, wrong)["log variance at a mean"] > 0.2


@pytest.mark.filterwarnings("ignore:zero-centering a sparse array:UserWarning")
@pytest.mark.parametrize("name", ["Imb1", "Batch8"])
def test_pca_and_kmeans_find_the_groups_as_well(simulator, data_dir, name):
    """All groups in one set, hardly any in the other, where k-means follows the batches."""
    reference = ad.read_h5ad(data_dir / "simulated" / f"{name}.h5ad")
    other = simulator.like(reference, seed=0)
    theirs = simulator.pca_kmeans_ari(reference, reference.obs["cell_type"])
    ours = simulator.pca_kmeans_ari(other, other.obs["group"])
    assert abs(ours - theirs) < 0.05


def _truths(path):
    adata = ad.read_h5ad(path, backed="r")
    result = adata.obs.copy(), adata.var.copy(), dict(adata.uns["source"])
    adata.file.close()
    return result


def _variance(counts):
    return np.asarray(counts.astype(np.float64).power(2).mean(0) - np.square(counts.mean(0))).ravel()


def _lists(parameters):
    return {k: [v] if k == "batch_cells" and np.ndim(v) == 0 else v for k, v in parameters.items()}
