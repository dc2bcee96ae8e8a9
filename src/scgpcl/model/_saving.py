"""Save and load models, with atomic writes and a specific error for each kind of invalid file."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import tempfile
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import read_elem, write_elem, write_h5ad

from scgpcl._atomic import replacing_files, writing_advice
from scgpcl._rules import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

#: Version of the file format of saved models.
FORMAT = 2
PICKLE_NAME = "model.pt"
SAFE_NAME = "model.h5"
DATA_NAME = "adata.h5ad"
#: Size of the block before the HDF5 data, which contains a digest of the data.
DIGEST_BLOCK = 512
#: Text at the start of this block.
DIGEST_LABEL = b"scgpcl model, sha256 "
_PARTS = ("model_state_dict", "var_names", "attr_dict")
#: Attributes that every saved model has.
_ATTRIBUTES = ("registry_", "init_params_", "n_clusters_", "seed_", "gene_names_", "selected_genes_", "is_trained_")


def save_model(
    model: Any,
    base_save: Callable[..., None],
    folder: Path,
    prefix: str,
    *,
    overwrite: bool,
    safe: bool,
    save_anndata: bool,
    save_kwargs: Any,
    **anndata_kwargs: Any,
) -> None:
    """Save a model with the ``save`` method of the base class, and its AnnData if requested."""
    if folder.exists() and not (overwrite and folder.is_dir()):
        msg = (
            f"Expected a new folder for the model, found {folder}, which already exists. "
            "Pass `overwrite=True` to replace the model in it."
        )
        raise ValueError(msg)
    model.file_format_ = {"format": FORMAT, "scgpcl": version("scgpcl")}
    try:
        # like the base class; checkpoints of scvi-tools rely on it
        folder.resolve().parent.mkdir(parents=True, exist_ok=True)
        with replacing_files(folder, stale=[f"{prefix}{PICKLE_NAME if safe else SAFE_NAME}"]) as temporary:
            base_save(str(temporary), prefix=prefix, overwrite=True, save_kwargs=save_kwargs)
            if save_anndata:
                _write_adata(model.adata, temporary / f"{prefix}{DATA_NAME}", **anndata_kwargs)
            if safe:
                file = temporary / f"{prefix}{PICKLE_NAME}"
                content = torch.load(file, map_location="cpu", weights_only=False)
                write_safe(content, temporary / f"{prefix}{SAFE_NAME}")
                file.unlink()
    except (OSError, RuntimeError) as error:
        advice = writing_advice(error)
        if advice is None:
            raise
        msg = f"Expected to write the model to {folder}, found: {error} {advice}"
        raise OSError(msg) from error


def _write_adata(adata: AnnData, path: Path, **kwargs: Any) -> None:
    """Write an AnnData. Unlike AnnData's own method, this lets a backed AnnData keep its file."""
    was_open = adata.isbacked and adata.file.is_open
    try:
        write_h5ad(path, adata, **kwargs)
    finally:
        if was_open and not adata.file.is_open:
            adata.file.open()


def load_model(
    cls: type[Any],
    base_load: Callable[..., Any],
    folder: Path,
    adata: AnnData | bool | None,
    prefix: str,
    **kwargs: Any,
) -> Any:
    """Load a model with the ``load`` method of the base class, which only supports pickle files."""
    kwargs["prefix"] = prefix
    safe, path = folder / f"{prefix}{SAFE_NAME}", folder / f"{prefix}{PICKLE_NAME}"
    if safe.is_file():
        content = read_safe(safe)
        with _damage_reported(safe):
            _check_content(cls, content, adata, safe)
        data = folder / f"{prefix}{DATA_NAME}"
        if adata is None:
            adata = ad.read_h5ad(data) if data.is_file() else False
        with tempfile.TemporaryDirectory(prefix="scgpcl-") as temporary:
            torch.save(content, Path(temporary) / path.name)
            return _load(base_load, temporary, adata, **kwargs)
    if path.is_file():
        content = _read_pickle(path)
        with _damage_reported(path):
            _check_content(cls, content, adata, path)
    elif kwargs.get("backup_url") is None:
        msg = (
            f"Expected a saved model, found no {path.name} or {safe.name} in {folder}. "
            "Check the folder and the prefix; `model.save(folder)` writes one."
        )
        raise FileNotFoundError(msg)
    return _load(base_load, str(folder), adata, **kwargs)


def _load(base_load: Callable[..., Any], folder: str, adata: Any, **kwargs: Any) -> Any:
    inspect.signature(base_load).bind(folder, adata, **kwargs)
    try:
        with _damage_reported(folder):  # find errors before the AnnData is registered
            alone = base_load(folder, False, **kwargs)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        first = " ".join(str(error).split())[:300]
        msg = f"Expected the weights of this model in {folder}, found different ones: {first} Save the model again."
        raise ValueError(msg) from error
    return alone if adata is False else base_load(folder, adata, **kwargs)


