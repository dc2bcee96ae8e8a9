"""Runs: what is scored, what a method sees, what goes wrong and what goes on."""

import json
import logging
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    f1_score,
    normalized_mutual_info_score,
    silhouette_score,
)

from scgpcl import benchmark
from scgpcl.benchmark import _datasets, _scores
from scgpcl.benchmark._results import COLUMNS

KEYS = ["dataset", "method", "seed"]


def go(data, methods, out, **kwargs):
    return benchmark.run(data, methods, out=out, **{"seeds": 1, "threads": 1, "progress": False, **kwargs})


def test_one_row_per_set_method_and_seed(finished, data):
    out, table = finished
    expected = [(d, m, s) for d in ("three", "two") for m in ("pca-kmeans", "svd", "fails") for s in (0, 1)]
    assert sorted(table[KEYS].itertuples(index=False, name=None)) == sorted(expected)
    assert list(table) == COLUMNS
    written = pd.read_csv(out / "results.csv", keep_default_na=False)
    assert list(written) == COLUMNS
    assert written["ari"].replace("", np.nan).astype(float).tolist() == pytest.approx(
        table["ari"].tolist(), nan_ok=True
    )
    assert (table["n_cells"] == 60).all()
    assert (table["n_genes"] == 40).all()
    assert (table["n_types"] == table["dataset"].map({"three": 3, "two": 2})).all()


def test_scores_are_those_of_scikit_learn(finished, data):
    out, table = finished
    good = table[table["error"] == ""]
    assert len(good) == 8
    for row in good.itertuples():
        types = ad.read_h5ad(data / f"{row.dataset}.h5ad").obs["cell_type"].astype(str).to_numpy()
        labels, latent = benchmark.load_run(out, row.dataset, row.method, row.seed)
        assert row.n_clusters == len(set(labels))
        assert row.ari == pytest.approx(adjusted_rand_score(types, labels), abs=1e-5)
        assert row.nmi == pytest.approx(normalized_mutual_info_score(types, labels), abs=1e-5)
        assert row.silhouette == pytest.approx(silhouette_score(latent, types), abs=1e-5)
        named = np.array([benchmark_names(types, labels)[label] for label in labels])
        assert row.acc == pytest.approx(accuracy_score(types, named), abs=1e-5)
        assert row.macro_f1 == pytest.approx(f1_score(types, named, labels=list(set(types)), average="macro"), abs=1e-5)
        assert latent.dtype == np.float32
        assert row.train_seconds > 0


def benchmark_names(types, labels):
    """Best one-to-one naming of clusters, by trying all."""
    from itertools import permutations

    clusters, names = sorted(set(labels)), sorted(set(types))
    table = pd.crosstab(types, labels)
    names += [""] * (len(clusters) - len(names))
    right = lambda order: sum(table.loc[n, c] for n, c in zip(order, clusters, strict=False) if n)
    return dict(zip(clusters, max(permutations(names), key=right), strict=False))


def test_easy_sets_are_recovered(finished):
    table = finished[1].set_index("method")
    assert (table.loc["pca-kmeans", "ari"] > 0.95).all()


def test_methods_see_nothing_of_the_types(data, tmp_path):
    table = go(data, ["spy"], tmp_path / "a")
    assert (table["error"] == "").all()
    # and each has its own copy: the spy has overwritten its counts
    table = go(data, ["spy", "svd"], tmp_path / "b", batch_key="batch", n_clusters="auto", seeds=2)
    assert (table["error"] == "").all()
    assert (table.loc[table["method"] == "svd", "n_clusters"] == 2).all()
    assert (table.loc[table["method"] == "spy", "n_clusters"] == 5).all()


def test_shuffled_labels_change_no_cluster(finished, data, tmp_path):
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    rng = np.random.default_rng(0)
    for path in data.glob("*.h5ad"):
        adata = ad.read_h5ad(path)
        adata.obs["cell_type"] = rng.permutation(adata.obs["cell_type"].to_numpy())
        adata.write_h5ad(shuffled / path.name)
    table = go(shuffled, ["pca-kmeans", "svd"], tmp_path / "out", seeds=2)
    assert (table["ari"] < 0.3).all()
    for dataset, method, seed in table[KEYS].itertuples(index=False, name=None):
        ours, theirs = (benchmark.load_run(o, dataset, method, seed) for o in (tmp_path / "out", finished[0]))
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.latent, theirs.latent)


