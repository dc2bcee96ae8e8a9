import hashlib
import importlib.util
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl
from scgpcl._files import InputError

_SPEC = importlib.util.spec_from_file_location("_parent_conftest", Path(__file__).parents[1] / "conftest.py")
_parent = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_parent)

TINY = {"n_hidden": 8, "n_latent": 4}
SHORT = {"pretrain_max_epochs": 1, "cluster_max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


def make_cells(n_cells=60, n_genes=40, seed=0) -> ad.AnnData:
    """Small counts with groups, batches and size factors."""
    x, groups = _parent.make_counts(n_cells, n_genes, seed=seed)
    cells = ad.AnnData(x)
    cells.obs_names = [f"cell{i}" for i in range(n_cells)]
    cells.var_names = [f"gene{i}" for i in range(n_genes)]
    cells.obs["group"] = pd.Categorical([f"type {g}" for g in groups])
    cells.obs["batch"] = [["a", "b"][i % 2] for i in range(n_cells)]
    cells.obs["size"] = 1.0
    return cells


def make_model(cells, n_clusters=3, *, train=False, setup=None, **kwargs):
    """Small model; ``train`` is False, or arguments that differ from those of a short training."""
    scgpcl.SCGPCL.setup_anndata(cells, **(setup or {}))
    model = scgpcl.SCGPCL(cells, n_clusters, **{**TINY, **kwargs})
    if train is not False:
        model.train(**{**SHORT, **train})
    return model


@pytest.fixture(scope="session")
def cells():
    """Maker of small data."""
    return make_cells


@pytest.fixture(scope="session")
def build():
    """Maker of small models."""
    return make_model


@pytest.fixture(scope="module")
def trained():
    """A trained model whose AnnData no test may change."""
    return make_model(make_cells(), train={})


@pytest.fixture(scope="module")
def batched():
    """A trained model of two batches."""
    return make_model(make_cells(), train={}, setup={"batch_key": "batch"})


@pytest.fixture(scope="module")
def untrained():
    """A model that was not trained."""
    return make_model(make_cells())


def _bytes_of(value) -> bytes:
    if sp.issparse(value):
        value = value.tocsr()
        return value.data.tobytes() + value.indices.tobytes() + value.indptr.tobytes() + str(value.dtype).encode()
    if isinstance(value, pd.DataFrame):
        return value.to_csv().encode() + str(value.dtypes.to_dict()).encode()
    if isinstance(value, dict):
        return repr(sorted(value)).encode() + b"".join(_bytes_of(value[name]) for name in sorted(value, key=str))
    return value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()


def digest_of(adata) -> dict[str, str]:
    """Digest of the bytes of every part of an AnnData."""
    parts = {
        "X": b"" if adata.X is None else _bytes_of(adata.X),
        "obs": _bytes_of(adata.obs),
        "var": _bytes_of(adata.var),
    }
    for name in ("obsm", "varm", "layers", "obsp", "uns"):
        mapping = getattr(adata, name)
        parts[name] = _bytes_of({str(key): mapping[key] for key in mapping if key is not None})
    return {name: hashlib.sha256(value).hexdigest() for name, value in parts.items()}


def digest_files(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_message(error: BaseException, words) -> None:
    """The message states a rule and holds some words: what was found, and what to do."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    assert text.startswith("Expected"), text
    assert "found " in text or "found: " in text, text
    for word in words:
        assert word in text, (word, text)


@pytest.fixture(scope="session")
def digest():
    """Digest of the bytes of an AnnData."""
    return digest_of


@pytest.fixture(scope="session")
def files_of():
    """Digest of every file below a folder."""
    return digest_files


@pytest.fixture(scope="session")
def refused():
    """Assert that a block is refused with one error: ``with refused(adata, KeyError, "found ..."): ...``.

    The AnnData (or several, in a list, or a folder among them) stays the same byte by byte. The message says what is
    expected, what was found, and all of the words; ``match`` is a regular expression for it.
    """

    @contextmanager
    def check(things, error, *words, match=None):
        things = things if isinstance(things, list) else [things]
        measure = lambda thing: digest_files(thing) if isinstance(thing, Path) else digest_of(thing)
        before = [measure(thing) for thing in things]
        with pytest.raises(error, match=match) as caught:
            yield
        assert type(caught.value) in (error, InputError)
        assert_message(caught.value, words)
        assert [measure(thing) for thing in things] == before

    return check
