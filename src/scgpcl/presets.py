"""The published configuration as plain data, listing only changes to the defaults of ``SCGPCL`` and ``train``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

Preset = Mapping[str, Mapping[str, Any]]

#: Published configuration, taken from Lee et al. (2023) and the authors' script for real data. The arguments can be
#: passed as ``SCGPCL(**PAPER["model"])`` and ``train(**PAPER["train"])``.
PAPER: Final[Preset] = MappingProxyType(
    {
        "model": MappingProxyType(
            {
                "n_top_genes": 0.2,
                "gene_flavor": "variance",
                "gene_scaling": 1.0,
                "feature_total": None,
                "n_hidden": 256,
                "dispersion": "gene-cell",
                "start": "random",
            }
        ),
        "train": MappingProxyType(
            {
                "pretrain_max_epochs": 200,
                "cluster_max_epochs": 200,
                "pretrain_max_cells": None,
                "batch_size": 1024,
                "agreement": 0.99,
                "clustering": "self_training",
                "pretrain_plan_kwargs": MappingProxyType(
                    {
                        "lr": 1e-4,
                        "decoded_genes": 1.0,
                        "one_cycle": False,
                        "projection": False,
                        "lambda_prototype": 0.05,
                        "n_neighbors": 0,
                        "prototypes": "batch",
                        "granularity": (1.0, 1.5, 2.0),
                        "warmup_epochs": 100,
                    }
                ),
                "cluster_plan_kwargs": MappingProxyType(
                    {
                        "alpha": 1.0,
                        "optimizer": "Adadelta",
                        "lr": 1.0,
                        "encoder_lr": 1.0,
                        "neighbor_keep": 0.8,
                        "feature_drop": 0.2,
                    }
                ),
            }
        ),
    }
)
