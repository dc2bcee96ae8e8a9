"""One form of counts, whatever stores them, against the dense matrix."""

import numpy as np
import pytest
import scipy.sparse as sp

from scgpcl.data import canonical


def in_parts(x, rng):
    """Each entry above 1 in two parts, in any order within its row."""
    coo = sp.coo_matrix(x)
    big = coo.data > 1
    data = np.concatenate([np.where(big, coo.data - 1, coo.data), np.ones(big.sum(), coo.data.dtype)])
    row, column = np.concatenate([coo.row, coo.row[big]]), np.concatenate([coo.col, coo.col[big]])
    order = np.lexsort((rng.random(len(row)), row))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=x.shape[0]))])
    return sp.csr_matrix((data[order], column[order], indptr), shape=x.shape)


def unsorted(x):
    turned = np.concatenate([np.arange(x.indptr[i], x.indptr[i + 1])[::-1] for i in range(x.shape[0])])
    return sp.csr_matrix((x.data[turned], x.indices[turned], x.indptr), shape=x.shape)


def swapped(x):
    x = x.copy()
    x.data = x.data.astype(x.dtype.newbyteorder(">"))
    return x


FORMS = {
    "csr": lambda x: x,
    "csc": lambda x: x.tocsc(),
    "coo": lambda x: x.tocoo(),
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "unsorted": unsorted,
    "in parts": lambda x: in_parts(x, np.random.default_rng(0)),
    "in parts by column": lambda x: in_parts(x.T.tocsr(), np.random.default_rng(0)).T,
    "int64": lambda x: x.astype(np.int64),
    "uint8": lambda x: x.astype(np.uint8),
    "uint8 in parts": lambda x: in_parts(x.astype(np.uint8), np.random.default_rng(0)),
    "big-endian": swapped,
    "big-endian integers": lambda x: swapped(x.astype(np.int32)),
    "big-endian by column": lambda x: swapped(x.tocsc()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_stay_and_the_form_is_one(counts, form):
    counts.data = np.minimum(counts.data, 255)
    given = FORMS[form](counts)
    before = [
        part.copy() for part in (given.data, *(getattr(given, n) for n in ("indices", "indptr") if hasattr(given, n)))
    ]
    found = canonical(given)
    assert isinstance(found, sp.csr_matrix)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found.indices, counts.indices)
    np.testing.assert_array_equal(found.indptr, counts.indptr)
    np.testing.assert_array_equal(found.data.astype(np.float64), counts.data.astype(np.float64))
    after = [given.data, *(getattr(given, n) for n in ("indices", "indptr") if hasattr(given, n))]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_canonical_is_not_copied(counts):
    assert canonical(counts) is counts
    dense = counts.toarray()
    assert canonical(dense) is dense


def test_parts_may_add_up_to_more_than_their_type_holds():
    x = sp.csr_matrix((np.array([200, 100], np.uint8), [0, 0], [0, 2]), shape=(1, 2))
    assert canonical(x).toarray().tolist() == [[300, 0]]
    flags = sp.csr_matrix((np.array([True, True]), [0, 0], [0, 2]), shape=(1, 2))
    assert canonical(flags).toarray().tolist() == [[2, 0]]
    coo = sp.coo_matrix((np.array([200, 100], np.uint8), ([0, 0], [0, 0])), shape=(1, 2))
    assert canonical(coo).toarray().tolist() == [[300, 0]]


def test_a_dense_array_of_the_other_byte_order():
    found = canonical(np.arange(6.0).reshape(2, 3).astype(">f4"))
    assert found.dtype == np.float32
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, np.arange(6.0).reshape(2, 3))
