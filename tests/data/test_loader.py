"""The thread that is one batch ahead."""

import threading
import time

import numpy as np
import pytest
import scipy.sparse as sp

from scgpcl.data import BipartiteSplitter, Cells, bipartite_loader

N_BATCH = 20


class Watched(Cells):
    """Counts that note which rows are asked for, and fail after some batches."""

    def __init__(self, counts, fails_after=None):
        super().__init__(counts, np.ones(counts.shape[0]))
        self.asked = []
        self.fails_after = fails_after

    def rows(self, index):
        if len(self.asked) == self.fails_after:
            msg = "the file is gone"
            raise OSError(msg)
        self.asked.append(index)
        return super().rows(index)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("scgpcl-batches")]


def settle(source, n):
    """Wait until ``n`` batches were asked for, and a little longer for more."""
    for _ in range(200):
        if len(source.asked) >= n:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    return len(source.asked)


def test_all_cells_come_once_and_in_order(counts):
    source = Watched(counts)
    found = [batch.cell_index.numpy() for batch in bipartite_loader(source, np.arange(100), batch_size=N_BATCH)]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(100))
    assert [len(index) for index in source.asked] == [N_BATCH] * 5
    assert not threads()


def test_next_batch_and_no_other_is_ready_while_the_caller_works(counts):
    source = Watched(counts)
    batches = iter(bipartite_loader(source, np.arange(100), batch_size=N_BATCH))
    next(batches)
    assert settle(source, 2) == 2
    next(batches)
    assert settle(source, 3) == 3
    batches.close()
    assert not threads()


def test_an_error_of_the_thread_reaches_the_caller(counts):
    batches = iter(bipartite_loader(Watched(counts, fails_after=1), np.arange(100), batch_size=N_BATCH))
    next(batches)
    with pytest.raises(OSError, match="the file is gone"):
        next(batches)
    assert not threads()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_cells", [129, 258, 385])
def test_any_number_of_cells_is_split_without_a_warning(n_cells):
    source = Cells(sp.csr_matrix(np.ones((n_cells, 3), dtype=np.float32)), np.ones(n_cells))
    splitter = BipartiteSplitter(source, seed=0, batch_size=64, train_size=1.0)
    sizes = [len(batch.cell_index) for batch in splitter.train_dataloader()]
    assert sum(sizes) == n_cells
    assert max(sizes) - min(sizes) <= 1
