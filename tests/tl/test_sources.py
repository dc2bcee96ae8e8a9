"""Marker genes from tables and models of others."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scgpcl import tl
from scgpcl.tl._sources import same_type

SETS = {"B": ["CD79A", "MS4A1"], "T": ["CD3D"]}


@pytest.fixture
def decoupler():
    rows = [("T", "CD3D", 3.0), ("B", "MS4A1", 1.0), ("B", "CD79A", 2.0), ("B", "CD79A", 0.5)]
    return pd.DataFrame(rows, columns=["source", "target", "weight"])


def test_tables_of_several_forms_give_the_same_sets(decoupler, tmp_path):
    panglao = pd.DataFrame(
        {"species": "Hs", "official gene symbol": ["CD79A", "MS4A1", "CD3D"], "cell type": list("BBT")}
    )
    decoupler.to_csv(tmp_path / "markers.csv")
    panglao.to_csv(tmp_path / "markers.tsv.gz", sep="\t")
    for source in (SETS, decoupler, panglao, tmp_path / "markers.csv", str(tmp_path / "markers.tsv.gz")):
        assert tl.marker_sets(source) == SETS
    assert tl.marker_sets(decoupler, n_genes=1) == {"T": ["CD3D"], "B": ["CD79A"]}


def test_a_celltypist_model_gives_the_genes_of_the_largest_weights():
    features, types = np.array(["CD79A", "CD3D", "GNLY", "MS4A1"]), np.array(["B", "T", "NK"])
    weights = np.array([[2.0, -1, -3, 1], [0.0, 4, -2, -1], [-1.0, -1, 5, 0.5]])
    model = SimpleNamespace(classifier=SimpleNamespace(coef_=weights, features=features), cell_types=types)
    assert tl.marker_sets(model) == {"B": ["CD79A", "MS4A1"], "T": ["CD3D"], "NK": ["GNLY", "MS4A1"]}
    two = SimpleNamespace(classifier=SimpleNamespace(coef_=weights[:1], features=features), cell_types=types[:2])
    assert tl.marker_sets(two, n_genes=1) == {"B": ["GNLY"], "T": ["CD79A"]}


def test_other_sources_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no file at"):
        tl.marker_sets(tmp_path / "none.csv")
    with pytest.raises(TypeError, match="found int"):
        tl.marker_sets(3)
    with pytest.raises(ValueError, match=r"found \['a', 'b'\]"):
        tl.marker_sets(pd.DataFrame({"a": [1], "b": [2]}))
    (tmp_path / "model.pkl").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "celltypist.models", None)
    with pytest.raises(ImportError) as caught:
        tl.marker_sets(tmp_path / "model.pkl")
    assert "pip install 'scgpcl[celltypist]'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("B cells", "B", True),
        ("Naive B cells", "B cell", True),
        ("NK cells", "T cells", False),
        ("CD4+ T", "CD8+ T", False),
        ("T", "t cells", True),
    ],
)
def test_names_that_say_the_same(first, second, same):
    assert same_type(first, second) is same is same_type(second, first)
