"""One HTML page, or a folder of figures, about a clustering."""

from scgpcl._report._page import report

__all__ = ["report"]
