import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pytest


@pytest.fixture
def mapping(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return importlib.import_module("benchmarks.mapping")


def test_split_is_of_all_cells_and_depends_on_the_seed(mapping):
    kept, new = mapping.split(101, 0)
    assert len(new) == 20
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, new])), np.arange(101))
    assert not np.array_equal(new, mapping.split(101, 1)[1])


@pytest.mark.filterwarnings("ignore:.*take their training mean:UserWarning")
def test_every_arm_labels_the_query(mapping, adata, tmp_path):
    cells = ad.AnnData(adata.X, obs=adata.obs[["group"]].rename(columns={"group": "cell_type"}), var=adata.var)
    cells.write_h5ad(tmp_path / "toy.h5ad")
    rows = mapping.run(tmp_path / "toy.h5ad", 1)
    assert [row["arm"] for row in rows] == mapping.ARMS
    assert all(row["ari"] > 0.8 and row["n_query"] == 24 for row in rows)
    assert {row["arm"] for row in rows if "reference_ari" in row} == {mapping.ALL, mapping.MAPPED}
