"""The methods of the package, and those of users."""

import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from scgpcl import benchmark, metrics
from scgpcl.benchmark import _registry

GUIDE = Path(__file__).parents[2] / "docs" / "benchmark.md"
BUILTIN = ["pca-kmeans", "pca-leiden", "scgpcl", "scgpcl-paper", "scvi-kmeans"]


@pytest.fixture(scope="module")
def method():
    """A method by name, as a run loads it."""
    return lambda name: _registry.load(_registry.find_source(name))


def visible(adata):
    """What a run gives to a method."""
    return ad.AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy(), var=pd.DataFrame(index=adata.var_names))


def test_all_are_known():
    assert benchmark.method_names()[:5] == BUILTIN
    assert "svd" in benchmark.method_names()


#: What the libraries say of themselves: scanpy scales sparse counts, Lightning counts batches and uses an old name of torch.
SCANPY_AND_SCVI = pytest.mark.filterwarnings(
    "ignore:zero-centering a sparse array", "ignore:.*LeafSpec.* is deprecated", "ignore:The number of training batches"
)


@SCANPY_AND_SCVI
@pytest.mark.parametrize("name", BUILTIN)
def test_each_recovers_easy_types(method, make_set, name):
    adata = make_set(3, seed=0, n_cells=90)
    labels, latent = method(name)(visible(adata), 3, seed=0, batch_key="batch")
    assert np.shape(labels) == (90,)
    assert len(set(labels)) == 3
    assert latent.shape[0] == 90
    assert np.isfinite(latent).all()
    assert metrics.ari(adata.obs["cell_type"], labels) > 0.8


def test_the_published_share_of_genes_is_not_taken_twice(monkeypatch):
    from scgpcl import presets
    from scgpcl.benchmark.methods import scgpcl_paper

    monkeypatch.setattr(scgpcl_paper, "fit", lambda adata, n_clusters, preset, **more: preset)
    for n_genes, wanted in ((2000, None), (2001, 0.2)):
        preset = scgpcl_paper.scgpcl_paper(ad.AnnData(np.ones((3, n_genes))), 2, seed=0, batch_key=None)
        assert preset["model"] == {**presets.PAPER["model"], "n_top_genes": wanted}
        assert preset["train"] == presets.PAPER["train"]


@SCANPY_AND_SCVI
def test_components_are_those_of_scanpy(make_set):
    """Up to sign; the two that tell three types apart, for the others are noise of nearly equal variance."""
    from scgpcl.benchmark.methods.pca_kmeans import components

    adata = make_set(3, seed=0, n_cells=100, n_genes=2100)
    z = components(visible(adata), seed=0)
    assert z.shape == (100, 50)
    other = visible(adata)
    sc.pp.normalize_total(other, target_sum=1e4)
    sc.pp.log1p(other)
    sc.pp.highly_variable_genes(other, n_top_genes=2000, flavor="seurat")
    sc.pp.scale(other, max_value=10)
    sc.pp.pca(other, n_comps=50, mask_var="highly_variable", random_state=0)
    np.testing.assert_allclose(np.abs(z[:, :2]), np.abs(other.obsm["X_pca"][:, :2]), rtol=1e-3, atol=1e-3)


@SCANPY_AND_SCVI
def test_leiden_finds_the_number_by_itself(method, make_set):
    adata = make_set(3, seed=0, n_cells=90)
    labels, _ = method("pca-leiden")(visible(adata), None, seed=0, batch_key=None)
    z = method("pca-kmeans")(visible(adata), 3, seed=0, batch_key=None).latent
    other = ad.AnnData(obsm={"z": z}, shape=(len(z), 0))
    sc.pp.neighbors(other, use_rep="z", random_state=0)
    sc.tl.leiden(other, 1.0, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    assert metrics.ari(labels, other.obs["leiden"]) == 1


def test_bisection_of_the_resolution(method):
    method("pca-leiden")
    from scgpcl.benchmark.methods.pca_leiden import at_number

    tried = []

    def cluster(resolution):
        tried.append(resolution)
        return np.arange(1000) % max(1, int(8 * resolution))

    for wanted in (1, 2, 8, 37, 100):
        assert len(set(at_number(cluster, wanted))) == wanted
    # a number that no resolution has: the closest one
    assert len(set(at_number(lambda r: np.arange(100) % (2 if r < 3 else 9), 7))) == 9
    assert min(tried) > 0


# methods of users


def guide_method() -> str:
    """The method that the guide shows."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S) if "@register" in b]
    return block


def test_the_method_of_the_guide_has_ten_lines_and_works(command, data, tmp_path):
    code = guide_method()
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 10
    path = tmp_path / "my_method.py"
    path.write_text(code)
    name = re.search(r'@register\("(.+)"\)', code)[1]
    out = tmp_path / "out"
    result = command(data, "--methods", name, "--register", path, "--seeds", 1, "--threads", 1, "--out", out)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "results.csv")
    assert table["error"].isna().all()
    assert (table["ari"] > 0.9).all()


SCRIPT = """
import sys
from scgpcl import benchmark

@benchmark.register("in-a-script")
def method(adata, n_clusters, *, seed, batch_key):
    return [0] * adata.n_obs

{guard}benchmark.run(sys.argv[1], ["in-a-script"], out=sys.argv[2], seeds=1, progress=False)
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__":\n    ', ""], ids=["guarded", "not guarded"])
def test_a_script_with_a_method(data, tmp_path, guard):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT.format(guard=guard))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, data / "two.h5ad", out], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    error = pd.read_csv(out / "results.csv", keep_default_na=False)["error"][0]
    # without the guard each run would start the benchmark again
    assert ("ended with exit code" in error) is (guard == "")
    assert error == "" or '`if __name__ == "__main__":`' in error


def test_names_and_places_that_no_run_would_find():
    with pytest.raises(ValueError, match="letters, digits"):
        benchmark.register("a/b")

    def local(adata, n_clusters, *, seed, batch_key):
        return [0] * adata.n_obs

    with pytest.raises(ValueError, match="top level of a file"):
        benchmark.register("local")(local)
    assert "local" not in benchmark.method_names()


def test_a_file_that_no_longer_registers_its_method(tmp_path):
    path = tmp_path / "changed.py"
    path.write_text("from scgpcl.benchmark import register\n")
    with pytest.raises(RuntimeError, match="to register 'vanished'"):
        _registry.load(_registry.Source("vanished", "", str(path)))
