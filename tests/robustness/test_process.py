"""What belongs to the user's process: torch's number of threads and its default number format."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from scgpcl import SCGPCL
from scgpcl._process import held


@pytest.fixture(autouse=True)
def _given_back():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


def raise_threads():
    """Raise torch's threads behind its back, as numba's parallel loops do: through OpenMP, not through torch."""
    threadpool_limits(3, user_api="openmp")
    assert torch.get_num_threads() == 3


class Seen(pl.Callback):
    """Number of threads and number format at every step."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_start(self, *_):
        self.seen.add((torch.get_num_threads(), torch.get_default_dtype()))


def test_a_call_has_the_threads_and_the_numbers_that_the_user_set(cells, build):
    torch.set_num_threads(2)
    plain = build(cells(), train={})
    seen = Seen()
    raise_threads()
    torch.set_default_dtype(torch.float64)
    model = build(cells(), train={"callbacks": [seen]})
    assert seen.seen == {(2, torch.float32)}
    assert torch.get_num_threads() == 2
    assert torch.get_default_dtype() is torch.float64
    np.testing.assert_array_equal(model.get_latent_representation(), plain.get_latent_representation())


@pytest.mark.parametrize("name", ["predict", "get_latent_representation", "get_normalized_expression", "annotate"])
def test_getters_give_back_the_threads(trained, cells, name):
    torch.set_num_threads(2)
    raise_threads()
    getattr(trained, name)(cells(seed=1))
    assert torch.get_num_threads() == 2


def test_a_model_is_single_precision_whatever_the_default(trained, cells, tmp_path):
    trained.save(tmp_path / "m")
    torch.set_default_dtype(torch.float64)
    loaded = SCGPCL.load(tmp_path / "m", False, accelerator="cpu")
    assert {value.dtype for value in loaded.module.parameters()} == {torch.float32}
    query = cells(seed=1)
    np.testing.assert_array_equal(loaded.predict(query, soft=True), trained.predict(query, soft=True))


@held()
def fail():
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (1, torch.float32)
    raise_threads()
    msg = "inside"
    raise RuntimeError(msg)


def test_a_lower_limit_stays_and_a_failure_gives_all_back():
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    with threadpool_limits(1, user_api="openmp"):
        with pytest.raises(RuntimeError, match="inside"):
            fail()
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (1, torch.float64)
