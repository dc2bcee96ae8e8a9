"""Names from the page of a report: what is written, and that a wrong file changes nothing."""

import copy
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgpcl
from scgpcl import _keys

NAMES = {"0": "T </script>\"'", "2": "T </script>\"'", "1": "Ünïcode 🧬", "10": "B"}


def group(name, members, **other):
    return {"name": name, "color": "#0072B2", "members": [{"cluster": c, "cells": n} for c, n in members], **other}


@pytest.fixture
def adata():
    """Nine cells in four clusters of 4, 2, 1 and 1 cells, and one cell without."""
    clusters = pd.Categorical(
        ["0", "1", "2", "0", "1", "0", "10", "0", None], categories=["0", "1", "2", "10", "unused"]
    )
    return ad.AnnData(np.ones((9, 2), "float32"), obs=pd.DataFrame({"own": clusters}, index=list("abcdefghi")))


@pytest.fixture
def content():
    return {
        "format": "scgpcl annotation",
        "version": 1,
        "key": "own",
        "clusters": [
            group(NAMES["0"], [("0", 4), ("2", 1)], comment="two halves"),
            group(f" {NAMES['1']} ", [("1", 2)], color="#E69F00"),
            group("B", [("10", 1)]),
        ],
    }


@pytest.fixture
def save(tmp_path):
    def write(content):
        path = tmp_path / "annotation.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_names_are_those_of_the_file(adata, content, save, tmp_path):
    table = scgpcl.tl.apply_annotation(adata, save(content))
    expected = adata.obs["own"].map(NAMES)
    assert adata.obs[_keys.NAME].astype(object).equals(expected.astype(object))
    assert list(adata.obs[_keys.NAME].cat.categories) == list(dict.fromkeys(NAMES.values()))
    assert table["clusters"].tolist() == ["0, 2", "1", "10"]
    assert table["size"].tolist() == adata.obs[_keys.NAME].value_counts(sort=False).tolist() == [5, 2, 1]
    assert table["comment"].tolist() == ["two halves", "", ""]
    adata.write_h5ad(tmp_path / "named.h5ad")
    read = ad.read_h5ad(tmp_path / "named.h5ad")
    assert read.obs[_keys.NAME].equals(adata.obs[_keys.NAME])
    assert read.uns[f"{_keys.NAME}_annotation"].reset_index(drop=True).equals(table)
    assert list(read.uns[f"{_keys.NAME}_colors"]) == ["#0072B2", "#E69F00", "#0072B2"]


def test_another_file_replaces_the_names_and_leaves_the_clusters(adata, content, save):
    clusters = adata.obs["own"].copy()
    other = copy.deepcopy(content)
    other["clusters"][2]["name"] = NAMES["1"]  # two groups of one name become one
    once = adata.copy()
    scgpcl.tl.apply_annotation(once, save(other))
    scgpcl.tl.apply_annotation(adata, save(content))
    table = scgpcl.tl.apply_annotation(adata, save(other))
    assert table["clusters"].tolist() == ["0, 2", "1, 10"]
    assert adata.obs.equals(once.obs)
    assert adata.obs["own"].equals(clusters)


def test_a_part_of_the_cells_when_asked_for(adata, content, save):
    part = adata[adata.obs["own"] != "10"].copy()
    with pytest.raises(ValueError, match="none called"):
        scgpcl.tl.apply_annotation(part, save(content))
    assert scgpcl.tl.apply_annotation(part, save(content), subset=True)["size"].tolist() == [5, 2, 0]
    part = adata[[0, 1, 2]].copy()
    assert scgpcl.tl.apply_annotation(part, save(content), subset=True)["size"].tolist() == [2, 1, 0]
    grown = ad.concat([adata, adata], index_unique="-")
    with pytest.raises(ValueError, match=r"Expected 4 cells in cluster '0'.+found 8"):
        scgpcl.tl.apply_annotation(grown, save(content), subset=True)


def changed(**fields):
    return lambda content: {**content, **fields}


def first(**fields):
    return lambda content: {**content, "clusters": [{**content["clusters"][0], **fields}, *content["clusters"][1:]]}


REFUSED = {
    "no JSON": (lambda content: '{"format": ', ValueError, "found no JSON"),
    "a list": (lambda content: [content], ValueError, "found 'list'"),
    "another format": (changed(format="leiden"), ValueError, "found 'leiden'"),
    "a later version": (changed(version=2), ValueError, "update scgpcl"),
    "no clusters": (changed(clusters=[]), ValueError, "Expected `key` and a list"),
    "a key that is no text": (changed(key=3), ValueError, "Expected `key` and a list"),
    "another column": (changed(key="leiden"), KeyError, "obs['leiden']"),
    "an empty name": (first(name=" "), ValueError, "found the name ' ' in group 1"),
    "a name that is no text": (first(name=3), ValueError, "found the name 3"),
    "a comment that is no text": (first(comment=[]), ValueError, "found the comment []"),
    "no colour": (first(color="url(x)"), ValueError, "found the colour 'url(x)'"),
    "no members": (first(members=[]), ValueError, "found the members []"),
    "sizes that are no numbers": (first(members=[{"cluster": "0", "cells": "4"}]), ValueError, "found the members"),
    "a cluster twice": (first(members=[{"cluster": "1", "cells": 2}]), ValueError, "found a cluster twice"),
    "a cluster twice in a group": (
        first(members=[{"cluster": "0", "cells": 4}] * 2),
        ValueError,
        "found a cluster twice",
    ),
    "a cluster that is missing": (first(members=[{"cluster": "0", "cells": 4}]), ValueError, "found also ['2']"),
    "another clustering": (
        first(members=[{"cluster": "0", "cells": 3}, {"cluster": "2", "cells": 2}]),
        ValueError,
        "Expected 3 cells in cluster '0'",
    ),
    "an unknown cluster": (
        first(members=[{"cluster": "0", "cells": 4}, {"cluster": "2", "cells": 1}, {"cluster": "x", "cells": 1}]),
        ValueError,
        "none called ['x']",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused_and_nothing_changes(adata, content, save, untouched, case):
    change, error, words = REFUSED[case]
    scgpcl.tl.apply_annotation(adata, save(content))
    with untouched(adata), pytest.raises(error) as caught:
        scgpcl.tl.apply_annotation(adata, save(change(content)))
    text = str(caught.value.args[0])
    assert text.startswith("Expected")
    assert words in text


def test_only_earlier_tables_are_replaced(adata, content, save, untouched, tmp_path):
    scgpcl.tl.apply_annotation(adata, save(content))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for cells in (adata, ad.read_h5ad(tmp_path / "cells.h5ad")):
        scgpcl.tl.apply_annotation(cells, save(content))
    adata.uns["type_annotation"] = "by hand"
    with untouched(adata), pytest.raises(ValueError, match="found 'type_annotation', .* another name"):
        scgpcl.tl.apply_annotation(adata, save(content), key_added="type")


def test_wrong_arguments_are_refused(adata, content, save, tmp_path, untouched):
    with untouched(adata):
        with pytest.raises(FileNotFoundError):
            scgpcl.tl.apply_annotation(adata, tmp_path / "none.json")
        with pytest.raises(ValueError, match="another column for the names"):
            scgpcl.tl.apply_annotation(adata, save(content), key_added="own")
        with pytest.raises(ValueError, match="view"):
            scgpcl.tl.apply_annotation(adata[:3], save(content))
        with pytest.raises(TypeError, match="AnnData"):
            scgpcl.tl.apply_annotation(adata.obs, save(content))
