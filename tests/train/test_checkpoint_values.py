"""Arguments of a model as plain values of a checkpoint."""

import numpy as np
import pandas as pd

from scgpcl.train import identity


def test_arguments_are_the_same_plain_values_in_every_process():
    """Sets have an order of their own in each process, and functions an address."""
    parameters = {
        "sets": {"b", "a", "c"},
        "function": np.mean,
        "array": np.array(3),
        "index": pd.Index(["x", "y"]),
        "number": np.float32(0.5),
        "nested": {"pair": (1, None)},
        "n_clusters": 3,
    }
    found = identity(parameters, seed=0, n_cells=2, genes=pd.Index(["g"]))["parameters"]
    assert found == {
        "sets": ["a", "b", "c"],
        "function": "numpy.mean",
        "array": 3,
        "index": ["x", "y"],
        "number": 0.5,
        "nested": {"pair": [1, None]},
    }
    assert all(type(value) in (str, int, float, list, dict) for value in found.values())
