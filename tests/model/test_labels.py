"""Labels of some cells: named prototypes, new clusters, and wrong labels."""

import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, silhouette_score

import scgpcl
from scgpcl import _keys
from scgpcl.cluster import Evidence, named_support, type_axes

UNKNOWN = "Unknown"
N_TYPES = 4
SETUP = {"labels_key": "label"}


@pytest.fixture
def truth(draw_counts):
    """Counts of four simulated types, with their names."""
    x, groups = draw_counts(n_cells=300, n_genes=120, n_groups=N_TYPES, seed=3)
    adata = ad.AnnData(x)
    adata.obs["type"] = [f"type {group}" for group in groups]
    return adata


def labelled(truth, n_each, *, without=(), seed=0):
    """A copy with the labels of at most ``n_each`` cells of each type."""
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(truth.X.copy())
    label = np.full(truth.n_obs, UNKNOWN, dtype=object)
    for name in sorted(set(truth.obs["type"]) - set(without)):
        chosen = rng.permutation(np.flatnonzero(truth.obs["type"] == name))[:n_each]
        label[chosen] = name
    adata.obs["label"] = label.astype(str)
    return adata


def accuracy(truth, adata, names):
    """Share of the unlabelled cells that get their type."""
    rest = (adata.obs["label"] == UNKNOWN).to_numpy()
    return (truth.obs["type"].to_numpy() == names)[rest].mean()


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_names_with_a_slash_can_be_written(truth, fit, tmp_path):
    pytest.importorskip("zarr")
    truth.obs["type"] = truth.obs["type"].replace({"type 0": "B/plasma", "type 1": "T/NK/ILC"})
    adata = labelled(truth, 5)
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    model.get_cluster_stability(n_draws=1)
    scgpcl.tl.rank_markers(adata)
    sizes, stability = (adata.uns["scgpcl"][name] for name in ("cluster_sizes", "stability"))
    assert sizes["size"].to_dict() == adata.obs["scgpcl_cluster"].value_counts().to_dict()
    assert {"B/plasma", "T/NK/ILC"} < set(sizes.index) == set(stability.index)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_zarr(tmp_path / "cells.zarr")
    model.save(tmp_path / "model", save_anndata=True)
    loaded = scgpcl.SCGPCL.load(tmp_path / "model", accelerator="cpu")
    loaded.get_cluster_stability(n_draws=1)
    read = [ad.read_h5ad(tmp_path / "cells.h5ad"), ad.read_zarr(tmp_path / "cells.zarr"), loaded.adata]
    for found in (each.uns["scgpcl"] for each in read):
        pd.testing.assert_frame_equal(found["cluster_sizes"], sizes)
        pd.testing.assert_frame_equal(found["stability"], stability)


def test_three_labels_a_type_name_the_rest(truth, fit):
    adata = labelled(truth, 3)
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    probability = model.predict(soft=True)
    assert list(probability) == list(model.cluster_names_) == [f"type {i}" for i in range(N_TYPES)]
    np.testing.assert_allclose(probability.sum(1), 1.0, atol=1e-5)
    assert accuracy(truth, adata, model.predict()) > 0.95
    assert set(adata.obs[_keys.CLUSTER].cat.categories) == set(probability)
    new = ad.AnnData(truth.X[:20].copy())  # new cells need no labels
    np.testing.assert_array_equal(model.predict(new), model.predict(indices=np.arange(20)))


def test_a_type_without_labels_is_new(truth, fit):
    adata = labelled(truth, 5, without=["type 2"])
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    assert list(model.cluster_names_) == ["type 0", "type 1", "type 3", "new 0"]
    assert f1_score(truth.obs["type"] == "type 2", model.predict() == "new 0") > 0.95


