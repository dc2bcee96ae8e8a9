"""Reports on a clustering, as a single HTML page or as a folder of figures."""

from scgpcl._report._page import report

__all__ = ["report"]