def write_safe(content: dict[str, Any], path: Path) -> None:
    """Write the weights, gene names and attributes of a saved model to an HDF5 file.

    The HDF5 data are preceded by a digest of their bytes.
    """
    weights = {name: value for name, value in content["model_state_dict"].items() if name != "pyro_param_store"}
    parts = {**content, "model_state_dict": weights}
    with h5py.File(path, "w", userblock_size=DIGEST_BLOCK) as file:
        for name in _PARTS:
            write_elem(file, name, _storable(parts[name]))
    with path.open("r+b") as raw:
        digest = DIGEST_LABEL + _digest(raw.read()).encode()
        raw.seek(0)
        raw.write(digest.ljust(DIGEST_BLOCK, b"\n"))


def read_safe(path: Path) -> dict[str, Any]:
    """Read a file written by :func:`write_safe`, without running any code from it."""
    try:
        data = path.read_bytes()
        if not data.startswith(DIGEST_LABEL + _digest(data).encode()):
            msg = "the bytes do not match their digest"
            raise ValueError(msg)
        with h5py.File(path) as file:
            content = {name: read_elem(file[name]) for name in _PARTS}
        weights = content["model_state_dict"].items()
        return {**content, "model_state_dict": {name: torch.as_tensor(np.asarray(value)) for name, value in weights}}
    except Exception as error:
        msg = (
            f"Expected a saved model in {path}, found a damaged file ({type(error).__name__}: {error}). "
            "Save the model again."
        )
        raise ValueError(msg) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data[DIGEST_BLOCK:]).hexdigest()


def _storable(value: Any) -> Any:
    """Convert a value to a form that anndata writes and reads unchanged."""
    if isinstance(value, dict) and all(isinstance(name, str) and "/" not in name for name in value):
        return {name: _storable(each) for name, each in value.items()}
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, np.ndarray) and (value.dtype != object or all(isinstance(each, str) for each in value.flat)):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return np.array(value, dtype=object)
    if value is None or isinstance(value, bool | int | float | str | np.generic | pd.DataFrame):
        return value
    msg = (
        f"Expected only plain values, arrays and tables in a model saved with `safe=True`, found "
        f"{type(value).__name__}: {value!r}. Save it without `safe`."
    )
    raise TypeError(msg)


def _check_content(cls: type[Any], content: Any, adata: Any, path: Path) -> None:
    """Check that the model has this class and version, and that the AnnData contains its genes."""
    if not isinstance(content, dict) or not all(content.get(name) is not None for name in _PARTS):
        msg = f"Expected a saved model at {path}, found a different kind of file. Check the path."
        raise ValueError(msg)
    attributes = content["attr_dict"]
    written = attributes.get("file_format_") or {"format": 0, "scgpcl": "unknown"}
    name = attributes.get("registry_", {}).get("model_name")
    if name is not None and name != cls.__name__:
        msg = f"Expected a model of the class {cls.__name__} at {path}, found one of {name}. Load it with {name}."
        raise ValueError(msg)
    if written["format"] != FORMAT:
        msg = (
            f"Expected a model of format {FORMAT} at {path}, found format {written['format']}, written by scgpcl "
            f"{written['scgpcl']}. Install that version, or train the model again with this one."
        )
        raise ValueError(msg)
    missing = [attribute for attribute in _ATTRIBUTES if attribute not in attributes]
    if missing:
        msg = (
            f"Expected a complete model at {path}, found one without {listed(missing)}, written by scgpcl "
            f"{written['scgpcl']}. Save the model again."
        )
        raise ValueError(msg)
    if adata is not None and not isinstance(adata, bool):
        _check_genes(adata, attributes["gene_names_"], content["var_names"])


def _check_genes(adata: AnnData, trained: np.ndarray | None, registered: Any) -> None:
    """Check that the AnnData has the registered genes of the model, in any order."""
    genes = np.asarray(registered if trained is None else trained)
    missing = genes[~np.isin(genes.astype(str), adata.var_names.to_numpy(dtype=str))]
    if len(missing) or adata.n_vars != len(genes):
        msg = (
            f"Expected the {len(genes)} genes of the model in `adata.var_names`, found {adata.n_vars} genes, of which "
            f"{len(genes) - len(missing)} are the model's{'; missing: ' + listed(missing) if len(missing) else ''}. "
            "To label other cells, load with `adata=False` and call `model.predict(cells)`, which matches genes by name."
        )
        raise ValueError(msg)


@contextmanager
def _damage_reported(place: str | Path) -> Iterator[None]:
    """Report unexpected content as a damaged file, but let the package's own errors through."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if str(error).startswith("Expected"):
            raise
        msg = (
            f"Expected a saved model in {place}, found a damaged one: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. Save the model again."
        )
        raise ValueError(msg) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, AttributeError, ImportError, KeyError) as error:
        msg = (
            f"Expected a saved model at {path}, found a damaged file or one of another kind "
            f"({path.stat().st_size} bytes, {type(error).__name__}). Save the model again."
        )
        raise ValueError(msg) from error
