"""Cluster single-cell RNA-seq counts with graph prototypical contrastive learning."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scgpcl import benchmark, cluster, data, datasets, metrics, nn, pl, pp, presets, simulate, tl, train
    from scgpcl._read import read
    from scgpcl._report import report
    from scgpcl.model import SCGPCL
    from scgpcl.module import SCGPCLModule

__all__ = [
    "SCGPCL",
    "SCGPCLModule",
    "benchmark",
    "cluster",
    "data",
    "datasets",
    "metrics",
    "nn",
    "pl",
    "pp",
    "presets",
    "read",
    "report",
    "simulate",
    "tl",
    "train",
]

__version__ = version("scgpcl")

#: Modules that define the public names that are not modules themselves. ``settings`` is the settings object of
#: scvi-tools, which includes the seed and the verbosity.
_HOMES = {
    "settings": "scvi",
    "SCGPCL": "scgpcl.model",
    "SCGPCLModule": "scgpcl.module",
    "read": "scgpcl._read",
    "report": "scgpcl._report",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line starts quickly."""
    if name not in __all__ and name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "settings", "__version__"]
