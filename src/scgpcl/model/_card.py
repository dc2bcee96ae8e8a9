"""A model card for ``scvi.hub``."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from scgpcl import _keys
from scgpcl.model._base import ModelState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import ModelCard

_TEMPLATE = """---
{header}
---

SCGPCL clusters single-cell RNA-seq counts by graph prototypical contrastive learning
([Lee et al. 2023](https://doi.org/10.1093/bioinformatics/btad342)). The model gives each cell a latent vector, a cluster
with its probability, and denoised expression; it labels new cells by gene name.

# Description

{description}

# Use

```python
import scvi.hub

model = scvi.hub.HubModel("FOLDER").model
labels = model.predict(new_cells)
```

A saved model is a pickle file. Load only files you trust.

# Model parameters

```json
{parameters}
```

# Set-up arguments

```json
{setup}
```

# Data

{data}

Training data: {training_data_url}

# Training

{training}

Training code: {training_code_url}

# References

{references}
"""
_MISSING = "Not provided by uploader"


class HubCard(ModelState):
    """``model_card``: what the model is and how it was made, in the form of scvi-hub."""

    def model_card(
        self,
        *,
        license_info: str,
        description: str = _MISSING,
        tissues: Sequence[str] = (),
        training_data_url: str | None = None,
        training_code_url: str | None = None,
        references: str = _MISSING,
    ) -> ModelCard:
        """Make a model card for :class:`scvi.hub.HubModel`.

        scvi-tools' own ``scvi.hub.HubModelCardHelper`` writes cards for its own models only.

        Parameters
        ----------
        license_info
            Licence of the model, such as ``"cc-by-4.0"``.
        description
            What the model and its data are.
        tissues
            Tissues of the training data; they become tags.
        training_data_url, training_code_url
            Where data and code are.
        references
            What to cite.

        Returns
        -------
        The card, with the tags that scvi-hub searches by.

        Raises
        ------
        ImportError
            If huggingface_hub is not installed.
        RuntimeError
            If the model is not trained.
        """
        try:
            from huggingface_hub import ModelCard, ModelCardData
        except ImportError as error:
            error.add_note("Install it with `pip install 'scvi-tools[hub]'`.")
            raise
        frame = self._trained_frame()
        registry = self.registry_
        tags = ["biology", "genomics", "single-cell", "modality:rna", *(f"tissue:{name}" for name in tissues)]
        tags += [
            f"model_cls_name:{registry['model_name']}",
            f"scvi_version:{registry['scvi_version']}",
            f"anndata_version:{version('anndata')}",
        ]
        data = {
            "cells": self.summary_stats["n_cells"],
            "registered genes": len(frame.var_names),
            "genes that the model uses": len(frame.selected),
            "clusters": self.n_clusters_,
        }
        return ModelCard(
            _TEMPLATE.format(
                header=ModelCardData(license=license_info, library_name="scvi-tools", tags=tags).to_yaml(),
                description=description,
                parameters=_as_json(self.init_params_["non_kwargs"]),
                setup=_as_json(registry["setup_args"]),
                data=_as_table(data),
                training=_as_table(self._training_facts()),
                training_data_url=training_data_url or _MISSING,
                training_code_url=training_code_url or _MISSING,
                references=references,
            )
        )

    def _training_facts(self) -> dict[str, Any]:
        history = self.history_ or {}
        facts: dict[str, Any] = {"scgpcl": version("scgpcl"), "seed": self.seed_}
        if _keys.STAGE in history:
            facts["epochs"] = len(history[_keys.STAGE])
        for name, table in history.items():
            if name != _keys.STAGE and len(table):
                facts[f"last {name}"] = f"{float(table.iloc[-1, 0]):.4g}"
        return facts


def _as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), indent=2, default=str)


def _as_table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in values.items())])
