"""Compare clustering methods on labelled data sets, with :func:`run` or with ``scgpcl benchmark`` on the command line."""

from scgpcl.benchmark._registry import Clustering, Method, method_names, register
from scgpcl.benchmark._results import load_run
from scgpcl.benchmark._run import run

__all__ = ["Clustering", "Method", "load_run", "method_names", "register", "run"]
