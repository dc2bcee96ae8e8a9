import importlib.util
from pathlib import Path

import anndata as ad
import pytest

import scgpcl

_SPEC = importlib.util.spec_from_file_location("_tests_conftest", Path(__file__).parents[1] / "conftest.py")
_parent = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_parent)


@pytest.fixture(scope="session")
def four_types() -> ad.AnnData:
    """Cells of four types, registered with the model below; tests take a copy."""
    x, groups = _parent.make_counts(n_cells=300, n_genes=80, n_groups=4, density_scale=2.0)
    adata = ad.AnnData(x)
    adata.obs_names = [f"cell{i}" for i in range(300)]
    adata.var_names = [f"gene{i}" for i in range(80)]
    adata.obs["group"] = [f"type {g}" for g in groups]
    return adata


@pytest.fixture(scope="session")
def four_clusters(four_types, tmp_path_factory) -> Path:
    """Folder of a model trained on them."""
    scgpcl.SCGPCL.setup_anndata(four_types)
    model = scgpcl.SCGPCL(four_types, 4, n_hidden=16, n_latent=8)
    model.train(pretrain_max_epochs=4, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    folder = tmp_path_factory.mktemp("levels") / "model"
    model.save(folder)
    return folder
