"""Bad input that nobody thought of: values, arguments and damages that hypothesis draws."""

import shutil

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scgpcl

DRAWN = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
N_CELLS, N_GENES = 60, 40

NO_COUNTS = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.floats(-1e6, -1e-3),
    st.floats(1e-3, 1e6).filter(lambda value: np.float32(value) != np.round(np.float32(value))),
    st.floats(2.0**25, 1e30),
)


@given(
    value=NO_COUNTS,
    cell=st.integers(0, N_CELLS - 1),
    gene=st.integers(0, N_GENES - 1),
    storage=st.sampled_from([sp.csr_matrix, sp.csc_matrix, np.asarray]),
)
@settings(max_examples=60, **DRAWN)
def test_one_value_that_is_no_count_is_found_wherever_it_is(cells, refused, value, cell, gene, storage):
    adata = cells(N_CELLS, N_GENES)
    x = adata.X.toarray()
    x[cell, gene] = value
    adata.X = storage(x)
    with refused(adata, ValueError, "adata.X"):
        scgpcl.SCGPCL.setup_anndata(adata)


#: Of no type that any of the arguments below takes.
NOTHING = st.one_of(
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.complex_numbers(),
    st.binary(max_size=3),
    st.just(np.nan),
    st.integers(max_value=-1),
    st.just(object),
)
OF_MODEL = ("n_clusters", "n_hidden", "n_latent", "seed", "n_top_genes", "use_graph", "dispersion", "start", "gene_flavor", "gene_scaling")  # fmt: skip
OF_TRAINING = ("max_epochs", "pretrain_max_epochs", "cluster_max_epochs", "batch_size", "train_size", "validation_size",
               "agreement", "agreement_patience", "label_tol", "clustering", "callbacks", "pretrain_plan_kwargs",
               "cluster_plan_kwargs", "datasplitter_kwargs")  # fmt: skip
EMPTY = ([], {})


def assert_refused(act) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    text = " ".join(str(caught.value).split())
    assert text.startswith("Expected"), text
    assert "found" in text, text


@given(name=st.sampled_from(OF_MODEL), value=NOTHING)
@settings(max_examples=150, **DRAWN)
def test_arguments_of_the_model_take_nothing_else(untrained, digest, name, value):
    before = digest(untrained.adata)
    assert_refused(lambda: scgpcl.SCGPCL(untrained.adata, **{name: value}))
    assert digest(untrained.adata) == before


@given(name=st.sampled_from(OF_TRAINING), value=NOTHING.filter(lambda value: value not in EMPTY))
@settings(max_examples=150, **DRAWN)
def test_arguments_of_training_take_nothing_else(untrained, digest, name, value):
    before = digest(untrained.adata)
    assert_refused(lambda: untrained.train(**{name: value}, accelerator="cpu", enable_progress_bar=False))
    assert digest(untrained.adata) == before
    assert not untrained.is_trained_
    assert untrained.gene_names_ is None


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """Folder with a model in both forms."""
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder / "pickle")
    trained.save(folder / "safe", safe=True)
    return folder


FILES = [("pickle", "model.pt"), ("safe", "model.h5")]


def damaged(saved, folder, form, name, damage):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved / form, folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    return folder


@given(file=st.sampled_from(FILES), share=st.floats(0.0, 1.0, exclude_max=True))
@settings(max_examples=40, **DRAWN)
def test_a_model_that_is_cut_anywhere_is_refused(saved, refused, tmp_path, file, share):
    folder = damaged(saved, tmp_path / "m", *file, lambda data: data[: int(share * len(data))])
    with refused(folder, ValueError, "damaged", "Save the model again"):
        scgpcl.SCGPCL.load(folder, False, accelerator="cpu")


@given(file=st.sampled_from(FILES[1:]), share=st.floats(0.0, 1.0, exclude_max=True), byte=st.integers(0, 255))
@settings(max_examples=60, **DRAWN)
def test_a_model_without_pickle_with_another_byte_is_read_or_refused(saved, tmp_path, file, share, byte):
    """A file has no checksum, so other weights are weights; what cannot be read ends in the one error of bad files."""

    def flip(data):
        at = int(share * len(data))
        return data[:at] + bytes([byte]) + data[at + 1 :]

    folder = damaged(saved, tmp_path / "m", *file, flip)
    try:
        scgpcl.SCGPCL.load(folder, False, accelerator="cpu")
    except ValueError as error:
        assert str(error).startswith("Expected")  # noqa: PT017  (either outcome is right)
