import argparse
import importlib
import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import scgpcl
from scgpcl.cluster import Evidence, kmeans
from scgpcl.nn import shrink_length
from scgpcl.train import ClusterPlan, DistillationPlan, PretrainPlan


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.search")


@pytest.fixture
def readout(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.readout")


def test_every_variant_changes_something_that_exists(search):
    model = inspect.signature(scgpcl.SCGPCL).parameters
    module = inspect.signature(scgpcl.SCGPCL(_cells(20), n_clusters=2).module.__class__).parameters
    train = inspect.signature(scgpcl.SCGPCL.train).parameters
    plan = inspect.signature(PretrainPlan).parameters
    defaults = {name: each.default for name, each in plan.items() if each.default is not each.empty}
    whole = lambda m, t: (m, {**t, "pretrain_plan_kwargs": {**defaults, **t["pretrain_plan_kwargs"]}})
    plain = {name: whole(*search.settings(name)) for name in ("default", "paper")}
    for name in [*search.VARIANTS, *search.PAPER_VARIANTS]:
        for_model, for_train = search.settings(name)
        assert set(for_model) <= set(model) | set(module)
        assert set(for_train) <= set(train)
        known = {"n_neighbors"} | set(plan) | set(inspect.signature(PretrainPlan.__mro__[1]).parameters)
        assert set(for_train["pretrain_plan_kwargs"]) <= known
        second = ClusterPlan if for_train.get("clustering") == "self_training" else DistillationPlan
        assert set(for_train.get("cluster_plan_kwargs", {})) <= set(inspect.signature(second).parameters)
        same = whole(for_model, for_train) == plain["paper" if name in search.PAPER_VARIANTS else "default"]
        assert same == (name in {"default", "paper", "lambda2_0.5", "paper_lambda2_0.05"})


def test_both_stages_are_scored_and_whole_latents_kept(search, tmp_path, monkeypatch):
    adata = _cells(120)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setitem(search.VARIANTS, "short", ({}, {}, {"pretrain_max_epochs": 2, "cluster_max_epochs": 1}))
    rows = search.run(tmp_path / "cells.h5ad", "short", 0, tmp_path)
    assert [(row["stage"], row["epochs"]) for row in rows] == [("pretrain", 2), ("cluster", 1)]

    truth = adata.obs.pop("cell_type").to_numpy()
    scgpcl.SCGPCL.setup_anndata(adata)
    model = scgpcl.SCGPCL(adata, n_clusters=len(set(truth)), seed=0)
    model.train(pretrain_max_epochs=2, cluster_max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert rows[1]["ari"] == round(adjusted_rand_score(truth, model.predict()), 4)
    model.cut((len(model.get_tree()) + 1) // 2)  # the tree of so few cells has fewer levels than 1.5 times the types
    assert rows[1]["ari_finer"] == round(adjusted_rand_score(truth, model.predict()), 4)
    vectors = dict(np.load(tmp_path / "short~cells~0.npz"))
    assert list(vectors) == ["trained", *(f"components {draw}" for draw in range(1 + search.N_DRAWS))]
    assert vectors["trained"].shape == (120, 64)
    assert (
        np.linalg.norm(vectors["trained"], axis=1).std() > 0.05
    )  # vectors shortened to unit length would all be alike
    whole, first, second = (vectors[f"components {draw}"] for draw in range(3))
    assert whole.shape == first.shape == (120, 24)
    assert np.abs(whole.mean(0)).max() < 1e-4
    assert not np.array_equal(first, second)
    similarity = lambda a, b: (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert 0.5 < similarity(whole, first) < 0.999  # a draw has some molecules of the same cells


def test_summary_uses_the_runs_that_all_variants_have(search):
    table = pd.DataFrame(
        [("a", "x", 0, 0.2), ("a", "x", 1, 0.4), ("a", "y", 0, 0.9), ("b", "x", 0, 0.5), ("b", "x", 1, 0.5)],
        columns=["variant", "dataset", "seed", "ari"],
    ).assign(stage="cluster", epochs=3, seconds=1.0)
    means = search.summary(table)
    assert means.loc[("a", "cluster"), "ari"] == pytest.approx(0.3)  # without y, which b has not been run on
    assert means.loc[("a", "cluster"), "runs"] == 2


def test_a_variant_is_chosen_on_the_other_families(search):
    scores = {
        "pbmc3k": {"a": 0.9, "b": 0.1},
        "pbmc4k_top2000": {"a": 0.7, "b": 0.3},
        "worm_neuron": {"a": 0.2, "b": 0.4},
        "tian_celseq2_5cl": {"a": 0.3, "b": 0.6},
    }
    table = pd.DataFrame(
        [
            (v, name, seed, *[s + 0.1] * 3, *[s - 0.1] * 3)
            for name, of in scores.items()
            for v, s in of.items()
            for seed in (0, 1)
        ],
        columns=["variant", "dataset", "seed", *search.SCORES, *(f"{name}_finer" for name in search.SCORES)],
    ).assign(stage="cluster")
    found = search.left_out(table)
    assert found["chosen"].to_dict() == {"blood": "b", "neurons": "a", "cell lines": "a"}
    assert found["score"].to_dict() == pytest.approx({"blood": 0.2, "neurons": 0.2, "cell lines": 0.3})
    assert found.loc["blood", "best score"] == pytest.approx(0.8)


def vectors_of(z):
    return {"trained": z[0], **{f"components {draw}": each for draw, each in enumerate(z[1:])}}


def test_every_readout_finds_separate_groups(readout):
    rng = np.random.default_rng(0)
    truth = np.repeat(list("abc"), 40)
    z = (np.repeat(10 * np.eye(3), 40, 0) + rng.normal(size=(3, 120, 3))).astype(np.float32)
    rows = readout.scored(vectors_of(z), truth, seed=0)
    assert [row["readout"] for row in rows] == list(readout.READOUTS)
    assert all(row["ari"] == 1.0 and row["smallest"] == 40 for row in rows)


def test_the_consensus_is_that_of_all_draws(readout):
    z = np.random.default_rng(0).normal(size=(4, 90, 4)).astype(np.float32)
    found = readout.readouts(vectors_of(z), 4, seed=2)
    draws = torch.from_numpy(z)
    np.testing.assert_array_equal(found["consensus"], Evidence.of(draws, 4, seed=2).support(4).argmax(1))
    np.testing.assert_array_equal(found["consensus of trained"], Evidence.of(draws[:1], 4, seed=2).support(4).argmax(1))
    np.testing.assert_array_equal(
        found["consensus of components"], Evidence.of(draws[1:], 4, seed=2).support(4).argmax(1)
    )
    labels = kmeans(shrink_length(draws[1], 1.0), 4, n_init=5, seed=2).labels
    np.testing.assert_array_equal(found["k-means, power 1 of components"], labels)


def test_readout_summary_equals_a_slow_loop(readout):
    rng = np.random.default_rng(0)
    keys = [("default", dataset, seed) for dataset in "xy" for seed in (0, 1, 2)]
    score = {(*key, name): rng.random() for key in keys for name in readout.READOUTS}
    table = pd.DataFrame([(*key, ari) for key, ari in score.items()], columns=[*readout.KEYS, "readout", "ari"])
    found = readout.summary(table.sample(frac=1.0, random_state=0))
    for name in readout.READOUTS:
        sets = [[score["default", dataset, seed, name] for seed in (0, 1, 2)] for dataset in "xy"]
        assert found.loc[name, "ari"] == pytest.approx(np.mean([np.mean(values) for values in sets]))
        assert found.loc[name, "seed_sd"] == pytest.approx(np.mean([np.std(values, ddof=1) for values in sets]))
        best = [max(readout.READOUTS, key=lambda other: score[(*key, other)]) == name for key in keys]
        assert found.loc[name, "best_in"] == pytest.approx(np.mean(best))


def test_a_study_resumes_and_records_failures(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    run_study = importlib.import_module("benchmarks._study").run_study
    calls = []

    def run(name, seed):
        calls.append((name, seed))
        if seed == 1:
            msg = "first\nsecond"
            raise ValueError(msg)
        return [{"arm": arm, "ari": value} for arm, value in (("NA", 0.5), ("b", 1.0))]

    arguments = argparse.Namespace(out=tmp_path / "study.csv", threads=torch.get_num_threads())
    table = {
        "keys": ["dataset", "seed"],
        "columns": ["dataset", "seed", "arm", "ari", "error"],
        "text": ["dataset", "arm", "error"],
    }
    tasks = [("simulated/NA", 0), ("b_.4", 0), ("b_.4", 1)]
    with pytest.raises(ValueError, match="first"):
        run_study(arguments, tasks, run, **table)
    found = run_study(arguments, tasks, run, **table, failure="error")
    assert calls == [*tasks, tasks[-1]]  # what was done before the failure is not repeated
    again = run_study(arguments, tasks, run, **table, failure="error")
    assert len(calls) == 4
    pd.testing.assert_frame_equal(found, again)
    assert found["dataset"].tolist() == ["NA", "NA", "b_.4", "b_.4", "b_.4"]
    assert found["arm"].tolist() == ["NA", "b", "NA", "b", ""]
    assert found["ari"].tolist()[:4] == [0.5, 1.0, 0.5, 1.0]
    assert found["error"].tolist() == ["", "", "", "", "ValueError: first second"]


def test_batches_are_scored_by_known_answers(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    batches = importlib.import_module("benchmarks.batches")
    types = np.array(["a"] * 40 + ["b"] * 40 + ["c"] * 20 + ["d"] * 5)
    batch = np.array(["1", "2"] * 40 + ["1"] * 20 + ["1"] * 5)  # the last two types are in one batch, one has few cells
    own = np.concatenate([np.arange(40) // 20, [2] * 45, [3] * 10, [4] * 10])  # half of type c is in the cluster of b
    own[85:95], own[95:100], own[100:] = 2, 3, 4
    assert batches.swallowed(own, types, batch, alone=True) == 15 / 20
    assert batches.swallowed(own, types, batch, alone=False) == 15 / 20
    assert np.isnan(batches.swallowed(own[:80], types[:80], batch[:80], alone=True))
    apart = np.random.default_rng(0).normal(size=(105, 2)) + 100 * np.unique(types, return_inverse=True)[1][:, None]
    found = batches.neighbor_scores(apart[:100], types[:100], batch[:100])
    assert found["purity"] == 1.0
    near = np.array([np.argsort(np.linalg.norm(apart[:100] - x, axis=1))[1:16] for x in apart[:100]])
    assert found["mixed"] == pytest.approx(np.mean(batch[:100][near] != batch[:100, None]))


def test_half_of_the_types_of_the_simulated_batches_are_shared(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    table = pd.crosstab(
        *(importlib.import_module("benchmarks.batches").half_shared().obs[name] for name in ("cell_type", "batch"))
    )
    assert (table > 0).to_numpy().sum(1).tolist() == [1, 1, 2, 2, 2, 2, 1, 1]
    assert (table > 0).to_numpy().sum(0).tolist() == [6, 6]


def _cells(n):
    adata = scgpcl.datasets.pbmc3k()[::20][:n].copy()
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() > 2].copy()
    scgpcl.SCGPCL.setup_anndata(adata)
    return adata
