"""Saved models without pickle: weights as safetensors, everything else as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

    import torch

JSON_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
#: Key that marks a value which JSON has no form for.
_KIND = "__kind__"
#: Objects, flags and numbers, as letters of numpy.
_DTYPE_KINDS = "Obiuf"


def write_safe(content: dict[str, Any], folder: Path, prefix: str) -> None:
    """Write a saved model.

    Parameters
    ----------
    content
        Weights, names of the genes, and attributes, as scvi-tools saves them.
    folder
        Existing folder for ``model.safetensors`` and ``model.json``.
    prefix
        Start of the names of both files.

    Raises
    ------
    TypeError
        If an attribute is neither plain nor an array nor a table.
    """
    weights: dict[str, torch.Tensor] = dict(content["model_state_dict"])
    weights.pop("pyro_param_store", None)  # scvi-tools' own, empty here
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / f"{prefix}{WEIGHTS_NAME}")
    plain = {"var_names": _encoded(np.asarray(content["var_names"])), "attr_dict": _encoded(content["attr_dict"])}
    text = json.dumps(plain, ensure_ascii=False, indent=1)
    (folder / f"{prefix}{JSON_NAME}").write_text(text, encoding="utf-8")


def read_safe(folder: Path, prefix: str) -> dict[str, Any]:
    """Read what :func:`write_safe` has written; this runs no code from the files.

    Raises
    ------
    FileNotFoundError
        If the weights are missing.
    ValueError
        If a file is damaged.
    """
    paths = folder / f"{prefix}{JSON_NAME}", folder / f"{prefix}{WEIGHTS_NAME}"
    if not paths[1].is_file():
        msg = f"Expected the weights beside {paths[0]}, found no {paths[1].name}. Copy both files."
        raise FileNotFoundError(msg)
    try:
        plain = json.loads(paths[0].read_text(encoding="utf-8"))
        content = {name: _decoded(plain[name]) for name in ("var_names", "attr_dict")}
        weights: dict[str, Any] = load_file(paths[1])
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        msg = (
            f"Expected a saved model in {paths[0]} and {paths[1].name}, found damaged files "
            f"({type(error).__name__}: {error}). Save the model again."
        )
        raise ValueError(msg) from error
    return content | {"model_state_dict": weights}


def _encoded(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _encoded(value.item())
    if isinstance(value, np.ndarray):
        kind = "object" if value.dtype == object or value.dtype.kind in "UST" else str(value.dtype)
        return {_KIND: "array", "dtype": kind, "shape": list(value.shape), "values": _encoded(value.ravel().tolist())}
    if isinstance(value, pd.DataFrame):
        columns = {str(name): _encoded(value[name].to_numpy()) for name in value}
        index = {"name": value.index.name, "values": _encoded(value.index.to_numpy())}
        return {_KIND: "table", "columns": columns, "index": index}
    if isinstance(value, tuple):
        return {_KIND: "tuple", "values": [_encoded(each) for each in value]}
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    if isinstance(value, dict) and all(isinstance(name, str) and name != _KIND for name in value):
        return {name: _encoded(each) for name, each in value.items()}
    if isinstance(value, dict):
        pairs = [[_encoded(name), _encoded(each)] for name, each in value.items()]
        return {_KIND: "pairs", "values": pairs}
    msg = (
        f"Expected plain values, arrays and tables in a model that is saved with `safe=True`, found "
        f"{type(value).__name__}: {value!r}. Save it without `safe`."
    )
    raise TypeError(msg)


def _decoded(value: Any) -> Any:
    """A value as it was before :func:`_encoded`."""
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {name: _decoded(each) for name, each in value.items()}
    if kind == "array":
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in _DTYPE_KINDS:  # others can be of any size
            msg = f"unknown type of array {value['dtype']!r}"
            raise ValueError(msg)
        flat = np.empty(len(value["values"]), dtype=dtype)
        flat[:] = _decoded(value["values"])
        return flat.reshape(value["shape"])
    if kind == "table":
        index = pd.Index(_decoded(value["index"]["values"]), name=value["index"]["name"])
        return pd.DataFrame({name: _decoded(each) for name, each in value["columns"].items()}, index=index)
    if kind == "tuple":
        return tuple(_decoded(each) for each in value["values"])
    if kind == "pairs":
        return {_decoded(name): _decoded(each) for name, each in value["values"]}
    msg = f"unknown kind of value {kind!r}"
    raise ValueError(msg)
