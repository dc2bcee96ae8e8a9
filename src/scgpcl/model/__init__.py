"""The user-facing model."""

from scgpcl.model._scgpcl import SCGPCL

__all__ = ["SCGPCL"]
