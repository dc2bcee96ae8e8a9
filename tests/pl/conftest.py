import anndata as ad
import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def _close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def clustered() -> ad.AnnData:
    """Ten cells in three clusters, of three types in another order."""
    obs = pd.DataFrame(
        {
            "scgpcl_cluster": pd.Categorical(list("0000011122"), categories=["0", "1", "2"]),
            "cell_type": pd.Categorical(["T", "T", "T", "T", "B", "NK", "NK", "NK", "B", "B"]),
        },
        index=[f"c{i}" for i in range(10)],
    )
    return ad.AnnData(np.ones((10, 2), dtype=np.float32), obs=obs)
