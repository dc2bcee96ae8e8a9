from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scgpcl import pl


def _table(name, values, start=0):
    return pd.DataFrame({name: values}, index=pd.RangeIndex(start, start + len(values), name="epoch"))


@pytest.fixture
def history():
    tables = [
        _table("stage", [1] * 6 + [2] * 4),
        _table("train_loss_epoch", np.linspace(9.0, 0.0, 10)),
        _table("reconstruction_loss_train", np.linspace(1.0, 0.1, 10)),
        _table("instance_loss_train", np.linspace(5.0, 3.0, 6)),
        _table("prototype_loss_train", np.linspace(2.0, 1.0, 3), start=3),
        _table("label_agreement", np.linspace(0.5, 1.0, 6)),
        _table("clustering_loss_train", np.linspace(0.5, 0.1, 4), start=6),
        _table("label_change", np.linspace(0.1, 0.0, 4), start=6),
    ]
    return {table.columns[0]: table for table in tables}


def _curves(ax):
    """Lines with data; the line between the stages has two points at one epoch."""
    return [line for line in ax.lines if len(line.get_xdata()) and np.ptp(line.get_xdata()) > 0]


def _borders(ax):
    return [float(line.get_xdata()[0]) for line in ax.lines if np.ptp(line.get_xdata()) == 0]


def test_one_panel_per_metric(history):
    axes = pl.history(history)
    assert [ax.get_title() for ax in axes] == [
        "total loss, pre-training",
        "total loss, clustering",
        "reconstruction (ZINB)",
        "instance contrast",
        "prototype contrast",
        "clustering (KL)",
        "agreement of clusterings (ARI)",
        "share of cells changing cluster",
    ]
    assert len({ax.figure for ax in axes}) == 1
    axes[0].figure.canvas.draw()


def test_curves_are_those_of_the_history_at_their_epochs(history):
    names = ["pre-training", "clustering", "zinb", "instance", "prototype", "kl"]
    axes = dict(zip(names, pl.history(history), strict=False))
    losses = history["train_loss_epoch"]["train_loss_epoch"]
    for name, epochs in (("pre-training", range(6)), ("clustering", range(6, 10))):
        (line,) = _curves(axes[name])
        np.testing.assert_array_equal(line.get_xdata(), epochs)
        np.testing.assert_allclose(line.get_ydata(), losses[epochs])
    (prototype,) = _curves(axes["prototype"])
    np.testing.assert_array_equal(prototype.get_xdata(), [3, 4, 5])
    (clustering,) = _curves(axes["kl"])
    np.testing.assert_array_equal(clustering.get_xdata(), [6, 7, 8, 9])


def test_every_panel_is_filled_by_its_curves(history):
    """Neither another stage nor another scale leaves a part of the axes empty."""
    axes = pl.history(history)
    for ax in axes:
        low, high = ax.get_xlim()
        at = np.concatenate([line.get_xdata() for line in _curves(ax)])
        assert np.ptp(at) > 0.8 * (high - low)
    assert [_borders(ax) for ax in axes] == [[], [], [5.5], [], [], [], [], []]


def test_takes_a_model(history):
    assert len(pl.history(SimpleNamespace(history_=history))) == 8


def test_one_stage_has_no_line(history):
    only = {name: history[name].loc[:5] for name in ("stage", "train_loss_epoch")}
    (ax,) = pl.history(only)
    assert _borders(ax) == []
    assert not ax.texts


def test_training_that_went_on_has_a_line_per_change_of_stage(history):
    history["stage"] = _table("stage", [1, 1, 1, 2, 2, 1, 1, 1, 2, 2])
    ax = pl.history(history)[2]
    assert _borders(ax) == [2.5, 4.5, 7.5]
    assert len(_curves(ax)) == 4


def test_validation_has_a_curve_and_a_legend(history):
    history["validation_loss"] = _table("validation_loss", np.linspace(9.5, 1.0, 10))
    ax, _, other, *_ = pl.history(history)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    assert other.get_legend() is None


def test_number_of_columns(history):
    axes = pl.history(history, n_cols=np.int64(2))
    assert len({round(ax.get_position().x0, 3) for ax in axes}) == 2
    assert pl.history({"label_change": history["label_change"]}, n_cols=3)
    with pytest.raises(ValueError, match="found 0"):
        pl.history(history, n_cols=0)
    with pytest.raises(ValueError, match="`n_cols` to be a whole number of at least 1, found '2'"):
        pl.history(history, n_cols="2")


@pytest.mark.parametrize("empty", [None, {}, SimpleNamespace(history_=None)])
def test_refuses_an_untrained_model(empty):
    with pytest.raises(ValueError, match=r"model\.train\(\)"):
        pl.history(empty)


def test_refuses_a_history_of_something_else():
    with pytest.raises(ValueError, match="elbo_train"):
        pl.history({"elbo_train": _table("elbo_train", [1.0])})