def test_shuffled_labels_change_nothing_that_any_method_sees(data, tmp_path):
    adata = ad.read_h5ad(data / "three.h5ad")
    adata.obs["cell_type"] = np.random.default_rng(0).permutation(adata.obs["cell_type"].to_numpy())
    adata.obs_names = [f"other{i}" for i in range(adata.n_obs)]
    adata.write_h5ad(tmp_path / "shuffled.h5ad")
    sets = [
        _datasets.read_dataset(path, labels="cell_type", batch_key="batch")
        for path in (data / "three.h5ad", tmp_path / "shuffled.h5ad")
    ]
    assert (sets[0].types != sets[1].types).any()
    for i, dataset in enumerate(sets):
        _datasets.write_visible(dataset, tmp_path / f"{i}.npz")
    with np.load(tmp_path / "0.npz") as one, np.load(tmp_path / "1.npz") as other:
        assert set(one) == set(other) == {"data", "indices", "indptr", "shape", "genes", "batch"}
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_same_seed_same_result_in_another_process(finished, data, tmp_path):
    go(data, ["svd"], tmp_path / "out", seeds=[1], datasets=["two"])
    np.testing.assert_array_equal(
        benchmark.load_run(tmp_path / "out", "two", "svd", 1).labels,
        benchmark.load_run(finished[0], "two", "svd", 1).labels,
    )


def test_batches_reach_a_method_that_asks(data, tmp_path):
    table = go(data / "two.h5ad", ["batches"], tmp_path / "out", batch_key="batch")
    assert table["n_clusters"].tolist() == [2]
    labels, latent = benchmark.load_run(tmp_path / "out", "two", "batches", 0)
    assert labels.tolist() == ["a", "b"] * 30
    assert latent is None
    assert np.isnan(table["silhouette"]).all()


def test_memory_is_that_of_the_method(data, tmp_path):
    table = go(data / "two.h5ad", ["memory", "one"], tmp_path / "out").set_index("method")
    assert 195 < table.loc["memory", "peak_memory_mb"] < 260
    assert table.loc["one", "peak_memory_mb"] < 20


def test_threads_are_limited_and_words_are_kept_away(data, tmp_path, capfd):
    table = go(data / "two.h5ad", ["threads"], tmp_path / "out", threads=1)
    assert table["n_clusters"].tolist() == [1]
    assert "a method may print" not in capfd.readouterr().out
    assert not list((tmp_path / "out" / "runs").glob("*.log"))


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("fails", "ValueError: first line second | line"),
        ("killed", "ProcessError: The process of the run was killed by SIGKILL."),
        ("leaves", "ProcessError: The process of the run ended with exit code 3 before it had a result."),
        ("too-short", "shape (60,), found shape (3,)."),
        ("gaps", "found 1 missing"),
        ("infinite", "found 60 cells without"),
    ],
)
def test_a_failing_method_is_a_row(data, tmp_path, method, error):
    table = go(data / "two.h5ad", [method, "one"], tmp_path / "out").set_index("method")
    assert error in table.loc[method, "error"]
    assert table.loc[method, ["ari", "train_seconds", "n_clusters"]].isna().all()
    assert table.loc[method, "n_types"] == 2
    assert table.loc["one", "error"] == ""
    assert table.loc["one", "ari"] == 0


def test_the_log_of_a_failure_is_kept(finished):
    log = finished[0] / "runs" / "two__fails__0.log"
    assert "Traceback" in log.read_text()
    assert "cheap.py" in log.read_text()


def test_a_run_that_takes_too_long_is_stopped(data, tmp_path):
    start = time.monotonic()
    table = go(data / "two.h5ad", ["slow"], tmp_path / "out", timeout=0.5)
    assert time.monotonic() - start < 30
    assert table["error"].tolist() == ["TimeoutError: Expected the run to end within 0.5 s; it was stopped."]


def test_methods_that_need_the_number_say_so(data, tmp_path):
    table = go(data / "two.h5ad", ["pca-kmeans"], tmp_path / "out", n_clusters="auto")
    assert "number of clusters, which k-means needs" in table["error"][0]


