"""One page about a clustering, for people who do not program."""

from ._report import report

__all__ = ["report"]
