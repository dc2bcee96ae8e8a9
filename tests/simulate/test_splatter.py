"""The counts against the numpyro model, the closed forms of its parts, and themselves."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from scipy import sparse, stats

from scgpcl import simulate
from scgpcl.simulate import _splatter

SMALL = {"group_prob": [0.5, 0.3, 0.2], "dropout_mid": 1.0, "lib_loc": 7.0}


@pytest.fixture(scope="module")
def adata():
    return simulate.splatter(batch_cells=[300, 200], n_genes=400, **SMALL, seed=3, true_means=True)


def test_has_whole_counts_truths_and_parameters(adata, tmp_path):
    for x in (adata.X, adata.layers["true_counts"]):
        assert isinstance(x, sparse.csr_matrix)
        assert x.dtype == np.int32
        assert x.has_canonical_format
        assert x.data.min() >= 1
    assert adata.shape == (500, 400)
    assert adata.obs["batch"].value_counts().to_dict() == {"Batch1": 300, "Batch2": 200}
    assert adata.obs["group"].cat.categories.tolist() == ["Group1", "Group2", "Group3"]
    assert adata.varm["de_factors"].shape == (400, 3)
    assert adata.varm["batch_factors"].shape == (400, 2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["simulation"]
    assert again["dropout_mid"] == 1.0
    assert again["batch_cells"].tolist() == [300, 200]


def test_dropout_removes_whole_counts_and_nothing_else(adata):
    true, seen = adata.layers["true_counts"].toarray(), adata.X.toarray()
    kept = seen > 0
    np.testing.assert_array_equal(seen[kept], true[kept])
    assert 0.05 < (kept.sum() / (true > 0).sum()) < 0.95


def test_expected_counts_are_library_times_share_of_the_genes(adata):
    """A loop over cells with the truths that a user gets."""
    factors, batches = adata.varm["de_factors"], adata.varm["batch_factors"]
    for i in range(0, 500, 50):
        cell = adata.obs.iloc[i]
        mean = adata.var["mean"] * factors[cell["group"]] * batches[cell["batch"]]
        np.testing.assert_allclose(adata.layers["true_means"][i], cell["lib_size"] * mean / mean.sum(), rtol=1e-3)
    outlier = adata.var["outlier_factor"] != 1
    median = adata.var["base_mean"].median()
    np.testing.assert_allclose(adata.var["mean"][outlier], median * adata.var["outlier_factor"][outlier], rtol=1e-5)
    np.testing.assert_array_equal(adata.var["mean"][~outlier], adata.var["base_mean"][~outlier])


def test_true_counts_have_the_mean_and_the_variance_of_the_gamma_poisson(adata):
    """Sums over all entries of standardised residuals and their squares, against the moments in closed form."""
    mean = adata.layers["true_means"].astype(np.float64)
    bcv2 = (0.1 + 1 / np.sqrt(mean)) ** 2 * adata.var["bcv_noise"].to_numpy()
    variance = mean + mean**2 * bcv2
    residual = adata.layers["true_counts"].toarray() - mean
    assert abs((residual / np.sqrt(variance)).mean()) < 4 / np.sqrt(residual.size)
    enough = mean > 1  # rare counts have a square of heavy tails
    np.testing.assert_allclose((residual**2 / variance)[enough].mean(), 1, atol=0.05)


@pytest.mark.parametrize("bcv_common", [0.0, 0.5])
def test_noise_of_one_gene_is_negative_binomial(bcv_common):
    """Cells that differ in nothing: with one gene all counts have the law that scipy has."""
    adata = simulate.splatter(4000, 1, lib_loc=2.0, lib_scale=1e-6, bcv_common=bcv_common, seed=1)
    mean = np.exp(2.0)
    bcv2 = (bcv_common + 1 / np.sqrt(mean)) ** 2 * adata.var["bcv_noise"].iloc[0]
    law = stats.nbinom(1 / bcv2, 1 / (1 + mean * bcv2))
    counts = adata.X.toarray().ravel()
    bins = np.arange(0, 26)
    observed = np.append([(counts == k).sum() for k in bins], (counts > bins[-1]).sum())
    expected = len(counts) * np.append(law.pmf(bins), law.sf(bins[-1]))
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_cells_and_genes_have_the_laws_of_their_parameters():
    p = {"mean_shape": 0.9, "mean_rate": 0.5, "lib_loc": 3.0, "lib_scale": 0.4, "out_prob": 0.2, "bcv_df": 20}
    de = {"de_prob": [0.1, 0.6], "de_down_prob": [0.2, 0.9], "de_fac_loc": 1.0, "de_fac_scale": 0.2}
    adata = simulate.splatter(3000, 3000, group_prob=[0.7, 0.3], **p, **de, out_fac_loc=2.0, out_fac_scale=0.3, seed=5)
    laws = (
        (adata.var["base_mean"], stats.gamma(0.9, scale=2)),
        (np.log(adata.obs["lib_size"]), stats.norm(3, 0.4)),
        (20 / adata.var["bcv_noise"], stats.chi2(20)),
    )
    for values, law in laws:
        assert stats.kstest(values, law.cdf).pvalue > 1e-3
    outlier = adata.var["outlier_factor"][adata.var["outlier_factor"] != 1]
    assert stats.binomtest(len(outlier), 3000, 0.2).pvalue > 1e-3
    # A factor below one is turned above it (Splatter), which happens to almost none at these locations.
    assert stats.kstest(np.log(outlier), stats.norm(2, 0.3).cdf).pvalue > 1e-3
    assert stats.binomtest(int((adata.obs["group"] == "Group1").sum()), 3000, 0.7).pvalue > 1e-3
    for name, prob, down in (("Group1", 0.1, 0.2), ("Group2", 0.6, 0.9)):
        factors = adata.varm["de_factors"][name]
        changed = factors[factors != 1]
        assert stats.binomtest(len(changed), 3000, prob).pvalue > 1e-3
        assert stats.binomtest(int((changed < 1).sum()), len(changed), down).pvalue > 1e-3
        assert stats.kstest(np.abs(np.log(changed)), stats.norm(1, 0.2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("factor", ["outlier", "batch"])
def test_factors_below_one_are_turned_as_in_splatter(factor):
    wide = {"out_prob": 1.0, "out_fac_loc": 0.0, "out_fac_scale": 1.0, "batch_fac_loc": 0.0, "batch_fac_scale": 1.0}
    adata = simulate.splatter(batch_cells=[5, 5], n_genes=2000, **wide, seed=2)
    if factor == "outlier":
        size = np.log(adata.var["outlier_factor"])
        assert size.min() >= 0
    else:
        size = np.log(adata.varm["batch_factors"]["Batch2"])
        assert stats.binomtest(int((size < 0).sum()), 2000, 0.5).pvalue > 1e-3
    assert stats.kstest(np.abs(size), stats.halfnorm.cdf).pvalue > 1e-3


def test_counts_are_lost_at_the_logistic_rate():
    """With hardly any noise in the cell means, the rate is that of the expected counts."""
    adata = simulate.splatter(400, 500, lib_loc=9.0, dropout_mid=2.5, dropout_shape=-1.5, true_means=True, seed=4)
    # Entries with large counts have cell means close to the count; compare those, by their size.
    true, seen = adata.layers["true_counts"].toarray(), adata.X.toarray()
    for low, high in ((60, 80), (100, 140)):
        taken = (true >= low) & (true < high)
        rate = stats.logistic.cdf(-1.5 * (np.log(true[taken]) - 2.5))
        assert taken.sum() > 500
        assert abs((seen[taken] == 0).mean() - rate.mean()) < 0.02


def test_agrees_with_the_numpyro_model():
    """Counts in blocks, given the latents of a seed, against those of the whole model: two samples of one law."""
    import jax
    from numpyro import handlers
    from numpyro.infer import Predictive

    parameters = simulate.SplatParameters(n_genes=60, batch_cells=(40, 30), **SMALL)
    adata = simulate.splatter(batch_cells=[40, 30], n_genes=60, **SMALL, seed=0)
    _, sites = _splatter._draw_latents(parameters, 0)
    given = {k: v for k, v in sites.items() if k.endswith(("_selected", "_down", "_log_size", "bcv_chi2", "base_mean"))}
    given |= {"group": sites["group"], "lib_size": sites["lib_size"]}
    model = handlers.condition(simulate.splat_model, data=given)
    drawn = Predictive(model, num_samples=300)(jax.random.key(1), parameters)
    for site, ours in (("true_counts", adata.layers["true_counts"]), ("counts", adata.X)):
        theirs, x = np.asarray(drawn[site], dtype=np.float64), ours.toarray()
        mean, sd = theirs.mean(0), theirs.std(0)
        often = mean > 0.5
        z = (x - mean)[often] / sd[often]
        assert abs(z.mean()) < 4 / np.sqrt(often.sum()), site
        np.testing.assert_allclose(z.std(), 1, atol=0.12)
        zeros = (theirs == 0).mean(0)
        expected, spread = zeros.sum(), np.sqrt((zeros * (1 - zeros)).sum())
        assert abs((x == 0).sum() - expected) < 4 * spread, site


def test_size_of_the_blocks_changes_nothing(monkeypatch, adata):
    monkeypatch.setattr(_splatter, "_BLOCK_SIZE", 400 * 7)
    other = simulate.splatter(batch_cells=[300, 200], n_genes=400, **SMALL, seed=3, true_means=True)
    assert (adata.X != other.X).nnz == 0
    assert (adata.layers["true_counts"] != other.layers["true_counts"]).nnz == 0
    np.testing.assert_array_equal(adata.layers["true_means"], other.layers["true_means"])


def test_one_seed_gives_one_data_set_and_leaves_global_state():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (simulate.splatter(50, 80, dropout_mid=0.0, seed=s) for s in (1, 1, 2))
    assert (first.X != again.X).nnz == 0
    assert (first.X != other.X).nnz > 0
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_without_dropout_the_true_counts_are_the_counts_but_not_their_memory():
    adata = simulate.splatter(30, 40, seed=1)
    assert (adata.X != adata.layers["true_counts"]).nnz == 0
    assert not np.shares_memory(adata.X.data, adata.layers["true_counts"].data)
    assert adata.uns["simulation"]["dropout_mid"] == "none"
    assert "batch_factors" not in adata.varm
    assert not simulate.splatter(30, 40, true_counts=False).layers


def test_memory_stays_that_of_the_result(monkeypatch):
    """A dense array of all cells and genes would be seen."""
    import tracemalloc

    monkeypatch.setattr(_splatter, "_BLOCK_SIZE", 2**16)
    simulate.splatter(10, 10)  # compiles
    tracemalloc.start()
    adata = simulate.splatter(4000, 1000, lib_loc=4.0, true_counts=False, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert adata.X.nnz < 0.1 * 4e6
    assert peak < 4e6 * 4  # one array of float32


def test_can_be_clustered(fit):
    adata = simulate.splatter(150, 200, group_prob=[0.5, 0.5], de_fac_scale=1.5, lib_loc=7.0, seed=0)
    fit(adata, n_clusters=2)
    assert adata.obs["scgpcl_cluster"].nunique() == 2


def test_settings_have_the_values_of_the_paper():
    small = {"batch_cells": 60, "n_genes": 150}
    wanted = {
        "dropout": (simulate.dropout(1.5, n_groups=3, **small), {"dropout_mid": 1.5, "de_fac_scale": 0.3}, 3),
        "signal": (simulate.signal(0.1, **small), {"dropout_mid": 0.0, "de_fac_scale": 0.1}, 3),
        "imbalance": (simulate.imbalance(0.1, **small), {"dropout_mid": 0.0, "de_fac_scale": 0.4}, 6),
    }
    for adata, values, n_groups in wanted.values():
        used = adata.uns["simulation"]
        assert {k: used[k] for k in values} == values
        assert len(used["group_prob"]) == n_groups
        assert used["dropout_shape"] == -1
        assert (np.asarray((adata.X > 0).sum(0)) > 0).all()
        assert (np.asarray((adata.X > 0).sum(1)) > 0).all()
    # Shares that are printed in the published notebook.
    np.testing.assert_allclose(
        wanted["imbalance"][0].uns["simulation"]["group_prob"],
        [0.03030303, 0.08484848, 0.13939394, 0.19393939, 0.24848485, 0.3030303],
        atol=1e-7,
    )


def test_jax_is_imported_at_the_first_simulation_only():
    code = (
        "import sys; before = set(sys.modules); import scgpcl; from scgpcl import simulate; import scgpcl.simulate._model;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; print({'jax', 'numpyro'} & new)"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_missing_numpyro_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(ImportError) as error:
        simulate.splatter(10, 10)
    assert "pip install 'scgpcl[simulate]'" in error.value.__notes__[0]
