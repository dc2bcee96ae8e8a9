"""What the benchmarks of steps, scale and peers measure."""

import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_products_are_found_with_their_sizes(load):
    products = load("_products")
    a, b, bias = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True), torch.randn(5)
    sparse = torch.eye(3).to_sparse_csr()
    found = products.products_of(lambda: (sparse @ torch.addmm(bias, a, b)).sum().backward())
    sizes = [product[:3] for product in found]
    assert sizes == [(3, 4, 5), (3, 5, 4), (4, 3, 5)] or sizes == [(3, 4, 5), (4, 3, 5), (3, 5, 4)]
    assert sum(product.flops for product in found) == 3 * 2 * 3 * 4 * 5


def test_parts_of_a_step_add_up_and_train(load):
    runs, step = load("_runs"), load("step")
    run = step.StepRun(runs.measure_features(runs.simulate(300, n_genes=100)), "default")
    before = [p.detach().clone() for p in run.plan.module.parameters()]
    ticks = iter(range(10_000))
    run.clock = lambda: float(next(ticks))  # every reading is one tick after the last
    parts, floor = run.measure()
    assert set(parts) == set(step.PARTS)
    assert all(seconds > 0 for seconds in parts.values())
    assert floor == 1.0
    # two readings for each of four outer parts, and for each of the six calls inside the step
    assert sum(parts.values()) == pytest.approx(1 + (2 * 5 + 1) + 1 + 1)
    assert any(not torch.equal(p, old) for p, old in zip(run.plan.module.parameters(), before, strict=True))


def test_blocks_of_simulated_cells_share_their_groups(load):
    scale, runs = load("scale"), load("_runs")
    first, second = (runs.simulate(2000, n_genes=40, cell_seed=seed) for seed in (0, 1))
    assert (first != second).nnz
    means = [np.asarray(x.mean(0)).ravel() for x in (first, second)]
    assert np.corrcoef(*means)[0, 1] > 0.99
    data = scale.simulate_many(500)
    assert data.counts.shape == (500, 2000)
    assert abs(data.counts.nnz / 500 / 2000 - 0.07) < 0.01


def test_simulated_groups_are_those_of_the_counts(load):
    from sklearn.linear_model import LogisticRegression

    runs = load("_runs")
    counts, groups = runs.simulate(600, n_genes=300), runs.simulated_groups(600)
    x = np.log1p(counts.toarray())
    assert LogisticRegression(max_iter=200).fit(x[:400], groups[:400]).score(x[400:], groups[400:]) > 0.8


@pytest.mark.slow
def test_peers_are_written_side_by_side(load, tmp_path, adata, monkeypatch, capsys):
    peers = load("peers")
    adata.obs["cell_type"] = adata.obs["group"].to_numpy()
    adata.write_h5ad(tmp_path / "small.h5ad")
    arguments = [
        str(tmp_path / "small.h5ad"),
        "--methods",
        "pca-leiden",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    monkeypatch.setattr("sys.argv", ["peers", *arguments])
    peers.main()
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["dataset", "method", *peers.COLUMNS.values()]
    row = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert row[:2] == ["small", "pca-leiden"]
    assert float(row[2]) > 0
    assert -1 <= float(row[4]) <= 1


def test_simulated_set_for_peers_is_a_labelled_file(load, tmp_path):
    path = load("peers").write_simulated(50, tmp_path)
    adata = ad.read_h5ad(path)
    assert adata.shape == (50, 2000)
    assert adata.obs["cell_type"].nunique() > 1