def test_bad_sets_are_rows(data, tmp_path):
    sets = tmp_path / "sets"
    sets.mkdir()
    good = ad.read_h5ad(data / "two.h5ad")
    good.write_h5ad(sets / "good.h5ad")
    (sets / "text.h5ad").write_text("gene,cell\n")
    for name, change in {
        "unlabelled": lambda a: a.obs.pop("cell_type"),
        "partly": lambda a: a.obs.insert(0, "x", 0) or a.obs.__setitem__("cell_type", ["a", None] * 30),
        "alike": lambda a: a.obs.__setitem__("cell_type", "a"),
        "empty": lambda a: delattr(a, "X"),
    }.items():
        adata = good.copy()
        change(adata)
        adata.write_h5ad(sets / f"{name}.h5ad")
    table = go(sets, ["one"], tmp_path / "out").set_index("dataset")
    assert table.loc["good", "error"] == ""
    for name, words in {
        "text": "Expected an h5ad file",
        "unlabelled": "obs['cell_type']",
        "partly": "found 30 without",
        "alike": "at least two types",
        "empty": "Expected counts",
    }.items():
        assert words in table.loc[name, "error"], name
        assert "\n" not in table.loc[name, "error"]
        assert pd.isna(table.loc[name, "n_cells"])


def test_goes_on_where_it_stopped(data, tmp_path, caplog):
    out = tmp_path / "out"
    first = go(data / "two.h5ad", ["svd", "fails"], out)
    # a mark in a finished row shows whether it was run again
    marked = first.assign(ari=first["ari"].where(first["error"] != "", 0.123))
    marked.to_csv(out / "results.csv", index=False)
    caplog.set_level(logging.INFO, logger="scgpcl.benchmark")
    table = go(data, ["svd", "fails"], out, seeds=2)
    assert "2 of 8 runs are already done." in caplog.text
    assert len(caplog.messages) == 1 + 6
    assert "three / svd / seed 1: ARI" in caplog.text
    assert len(table) == 8
    assert not table.duplicated(KEYS).any()
    same = table.set_index(KEYS).loc[("two", "svd", 0)]
    assert same["ari"] == 0.123

    caplog.clear()
    assert len(go(data, ["svd", "fails"], out, seeds=2)) == 8
    assert caplog.messages == ["8 of 8 runs are already done."]
    caplog.clear()
    table = go(data, ["svd", "fails"], out, seeds=2, retry_errors=True)
    assert len(caplog.messages) == 1 + 4
    assert len(table) == 8
    assert table.set_index(KEYS).loc[("two", "svd", 0), "ari"] == 0.123


def test_an_interruption_keeps_what_is_done(data, tmp_path, monkeypatch):
    from scgpcl.benchmark import _run

    calls = []
    real = _run.run_job

    def interrupted(job, **kwargs):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(job, **kwargs)

    monkeypatch.setattr(_run, "run_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(data, ["one"], tmp_path / "out", seeds=2)
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == 1
    monkeypatch.setattr(_run, "run_job", real)
    assert len(go(data, ["one"], tmp_path / "out", seeds=2)) == 4


def test_results_of_other_settings_are_refused(data, tmp_path):
    out = tmp_path / "out"
    go(data / "two.h5ad", ["one"], out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changes = [{"labels": "also"}, {"batch_key": "batch"}, {"n_clusters": "auto"}, {"threads": 2}]
    for change in changes:
        with pytest.raises(ValueError, match=rf"same settings, found {next(iter(change))}="):
            go(data, ["one"], out, **change)
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps({**settings, "scgpcl": "0.0.1"}))
    with pytest.raises(ValueError, match=r"scgpcl='0\.0\.1'"):
        go(data, ["one"], out)
    (out / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings of .*results\.csv"):
        go(data, ["one"], out)
    assert {path: path.read_bytes() for path in before if path.exists() and path.name != "settings.json"} == {
        path: content for path, content in before.items() if path.name != "settings.json"
    }


def test_a_foreign_table_is_refused(data, tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="table of an earlier benchmark"):
        go(data, ["one"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_a_set_may_have_any_name(data, tmp_path):
    for name in ("NA", "null", "1"):
        (tmp_path / f"{name}.h5ad").write_bytes((data / "two.h5ad").read_bytes())
    table = go(tmp_path, ["one"], tmp_path / "out")
    assert sorted(table["dataset"]) == ["1", "NA", "null"]
    assert len(go(tmp_path, ["one"], tmp_path / "out")) == 3


def test_silhouette_of_many_cells_is_that_of_a_sample():
    rng = np.random.default_rng(0)
    types = rng.integers(3, size=6000)
    latent = rng.normal(types[:, None], 1.0, (6000, 3)).astype(np.float32)
    sampled = _scores.silhouette(latent, types)
    assert sampled == _scores.silhouette(latent, types)
    assert sampled == pytest.approx(silhouette_score(latent, types), abs=0.01)
    assert np.isnan(_scores.silhouette(latent[:5], np.arange(5)))


def test_a_run_that_is_not_there(finished):
    with pytest.raises(ValueError, match="found none"):
        benchmark.load_run(finished[0], "two", "svd", 9)
