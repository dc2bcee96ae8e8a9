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
def test_every_arm_labels_the_query(mapping, draw_counts, tmp_path):
    counts, groups = draw_counts(n_cells=360)
    cells = ad.AnnData(counts)
    cells.obs_names, cells.var_names = (
        [f"{kind}{i}" for i in range(n)] for kind, n in zip("cg", counts.shape, strict=True)
    )
    cells.obs["cell_type"] = [f"type {group}" for group in groups]
    cells.write_h5ad(tmp_path / "toy.h5ad")
    rows = mapping.run(tmp_path / "toy.h5ad", 1)
    assert [row["arm"] for row in rows] == mapping.ARMS
    assert all(row["ari"] > 0.8 and row["n_query"] == 72 for row in rows)
    assert {row["arm"] for row in rows if "reference_ari" in row} == {mapping.ALL, mapping.MAPPED}
