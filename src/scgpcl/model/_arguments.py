"""Refusal of bad arguments of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from scgpcl.model import _checks


def check_arguments(values: dict[str, Any]) -> None:
    """Refuse bad arguments before any work.

    Raises
    ------
    TypeError, ValueError
        If one is of another kind or out of its range.
    """
    adata = values["adata"]
    if adata is None and values["registry"] is None:
        msg = "Expected an AnnData, found none. Pass one that `SCGPCL.setup_anndata(adata)` has registered."
        raise ValueError(msg)
    if adata is not None:
        _checks.check_is_adata(adata)
    if values["seed"] is not None:
        _checks.check_seed(values["seed"])
    for name in ("projection", "use_graph"):
        _checks.check_flag(values[name], name)
    _checks.check_n_clusters(values["n_clusters"], None if adata is None else adata.n_obs)
    _checks.check_one_of(values["gene_flavor"], ("seurat", "variance"), "gene_flavor")
    _checks.check_one_of(values["dispersion"], ("gene", "gene-cell"), "dispersion")
    _checks.check_one_of(values["reconstruction"], ("zinb", "mse"), "reconstruction")
    _checks.check_one_of(values["start"], ("pca", "random"), "start")
    for name in ("n_hidden", "n_latent", "n_layers"):
        _checks.check_range(values[name], 1, np.inf, name, whole=True)
    if values["feature_total"] is not None:
        _checks.check_range(values["feature_total"], 1e-9, np.inf, "feature_total")
    _checks.check_range(values["tau"], 1e-3, np.inf, "tau")
    _checks.check_range(values["alpha"], 1e-3, np.inf, "alpha")
    _checks.check_range(values["neighbor_keep"], 1e-9, 1.0, "neighbor_keep")
    if values["shrinkage"] != "auto":
        _checks.check_range(values["shrinkage"], 0.0, 1.0, "shrinkage")
    _checks.check_range(values["feature_drop"], 0.0, 1.0 - 1e-9, "feature_drop")
    n_top_genes = values["n_top_genes"]
    if n_top_genes is not None:
        if isinstance(n_top_genes, float) and n_top_genes <= 1:
            _checks.check_range(n_top_genes, 1e-9, 1.0, "n_top_genes")
        else:
            _checks.check_range(n_top_genes, 2, np.inf, "n_top_genes", whole=True)
