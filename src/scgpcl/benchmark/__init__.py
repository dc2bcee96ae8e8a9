"""Compare clustering methods on labelled data sets: :func:`run`, or `scgpcl benchmark` on the command line."""

from ._registry import Clustering, Method, method_names, register
from ._results import load_run
from ._run import run

__all__ = ["Clustering", "Method", "load_run", "method_names", "register", "run"]