def test_new_clusters_are_found_without_their_number(truth, fit):
    """How many clusters the new type makes is up to the estimate of their number."""
    adata = labelled(truth, 5, without=["type 2"])
    model = fit(adata, setup=SETUP, n_clusters=None)
    names = list(model.cluster_names_)
    assert names[:3] == ["type 0", "type 1", "type 3"]
    assert names[3:] == [f"new {i}" for i in range(model.n_clusters_ - 3)]
    new = [name.startswith("new") for name in model.predict()]
    assert f1_score(truth.obs["type"] == "type 2", new) > 0.95
    assert f"clusters: {model.n_clusters_} (3 labelled types, {model.n_clusters_ - 3} new)" in repr(model)


def test_one_label_names_one_cluster(truth, fit, tmp_path):
    adata = labelled(truth, 1, without=["type 1", "type 2", "type 3"])
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    assert list(model.cluster_names_) == ["type 0", "new 0", "new 1", "new 2"]
    names = model.predict()
    assert f1_score(truth.obs["type"] == "type 0", names == "type 0") > 0.95
    assert scgpcl.metrics.ari(truth.obs["type"], names) > 0.9
    model.save(tmp_path / "m", safe=True)
    again = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    np.testing.assert_array_equal(again.predict(), names)
    with pytest.raises(KeyError, match="columns with which the model was set up, 'label', .* without 'label'"):
        scgpcl.SCGPCL.load(tmp_path / "m", ad.AnnData(truth.X), accelerator="cpu")


