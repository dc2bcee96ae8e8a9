"""Simulated counts with known groups, by the model of Splatter."""

from ._model import splat_model
from ._parameters import SplatParameters
from ._settings import dropout, imbalance, signal
from ._splatter import splatter

__all__ = ["SplatParameters", "dropout", "imbalance", "signal", "splat_model", "splatter"]
