"""Complete configurations as plain data: ``"model"`` for ``SCGPCL(...)`` and ``"train"`` for ``train(...)``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

Preset = Mapping[str, Mapping[str, Any]]

#: Our configuration; the defaults of :class:`scgpcl.SCGPCL` and of its ``train``.
DEFAULT: Final[Preset] = MappingProxyType(
    {
        "model": MappingProxyType(
            {
                "n_top_genes": 2000,
                "gene_flavor": "seurat",
                "feature_total": 2000.0,
                "n_hidden": 128,
                "n_latent": 64,
                "n_layers": 2,
                "dispersion": "gene",
                "reconstruction": "zinb",
                "tau": 0.25,
                "alpha": 10.0,
                "neighbor_keep": 0.8,
                "feature_drop": 0.2,
                "shrinkage": "auto",
                "projection": True,
                "start": "pca",
            }
        ),
        "train": MappingProxyType(
            {
                "pretrain_max_epochs": 20,
                "cluster_max_epochs": 10,
                "batch_size": 256,
                "agreement": 0.99,
                "agreement_patience": 3,
                "label_tol": 0.001,
                "pretrain_plan_kwargs": MappingProxyType(
                    {
                        "optimizer": "AdamW",
                        "lr": 1e-3,
                        "encoder_lr": 0.3,
                        "weight_decay": 1e-4,
                        "one_cycle": True,
                        "lambda_instance": 1.0,
                        "lambda_prototype": 0.5,
                        "n_neighbors": 15,
                        "prototypes": "epoch",
                        "granularity": (1.0, 1.5, 2.0),
                        "warmup_epochs": 3,
                    }
                ),
                "cluster_plan_kwargs": MappingProxyType(
                    {"optimizer": "AdamW", "lr": 1e-4, "encoder_lr": 0.3, "lambda_reconstruction": 1.0}
                ),
            }
        ),
    }
)

#: The published configuration (Lee et al. 2023, and the authors' script for real data).
PAPER: Final[Preset] = MappingProxyType(
    {
        "model": MappingProxyType(
            {
                "n_top_genes": 0.2,
                "gene_flavor": "variance",
                "feature_total": None,
                "n_hidden": 256,
                "n_latent": 64,
                "n_layers": 2,
                "dispersion": "gene-cell",
                "reconstruction": "zinb",
                "tau": 0.25,
                "alpha": 1.0,
                "neighbor_keep": 0.8,
                "feature_drop": 0.2,
                "shrinkage": 0.0,
                "projection": False,
                "start": "random",
            }
        ),
        "train": MappingProxyType(
            {
                "pretrain_max_epochs": 200,
                "cluster_max_epochs": 200,
                "batch_size": 1024,
                "agreement": 0.99,
                "agreement_patience": 1,
                "label_tol": 0.001,
                "pretrain_plan_kwargs": MappingProxyType(
                    {
                        "optimizer": "AdamW",
                        "lr": 1e-4,
                        "encoder_lr": 1.0,
                        "weight_decay": 1e-4,
                        "one_cycle": False,
                        "lambda_instance": 1.0,
                        "lambda_prototype": 0.05,
                        "n_neighbors": 0,
                        "prototypes": "batch",
                        "granularity": (1.0, 1.5, 2.0),
                        "warmup_epochs": 100,
                    }
                ),
                "cluster_plan_kwargs": MappingProxyType(
                    {
                        "optimizer": "Adadelta",
                        "lr": 1.0,
                        "encoder_lr": 1.0,
                        "weight_decay": 0.0,
                        "lambda_reconstruction": 1.0,
                    }
                ),
            }
        ),
    }
)
