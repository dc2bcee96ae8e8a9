"""Simulate counts with known groups from the model of Splatter."""

from scgpcl.simulate._model import splat_model
from scgpcl.simulate._parameters import SplatParameters
from scgpcl.simulate._settings import dropout, imbalance, signal
from scgpcl.simulate._splatter import splatter

__all__ = ["SplatParameters", "dropout", "imbalance", "signal", "splat_model", "splatter"]