def test_all_labels_and_wrong_ones(truth, fit, caplog):
    adata = labelled(truth, truth.n_obs)
    with caplog.at_level(logging.INFO, logger="scgpcl"):
        right = fit(adata, setup=SETUP, n_clusters=N_TYPES).predict()
    (overruled,) = re.findall(
        r"(\d+) of the 300 labelled cells were assigned to a type or new cluster other than their label; 0 types",
        caplog.text,
    )
    assert int(overruled) < 10
    flipped = adata.copy()
    rng = np.random.default_rng(0)
    wrong = rng.permutation(truth.n_obs)[: truth.n_obs // 20]
    flipped.obs.iloc[wrong, 0] = [f"type {(int(name[-1]) + 1) % N_TYPES}" for name in flipped.obs["label"].iloc[wrong]]
    names = fit(flipped, setup=SETUP, n_clusters=N_TYPES).predict()
    true = truth.obs["type"].to_numpy()
    assert (right == true).mean() > 0.97
    assert (names == true).mean() > (right == true).mean() - 0.01


def test_latent_vectors_separate_types_if_there_are_enough_labels(truth, fit, tmp_path):
    """Vectors are reported along the axes of the types. Assignment and novelty depend on the vectors that are clustered."""
    adata = labelled(truth, 50)
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    cells = model._prepare().batch()
    clustered = model.module.represent(model.module.encode(cells), cells.size_factor).numpy()
    types = adata.obs["label"].astype("category").cat.remove_categories(UNKNOWN).cat.codes.to_numpy()
    z = model.get_latent_representation()
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, clustered @ type_axes(clustered, types).T, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(adata.obsm[_keys.LATENT], z)
    names = truth.obs["type"]
    assert silhouette_score(z, names) > silhouette_score(clustered, names) + 0.1
    model.save(tmp_path / "m")
    again = scgpcl.SCGPCL.load(tmp_path / "m", adata, accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(indices=np.arange(20)), z[:20])
    probability, novelty = model.predict(soft=True), model.get_novelty()
    del again.statistics_["type_axes"]
    np.testing.assert_allclose(again.get_latent_representation(), clustered, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(again.predict(soft=True), probability)
    np.testing.assert_array_equal(again.get_novelty(), novelty)
    model.update(ad.AnnData(truth.X[:50].copy()), max_epochs=0, accelerator="cpu")
    assert silhouette_score(model.get_latent_representation(), names) == pytest.approx(
        silhouette_score(z, names), abs=0.02
    )


def test_few_labels_do_not_change_which_vectors_are_reported(truth, fit):
    model = fit(labelled(truth, 39), setup=SETUP, n_clusters=N_TYPES)
    cells = model._prepare().batch()
    clustered = model.module.represent(model.module.encode(cells), cells.size_factor).numpy()
    np.testing.assert_allclose(model.get_latent_representation(), clustered, rtol=1e-4, atol=1e-5)


def test_resumed_training_is_bit_identical(truth, fit, tmp_path):
    adata, path = labelled(truth, 3), tmp_path / "run"
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    fit(labelled(truth, 3), setup=SETUP, n_clusters=N_TYPES, train={"checkpoint": path})
    stopped = tmp_path / "stopped"

    class Stop(Exception):
        pass

    import lightning.pytorch as pl

    class Interrupt(pl.Callback):
        def on_train_epoch_start(self, trainer, plan):
            if plan.stage == 1 and trainer.current_epoch == 1:
                raise Stop

    kwargs = {"checkpoint": stopped, "callbacks": [Interrupt()]}
    with pytest.raises(Stop):
        fit(labelled(truth, 3), setup=SETUP, n_clusters=N_TYPES, train=kwargs)
    resumed = fit(labelled(truth, 3), setup=SETUP, n_clusters=N_TYPES, train={"resume_from": stopped})
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


def test_labels_that_were_removed_after_set_up_are_missed(truth, fit):
    adata = labelled(truth, 3)
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    del adata.obs["label"]
    with pytest.raises(KeyError, match="`labels_key='label'` to be a column"):
        model.train(accelerator="cpu", enable_progress_bar=False)


@pytest.mark.parametrize(
    "changes", [{"type 1": "Mac"}, {"type 1": UNKNOWN}, {f"type {i}": "type 0" for i in range(N_TYPES)}]
)
def test_types_that_changed_after_set_up_are_missed(truth, fit, changes):
    """They are noticed before any work, so the model is as it was."""
    adata = labelled(truth, 3)
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    names = model.predict()
    adata.obs["label"] = adata.obs["label"].replace(changes)
    with pytest.raises(
        ValueError, match=r"Expected the types 'type 0', 'type 1', .* as when the AnnData was set up, found"
    ):
        model.train(accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(model.predict(), names)


def test_cells_of_some_types_load_with_a_model(truth, fit, tmp_path):
    """They need not have all of its types, or any label, to be labelled, to train the decoder, and for an update."""
    model = fit(labelled(truth, 3), setup=SETUP, n_clusters=N_TYPES)
    model.save(tmp_path / "model")
    load = lambda cells: scgpcl.SCGPCL.load(tmp_path / "model", cells, accelerator="cpu")
    cells = labelled(truth, 3, without=["type 1"])
    none = cells[:40].copy()
    none.obs["label"] = UNKNOWN
    for some in (cells, none):
        loaded = load(some)
        np.testing.assert_array_equal(loaded.predict(), model.predict(some))
        loaded.train_decoder(1, accelerator="cpu", enable_progress_bar=False)
        loaded.update(cells[:50].copy(), max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        with pytest.raises(ValueError, match="as when the AnnData was set up, found"):
            loaded.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    del cells.obs["label"]
    with pytest.raises(KeyError, match=r"without 'label'.*load with `adata=False` and call `model.predict\(cells\)`"):
        load(cells)
    with pytest.raises(TypeError, match="found True|found bool"):
        load(True)


def test_merged_names_do_not_join_other_clusters(truth, fit, untouched):
    adata = labelled(truth, 3)
    adata.obs["label"] = adata.obs["label"].replace({"type 0": "0", "type 1": "1", "type 2": "0+1"})
    with untouched(adata), pytest.raises(ValueError, match="not made from other names, found '0\\+1'"):
        scgpcl.SCGPCL.setup_anndata(adata, **SETUP)
    adata.obs["label"] = adata.obs["label"].replace({"0+1": "0-2", "type 3": "2"})
    with untouched(adata), pytest.raises(ValueError, match="found '0-2'"):
        scgpcl.SCGPCL.setup_anndata(adata, **SETUP)
    adata.obs["label"] = adata.obs["label"].replace({"0-2": "1-3"})
    model = fit(adata, setup=SETUP, n_clusters=N_TYPES)
    model.cluster_names_ = np.array(["1", "2", "3", "1-3"], dtype=object)  # as in files of earlier versions
    model.annotate()
    with untouched(adata), pytest.raises(ValueError, match="merged name is free, found '1-3'"):
        model.merge(["1", "2", "3"])


def test_bad_labels_are_refused(adata, fit, untouched):
    def refused(error, match, *, n_clusters=3, train=None, **setup):
        with untouched(adata), pytest.raises(error, match=match):
            fit(adata, setup=setup, n_clusters=n_clusters, train=train)

    refused(KeyError, "`labels_key='types'` to be a column", labels_key="types")
    adata.obs["label"] = UNKNOWN
    refused(ValueError, "at least one labelled cell", labels_key="label")
    adata.obs["label"] = "B"
    refused(ValueError, "two types or unlabelled cells in .* found 'B' in all 120", labels_key="label")
    adata.obs["label"] = ["new 3", *[UNKNOWN] * (adata.n_obs - 1)]
    refused(ValueError, "found 'new 3', which name", labels_key="label")
    for names, made in ((["1", "1.1", "2"], "1.1"), (["B", "T", "B.2.1"], "B.2.1"), (["A", "B", "A + B"], r"A \+ B")):
        adata.obs["label"] = [*names, *[UNKNOWN] * (adata.n_obs - 3)]
        refused(ValueError, f"not made from other names, found '{made}'", labels_key="label")
    adata.obs["label"] = ["B", "T", *["unlabeled"] * (adata.n_obs - 2)]
    refused(ValueError, "no label, pass `unlabeled_category='unlabeled'`", labels_key="label")
    adata.obs["label"] = ["B", "T", *[UNKNOWN] * (adata.n_obs - 2)]
    refused(
        ValueError, "no label, pass `unlabeled_category='Unknown'`", labels_key="label", unlabeled_category="unknown "
    )
    refused(TypeError, "to be a single value, found", labels_key="label", unlabeled_category=[UNKNOWN])
    adata.obs["label"] = ["B", "T", *[None] * (adata.n_obs - 2)]
    refused(ValueError, r"If these cells have no label, write 'Unknown': .*fillna\('Unknown'\)", labels_key="label")
    scgpcl.SCGPCL.setup_anndata(adata, labels_key="group")
    with pytest.raises(ValueError, match=r"`n_clusters=2` for 3 types"):
        scgpcl.SCGPCL(adata, 2)
    with pytest.raises(ValueError, match="self_training"):
        scgpcl.SCGPCL(adata, 3).train(clustering="self_training")


@pytest.mark.parametrize("n_labels", [1, 2, 6])
def test_accuracy_of_left_out_labels_needs_two_of_each_type(n_labels):
    groups = torch.arange(2).repeat_interleave(40)
    z = 8.0 * torch.eye(5)[groups] + torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
    known = torch.full((80,), -1)
    known[:n_labels], known[40 : 40 + n_labels] = 0, 1
    found = named_support(Evidence.of([z], 2, seed=0), [z], known, 2, 2, n_new=0)
    assert torch.equal(found.support.argmax(1), groups)
    assert found.n_new == 0
    np.testing.assert_equal(found.accuracy, np.nan if n_labels == 1 else 1.0)


@pytest.mark.parametrize("n_new", [None, "given"])
@pytest.mark.parametrize(("n_groups", "n_types"), [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 2)])
def test_groups_that_no_label_reaches_are_new(n_groups, n_types, n_new):
    """Far groups of different sizes, the first of which have labels."""
    groups = torch.arange(n_groups).repeat_interleave(torch.tensor([50, 45, 40, 35])[:n_groups])
    z = 8.0 * torch.eye(6)[groups] + torch.randn(len(groups), 6, generator=torch.Generator().manual_seed(0))
    known = torch.where(groups < n_types, groups, -1)
    known[torch.arange(len(groups)) % 5 > 0] = -1
    wanted = n_groups - n_types
    evidence = Evidence.of([z], n_groups, seed=0)
    found = named_support(evidence, [z], known, n_types, n_groups, n_new=None if n_new is None else wanted)
    assert found.n_new == wanted
    assert torch.equal(found.support.argmax(1), groups)
    torch.testing.assert_close(found.support.sum(1), torch.ones(len(groups)))
    assert found.support.max(1).values.mean() > 0.9


@pytest.mark.parametrize("every", [2, 5])
def test_a_type_of_several_groups_is_not_new(every):
    """A group is grouped with few of the labelled cells of its type, but contains as many of them as other groups do."""
    groups = torch.arange(16).repeat_interleave(30)
    z = 8.0 * torch.eye(16)[groups] + torch.randn(480, 16, generator=torch.Generator().manual_seed(0))
    types = (groups == 15).long()
    known = torch.where(torch.arange(480) % every == 0, types, -1)
    evidence = Evidence.of([z], 16, seed=0, only=True)
    found = named_support(evidence, [z], known, 2, 16, n_new=None)
    assert found.n_new == 0
    assert torch.equal(found.support.argmax(1), types)
    known[groups == 2] = -1  # a group without labels is new
    found = named_support(evidence, [z], known, 2, 16, n_new=None)
    assert found.n_new == 1
    assert torch.equal(found.support.argmax(1) == 2, groups == 2)


def test_memberships_count_shared_partitions():
    draws = [torch.randn(40, 5, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    evidence = Evidence.of(draws, 3, seed=0)
    member = evidence.memberships()
    together = [[np.mean([each[i] == each[j] for each in evidence.labels]) for i in range(40)] for j in range(40)]
    np.testing.assert_allclose(member @ member.T, together, atol=1e-5)


def test_numbered_types_are_the_same_after_a_file(truth, fit, tmp_path):
    """Whole numbers become floats where a table has missing values, or text in a csv file."""
    adata = labelled(truth, 3)
    numbers = np.array([-1 if name == UNKNOWN else int(name[-1]) for name in adata.obs["label"]])
    adata.obs["label"] = numbers
    model = fit(adata, setup=SETUP | {"unlabeled_category": -1}, n_clusters=N_TYPES)
    assert list(model.cluster_names_) == ["0", "1", "2", "3"]
    model.save(tmp_path / "m")
    for other in (numbers.astype(float), numbers.astype(str), numbers.astype(float).astype(str)):
        again = ad.AnnData(truth.X.copy(), obs={"label": other})
        loaded = scgpcl.SCGPCL.load(tmp_path / "m", again, accelerator="cpu")
        np.testing.assert_array_equal(loaded.registration.label_index(again), numbers)
        np.testing.assert_array_equal(loaded.predict(), model.predict())


def test_a_type_in_two_spellings_and_an_unknown_one_are_refused(truth, fit, tmp_path):
    adata = labelled(truth, 3)
    adata.obs["label"] = pd.Series([1, "1"] + ["2"] * 298, index=adata.obs_names, dtype=object)
    with pytest.raises(ValueError, match=r"whose names differ as text, found '1'"):
        scgpcl.SCGPCL.setup_anndata(adata, **SETUP)
    adata = labelled(truth, 3)
    fit(adata, setup=SETUP, n_clusters=N_TYPES).save(tmp_path / "m")
    other = ad.AnnData(truth.X.copy(), obs={"label": ["type 9"] * truth.n_obs})
    other.obs.iloc[:5, 0] = UNKNOWN
    with pytest.raises(ValueError, match=r"found 'type 9'; the model knows 'type 0', .*Write 'Unknown'"):
        scgpcl.SCGPCL.load(tmp_path / "m", other, accelerator="cpu")
