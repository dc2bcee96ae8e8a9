"""Large data: the encoder learns from a sample, and all cells are encoded and labelled."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from scgpcl.data import BipartiteSplitter, Cells
from scgpcl.train import PretrainPlan, _read_out

TRAIN = {"pretrain_max_epochs": 8, "cluster_max_epochs": 2, "batch_size": 20}


def test_taken_cells_are_those_rows(counts):
    size, known = np.linspace(0.5, 2.0, counts.shape[0]), np.arange(counts.shape[0]) % 2
    index = np.array([7, 3, 90])
    part = Cells(counts, size, np.array([5, 2, 9]), batch_index=known).taken(index)
    np.testing.assert_array_equal(part.rows(np.arange(3)).toarray(), counts[index][:, [5, 2, 9]].toarray())
    np.testing.assert_array_equal(part.size_factor, size[index].astype(np.float32))
    np.testing.assert_array_equal(part.batch_index, known[index])


@pytest.mark.parametrize(("train_size", "n_train", "n_val"), [(1.0, 30, 0), (0.7, 30, 30), (0.9, 30, 12)])
def test_a_sample_keeps_the_split(counts, train_size, n_train, n_val):
    names = np.arange(counts.shape[0], dtype=np.float32)  # as size factors, by which the cells are known again
    whole = BipartiteSplitter(Cells(counts, names), seed=0, batch_size=10, train_size=train_size)
    part = whole.sampled(30, seed=1)
    assert (len(part.train_idx), len(part.val_idx), len(part.test_idx)) == (n_train, n_val, 0)
    assert part.batch_size == 10
    for own, theirs in ((part.train_idx, whole.train_idx), (part.val_idx, whole.val_idx)):
        cells = part.source.size_factor[own].astype(int)
        assert np.isin(cells, theirs).all()
        np.testing.assert_array_equal(part.source.rows(own).toarray(), counts[cells].toarray())
    np.testing.assert_array_equal(part.source.size_factor, whole.sampled(30, seed=1).source.size_factor)
    assert not np.array_equal(part.source.size_factor, whole.sampled(30, seed=2).source.size_factor)


def test_labelled_cells_of_every_type_stay_in(counts):
    known = np.full(counts.shape[0], -1)
    known[:40], known[40:43], known[43] = 0, 1, 2
    source = Cells(counts, np.arange(counts.shape[0], dtype=np.float32), label_index=known)
    part = BipartiteSplitter(source, seed=0, batch_size=10, train_size=1.0).sampled(20, seed=0).source
    np.testing.assert_array_equal(part.label_index, known[part.size_factor.astype(int)])
    # the types in turn fill half; the other half is drawn from all cells that are left
    assert (np.bincount(part.label_index + 1, minlength=4)[1:] >= [6, 3, 1]).all()
    assert len(part) == 20
    assert (part.label_index < 0).any()


def test_of_many_cells_a_sample_is_learnt_from_and_all_are_labelled(adata, fit, monkeypatch):
    seen = []
    step = PretrainPlan.training_step

    def watched(plan, batch, batch_idx):
        seen.append(batch.size_factor)
        return step(plan, batch, batch_idx)

    monkeypatch.setattr(PretrainPlan, "training_step", watched)
    model = fit(adata, train={**TRAIN, "pretrain_max_cells": 60})
    epochs = torch.cat(seen).view(8, 60).sort().values
    assert len(seen) == 8 * 3
    assert (epochs == epochs[0]).all()
    assert len(model.get_latent_representation()) == adata.n_obs
    assert adjusted_rand_score(adata.obs["group"], adata.obs["scgpcl_cluster"]) > 0.7
    # gene states are those of all cells, whatever part of them was learnt from
    splitter = BipartiteSplitter(model._prepare(), seed=0, batch_size=20, train_size=1.0)
    z = model.module.refresh(splitter.batches)
    assert torch.equal(model.module.represent(z, torch.from_numpy(splitter.source.size_factor)), _latent(model))


def _latent(model):
    return torch.from_numpy(model.get_latent_representation())


def test_no_more_cells_than_wanted_change_nothing(adata, fit):
    found = [fit(adata.copy(), train={"pretrain_max_cells": n}).get_latent_representation() for n in (None, 120)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("value", [1, 0.5, "all"])
def test_a_wrong_number_of_cells_is_refused(adata, fit, value):
    with pytest.raises(ValueError, match="`pretrain_max_cells` to be a whole number of at least 2"):
        fit(adata, train={"pretrain_max_cells": value})


@pytest.mark.parametrize(("clustering", "wanted"), [("distillation", 1), ("self_training", 2)])
def test_cells_are_encoded_again_only_by_another_encoder(adata, fit, monkeypatch, clustering, wanted):
    calls = []
    encode_all = _read_out.encode_all
    monkeypatch.setattr(_read_out, "encode_all", lambda *args: calls.append(1) or encode_all(*args))
    fit(adata, train={"clustering": clustering})
    assert len(calls) == wanted
