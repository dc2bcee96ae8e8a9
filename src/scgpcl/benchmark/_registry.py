"""Registry of methods, with one file each. Built-in methods are in ``methods/``, and users' files can be anywhere."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from scgpcl._files import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    import numpy as np
    from numpy.typing import ArrayLike

_METHODS = "scgpcl.benchmark.methods"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Clustering(NamedTuple):
    """Result of a method, optionally with a latent space.

    Parameters
    ----------
    labels
        Cluster of each cell, of any type that supports comparison, shape (n_cells,).
    latent
        Latent vectors, shape (n_cells, n_latent), or ``None``.
    """

    labels: ArrayLike
    latent: np.ndarray | None = None


class Method(Protocol):
    """Signature of a method, which is a function that takes counts and returns clusters."""

    def __call__(
        self, adata: ad.AnnData, n_clusters: int | None, *, seed: int, batch_key: str | None
    ) -> Clustering | ArrayLike:
        """Cluster the cells."""


class Source(NamedTuple):
    """Place from which another process can import a method: a module or, if that is empty, the file ``path``."""

    name: str
    module: str
    path: str


_registered: dict[str, tuple[Method, Source, Callable[[], object] | None]] = {}


def register(name: str, *, prepare: Callable[[], object] | None = None) -> Callable[[Method], Method]:
    """Register a function as a benchmark method (decorator).

    Each run has its own process, which re-imports the file that contains the function. The function must therefore be
    defined at the top level of a file.

    Parameters
    ----------
    name
        Name in the tables, which may contain letters, digits, dots and hyphens. If there already is a method with this
        name, it is replaced.
    prepare
        Function to call before timing starts, for one-off costs such as compilation.

    Returns
    -------
    A decorator that returns the function unchanged.

    Raises
    ------
    ValueError
        If the name contains other characters, or if the function is not defined at the top level of a file.

    Examples
    --------
    >>> from scgpcl.benchmark import Clustering, register
    >>> @register("my-method")  # doctest: +SKIP
    ... def my_method(adata, n_clusters, *, seed, batch_key):
    ...     return Clustering(labels, latent)
    """
    if not _NAME.fullmatch(name):
        msg = f"Expected the name of a method to consist of letters, digits, dots and hyphens, found {name!r}."
        raise ValueError(msg)

    def decorator(function: Method) -> Method:
        _registered[name] = (function, _source_of(name, function), prepare)
        return function

    return decorator


def method_names() -> list[str]:
    """Return the names of all registered methods, starting with the built-in methods."""
    return [*_builtin(), *(name for name in _registered if name not in _builtin())]


def import_file(path: Path) -> None:
    """Run a user's file that registers methods."""
    if not path.is_file():
        msg = f"Expected a Python file that registers methods, found none at {path}. Check the path."
        raise InputError(msg)
    try:
        _run_file(path)
    except Exception as error:
        msg = f"Expected a Python file that registers methods, found one that fails, {path}: {error!r}"
        raise InputError(msg) from error


def find_source(name: str) -> Source:
    """Return the source of a method without importing its dependencies."""
    if name in _registered:
        return _registered[name][1]
    if name in _builtin():
        return Source(name, _builtin()[name], "")
    msg = f"Expected a method among {', '.join(method_names())}, found {name!r}."
    raise InputError(msg)


def load(source: Source) -> Method:
    """Import a method in the current process and prepare it."""
    if source.name not in _registered:
        if source.module:
            importlib.import_module(source.module)
        else:
            _run_file(Path(source.path))
    if source.name not in _registered:
        msg = f"Expected {source.path or source.module} to register {source.name!r} when it is imported."
        raise RuntimeError(msg)
    method, _, prepare = _registered[source.name]
    if prepare is not None:
        prepare()
    return method


def _builtin() -> dict[str, str]:
    """Return the module of each built-in method. For example, ``pca_kmeans.py`` registers "pca-kmeans"."""
    folder = str(Path(__file__).with_name("methods"))
    return {m.name.replace("_", "-"): f"{_METHODS}.{m.name}" for m in pkgutil.iter_modules([folder])}


def _source_of(name: str, function: Method) -> Source:
    """Return the source of a function, which must be at the top level of a file."""
    path = getattr(function, "__globals__", {}).get("__file__")
    if path is None or "<locals>" in getattr(function, "__qualname__", ""):
        msg = f"Expected {name!r} to be a function at the top level of a file, found one that other processes cannot import. Move it to a file."
        raise ValueError(msg)
    module = function.__module__
    # another process can import the module by name only if the name leads to the same file
    return Source(name, module if _origin(module) == path else "", str(Path(path).resolve()))


def _origin(module: str) -> str | None:
    """Return the file that another process would import under this name."""
    if module in ("__main__", "__mp_main__"):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _run_file(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"scgpcl_method_{path.stem}", path)
    if spec is None or spec.loader is None:
        msg = f"Expected a file that ends in .py, found {path}."
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
