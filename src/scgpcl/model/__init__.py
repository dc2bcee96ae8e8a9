"""The model that users call."""

from scgpcl.model._scgpcl import SCGPCL

__all__ = ["SCGPCL"]
