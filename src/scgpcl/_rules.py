"""Rules for the package's arguments: one table, one validator and one format for error messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

Rule = Callable[[Any, str], Any]

#: Maximum number of names listed in a message.
MAX_NAMES = 5
#: Largest seed that numpy, torch and scanpy all accept.
MAX_SEED = 2**32 - 1
#: Default maximum fraction of a model's genes that may be missing in new cells.
MAX_MISSING = 0.2


def listed(names: Any) -> str:
    """Join names into text. If there are many, only the first ones and the total number are given."""
    names = [str(name) for name in names]
    text = ", ".join(repr(name) for name in names[:MAX_NAMES])
    return text if len(names) <= MAX_NAMES else f"{text}, ... ({len(names)} in all)"


def number(low: float = -np.inf, high: float = np.inf, *, whole: bool = False) -> Rule:
    """Return a rule that requires a finite number from ``low`` to ``high`` and converts it to a native Python type."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    kind = "a whole number" if whole else "a finite number" if np.isinf(high) else "a number"
    shown_high = str(high) if whole else f"{high:g}"
    bounds = "" if np.isinf(low) else f" of at least {low:g}" if np.isinf(high) else f" from {low:g} to {shown_high}"

    def rule(value: Any, shown: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high or np.isinf(value):
            msg = f"Expected `{shown}` to be {kind}{bounds}, found {value!r}."
            raise ValueError(msg)
        return value.item() if isinstance(value, np.generic) else value

    return rule


def one_of(*allowed: Any) -> Rule:
    """Return a rule that requires one of a few names."""

    def rule(value: Any, shown: str) -> Any:
        if not isinstance(value, str) or value not in allowed:
            msg = f"Expected `{shown}` to be one of {allowed}, found {value!r}."
            raise ValueError(msg)
        return str(value)

    return rule


def flag(value: Any, shown: str) -> bool:
    """Check that a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        msg = f"Expected `{shown}` to be True or False, found {value!r}."
        raise TypeError(msg)
    return bool(value)


def either(word: str | None, rule: Rule) -> Rule:
    """Return a rule that accepts a given word, or ``None``, in addition to what another rule accepts."""

    def check_either(value: Any, shown: str) -> Any:
        is_word = value is None if word is None else isinstance(value, str) and value == word
        return value if is_word else rule(value, shown)

    return check_either


def several(rule: Rule, example: str) -> Rule:
    """Return a rule that requires a non-empty tuple or list in which all values satisfy the same rule."""

    def check_each(value: Any, shown: str) -> tuple[Any, ...]:
        if not isinstance(value, tuple | list) or not value:
            msg = f"Expected `{shown}` to be a list or tuple of numbers above 0, such as {example}, found {value!r}."
            raise ValueError(msg)
        return tuple(rule(each, shown) for each in value)

    return check_each


def _title(value: Any, shown: str) -> str | None:
    if value is not None and not isinstance(value, str):
        msg = f"Expected `{shown}` to be text or None, found {value!r}."
        raise TypeError(msg)
    return value


def _n_clusters(value: Any, shown: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        msg = f"Expected `{shown}` to be a whole number or None, found {value!r}."
        raise TypeError(msg)
    if value < 2:
        msg = f"Expected `{shown}` to be at least 2, found {value}. Pass None to estimate it."
        raise ValueError(msg)
    return int(value)


def _n_top_genes(value: Any, shown: str) -> float | None:
    if isinstance(value, float | np.floating) and value <= 1:
        return number(1e-9, 1.0)(value, shown)
    return None if value is None else number(2, whole=True)(value, shown)


def _keep_genes(value: Any, shown: str) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection):
        msg = f"Expected `{shown}` to be a list of gene names, found {value!r}."
        raise TypeError(msg)
    return list(dict.fromkeys(str(name) for name in value))


def _columns(value: Any, shown: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(each, str) for each in value):
        msg = f"Expected `{shown}` to be a list of column names, found {value!r}."
        raise TypeError(msg)
    names = tuple(str(name) for name in value)
    if len(set(names)) < len(names):
        msg = f"Expected `{shown}` to name different columns, found {listed(names)}. Name each column once."
        raise ValueError(msg)
    return names


def _key_added(value: Any, shown: str) -> str:
    if not isinstance(value, str):
        msg = f"Expected `{shown}` to be text, found {value!r}."
        raise TypeError(msg)
    if not value or "/" in value:
        msg = f"Expected `{shown}` to be a name without a slash, found {value!r}. Other names cannot be written to a file."
        raise ValueError(msg)
    return value


AT_LEAST_0 = number(0.0)
#: Rule for each argument by name. If a name has different meanings, its rules are listed as ``function.name``.
RULES: dict[str, Rule] = {
    # registration
    "categorical_covariate_keys": _columns,
    # the model
    "n_clusters": _n_clusters,
    "n_top_genes": _n_top_genes,
    "keep_genes": _keep_genes,
    "gene_flavor": one_of("discriminant", "pearson_residuals", "seurat", "variance"),
    "gene_scaling": number(0.0, 1.0),
    "feature_total": either(None, number(1e-9)),
    "n_hidden": number(1, whole=True),
    "n_latent": number(1, whole=True),
    "dispersion": one_of("gene", "gene-cell"),
    "use_graph": flag,
    "start": one_of("discriminant", "pca", "random"),
    "seed": number(0, MAX_SEED, whole=True),
    # training
    "pretrain_max_epochs": either(None, number(0, whole=True)),
    "cluster_max_epochs": number(0, whole=True),
    "pretrain_max_cells": either(None, number(2, whole=True)),
    "batch_size": number(2, whole=True),
    "agreement": either(None, AT_LEAST_0),
    "agreement_patience": number(1, whole=True),
    "label_tol": number(0.0, 1.0),
    "false_splits": number(0.0, 1.0),
    "clustering": one_of("distillation", "self_training"),
    "train_size": either(None, number(1e-9, 1.0)),
    "validation_size": either(None, number(0.0, 1.0)),
    "shuffle_set_split": flag,
    "num_workers": number(0, whole=True),
    "accumulate_grad_batches": number(1, whole=True),
    # training plans
    "optimizer": one_of("AdamW", "Adadelta"),
    "lr": number(1e-12),
    "encoder_lr": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "one_cycle": flag,
    "decoded_genes": number(1e-9, 1.0),
    "lambda_instance": AT_LEAST_0,
    "lambda_prototype": AT_LEAST_0,
    "lambda_label": AT_LEAST_0,
    "lambda_reconstruction": AT_LEAST_0,
    "prototypes": one_of("epoch", "batch"),
    "n_prototypes": several(number(2, whole=True), "(10, 15, 20)"),
    "granularity": either(None, several(number(1e-3), "(1.0, 1.5, 2.0)")),
    "warmup_epochs": number(0, whole=True),
    "n_neighbors": number(0, whole=True),
    "tau": number(1e-3),
    "neighbor_keep": number(1e-9, 1.0),
    "feature_drop": number(0.0, 1.0 - 1e-9),
    "projection": flag,
    "alpha": number(1e-3),
    "shrinkage": number(0.0, 1.0),
    "depth": number(1e-6, 1.0),
    # training of the decoder
    "train_decoder.max_epochs": number(1, whole=True),
    "train_decoder.validation_size": number(0.01, 0.5),
    "patience": number(1, whole=True),
    "noise": AT_LEAST_0,
    # getters and files
    "get.max_missing": number(0.0, 1.0 - 1e-9),
    "get.max_novelty": either(None, AT_LEAST_0),
    "get.batch_size": either(None, number(1, whole=True)),
    "soft": flag,
    "min_confidence": either(None, number(0.0, 1.0)),
    "library_size": either("latent", number(1e-9)),
    "n_samples": number(1, whole=True),
    "n_draws": number(1, whole=True),
    "key_added": _key_added,
    "newick": flag,
    "differential_expression.method": one_of("wilcoxon", "pseudobulk"),
    "support": number(0.0, 1.0),
    "clustered": flag,
    "test_clusters.alpha": number(1e-9, 1.0 - 1e-9),
    "subcluster.n": either(None, number(2, whole=True)),
    "safe": flag,
    # the report
    "title": _title,
    "doublets": flag,
}


def check(function: str = "", /, **values: Any) -> dict[str, Any]:
    """Check the arguments of a function and return them as native Python types."""
    return {name: _rule(function, name)(value, name) for name, value in values.items()}


def check_kwargs(
    kwargs: Any, function: Callable[..., Any], argument: str, *, without: Collection[str] = ()
) -> dict[str, Any]:
    """Check a dictionary of keyword arguments of a function and return it with native Python types."""
    check_known(kwargs, set(inspect.signature(function).parameters) - set(without), argument)
    return {name: _rule("", name)(value, f"{argument}[{name!r}]") for name, value in (kwargs or {}).items()}


def check_known(kwargs: Any, known: Collection[str], argument: str) -> None:
    """Check that keyword arguments are None or a dictionary without unknown names."""
    if kwargs is not None and not isinstance(kwargs, Mapping):
        msg = f"Expected `{argument}` to be a dictionary of keyword arguments, found {kwargs!r}."
        raise TypeError(msg)
    unknown = [name for name in kwargs or {} if name not in known]
    if unknown:
        takes = "" if len(known) > 25 else f" It takes {', '.join(sorted(known))}."
        msg = f"Expected known arguments in `{argument}`, found {listed(unknown)}.{takes} Check the spelling."
        raise TypeError(msg)


#: Replacements for arguments that are common in other tools, by function.
REPLACED: dict[str, dict[str, str]] = {
    "setup_anndata": {
        "continuous_covariate_keys": "Continuous covariates are not supported: omit this argument",
        "use_raw": "Counts are read from `X` or a layer: `adata.layers['counts'] = adata.raw.X` and `layer='counts'`",
        "copy": "The AnnData itself is registered: to keep the original, call `adata = adata.copy()` first",
    },
    "train": {
        "plan_kwargs": "Pass `pretrain_plan_kwargs` or `cluster_plan_kwargs`, one for each stage",
        "learning_rate": "Pass `pretrain_plan_kwargs={'lr': ...}` or `cluster_plan_kwargs={'lr': ...}`",
        "use_gpu": "Pass `accelerator='gpu'` or `accelerator='cpu'`",
        "gpus": "Pass `accelerator='gpu'` and `devices=`",
        "n_epochs": "Pass `max_epochs`",
        "epochs": "Pass `max_epochs`",
        "early_stopping_kwargs": "Pass `early_stopping=True` and arguments such as `early_stopping_patience=`",
        "seed": "Pass it to the model: `SCGPCL(adata, seed=...)`",
        "n_clusters": "Pass it to the model: `SCGPCL(adata, n_clusters=...)`",
        # Lightning's arguments for debugging; they would leave an untrained model
        "fast_dev_run": "For a quick test, pass `max_epochs=1` and use a few cells",
        "overfit_batches": "Train on a few cells: `adata[:256].copy()`",
        "limit_train_batches": "Every epoch uses all cells: reduce `max_epochs`, or train on fewer cells",
        "barebones": "Training depends on logged losses: omit this argument",
    },
}


def check_replaced(kwargs: Collection[str], function: str) -> None:
    """Reject arguments that belong to other tools, and name the replacement."""
    for name in kwargs:
        if name in REPLACED[function]:
            msg = f"Expected known arguments of `{function}`, found {name!r}. {REPLACED[function][name]}."
            raise TypeError(msg)


def check_enough_cells(n_clusters: int | None, n_cells: int) -> None:
    """Check that there are no more clusters than cells.

    If the number of clusters is estimated, there must be at least 3 cells.
    """
    if n_clusters is not None and n_clusters > n_cells:
        msg = f"Expected no more clusters than cells, found `n_clusters={n_clusters}` for {n_cells} cells."
        raise ValueError(msg)
    if n_clusters is None and n_cells < 3:
        msg = f"Expected at least 3 cells to estimate the number of clusters, found {n_cells}. Pass `n_clusters=2`."
        raise ValueError(msg)


def _rule(function: str, name: str) -> Rule:
    return RULES.get(f"{function}.{name}") or RULES[name]
