"""Check an AnnData before any work is done. Errors state the rule, what was found, and what to do."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scvi import settings

from scgpcl._rules import RULES, listed, number, one_of
from scgpcl.data import MAX_COUNT, check_key, read_rows
from scgpcl.data import check_counts as check_counts
from scgpcl.data import counts_of as counts_of
from scgpcl.data import place_of as place_of

#: Columns of ``var`` that distinguish genes from other features, and columns whose values are always modalities.
FEATURE_COLUMNS = ("feature_types", "modality", "feature_type", "feature_biotype")
MODALITY_COLUMNS = ("feature_types", "modality")
GENES = re.compile(r"gene expression|genes?|rna|gex|mrna|transcriptome", re.IGNORECASE)
OTHER_FEATURES = re.compile(
    r"(antibody|antigen|multiplexing|crispr|vdj) |"
    r"(peaks?|atac|adt|hto|prot|proteins?|antibody|antibodies|crispr|chromatin( accessibility)?|custom|tags?)$",
    re.IGNORECASE,
)
#: Number of rows used to compute the fingerprint of a count matrix.
FINGERPRINT_ROWS = 8


def check_is_adata(adata: Any, argument: str = "adata") -> None:
    """Check that an argument is an AnnData."""
    if not issubclass(type(adata), AnnData):  # scvi-tools' adapter for collections passes as an instance
        hint = "Read one with `anndata.read_h5ad(path)`, or create one from counts with `anndata.AnnData(counts)`."
        if "Collection" in type(adata).__name__:
            hint = (
                "Train from `scgpcl.data.CollectionDataModule(collection)`, or join the files with "
                "`anndata.experimental.concat_on_disk(paths, path)` and open the result with `backed='r'`."
            )
        msg = f"Expected `{argument}` to be an AnnData, found {type(adata).__name__}. {hint}"
        raise TypeError(msg)


def holds_counts(block: sp.csr_matrix) -> bool:
    """Test float32 rows quickly. If True, they pass `check_counts`. If False, `check_counts` must be called."""
    values = block.data
    # negative numbers, NaN and infinity have larger bit patterns than the largest count
    bits = values.view(np.uint32)
    return bool(
        np.diff(block.indptr).all()
        and (not values.size or bits.max() <= np.float32(MAX_COUNT).view(np.uint32))
        and np.array_equal(values, np.trunc(values))
    )


def fingerprint(x: Any) -> str:
    """Return a digest of the shape and of a few rows of a count matrix, which is a cheap way to detect changes."""
    rows = np.linspace(0, max(x.shape[0] - 1, 0), min(FINGERPRINT_ROWS, x.shape[0])).astype(np.int64)
    if isinstance(x, sp.csr_matrix):  # views, because this is called for single cells too
        starts, stops = x.indptr[rows], x.indptr[rows + 1]
        at = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)] or [rows])
        lengths, genes, values = stops - starts, x.indices[at], x.data[at]
    else:
        some = read_rows(x, rows)
        lengths, genes, values = np.diff(some.indptr), some.indices, some.data
    stored = values != 0
    if not stored.all():
        lengths = np.bincount(np.repeat(np.arange(len(rows)), lengths)[stored], minlength=len(rows))
        genes, values = genes[stored], values[stored]
    digest = hashlib.blake2b(digest_size=16)
    for part, dtype in ((lengths, np.int64), (genes, np.int32), (values, np.float32)):
        digest.update(part.astype(dtype).tobytes())
    return f"{x.shape[0]}x{x.shape[1]} {digest.hexdigest()}"


def check_names(names: pd.Index, axis: str) -> None:
    """Check that names are unique."""
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        msg = f"Expected unique names in `adata.{axis}`, found repeated {listed(twice)}. Call `adata.{axis}_make_unique()`."
        raise ValueError(msg)


def check_obs_key(adata: AnnData, key: str | None, argument: str, *, missing: str | None = None) -> None:
    """Check that a key is a column of ``adata.obs`` with a value for every cell.

    ``missing`` says what to do about missing values, instead of filling them in.
    """
    check_key(key, argument)
    if key is None:
        return
    if key not in adata.obs:
        msg = (
            f"Expected `{argument}={key!r}` to be a column of `adata.obs`, found columns [{listed(adata.obs.columns)}]. "
            f"Name one of these, or pass `{argument}=None`."
        )
        raise KeyError(msg)
    n_missing = int(adata.obs[key].isna().sum())
    if n_missing:
        msg = f"Expected a value for every cell in `adata.obs[{key!r}]`, found {n_missing} missing ones. " + (
            missing or f"Fill them in or drop these cells: `adata[adata.obs[{key!r}].notna()].copy()`."
        )
        raise ValueError(msg)


def check_size_factors(adata: AnnData, key: str | None) -> None:
    """Check that the size factors are positive and finite."""
    check_obs_key(adata, key, "size_factor_key")
    if key is None:
        return
    values = adata.obs[key]
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values <= 0).any():
        msg = (
            f"Expected positive finite numbers in `adata.obs[{key!r}]`, found {listed(values.unique())}. "
            "Pass `size_factor_key=None` to use library sizes."
        )
        raise ValueError(msg)


def warn_of_other_features(var: pd.DataFrame) -> None:
    """Warn if ``var`` shows that some features are not genes, because their counts would be treated as RNA."""
    for column in FEATURE_COLUMNS:
        if column not in var:
            continue
        kinds = var[column].dropna().astype(str).value_counts()
        other = [kind for kind in kinds.index if OTHER_FEATURES.match(kind)]
        if column in MODALITY_COLUMNS and len(kinds) > 1:
            genes = [kind for kind in kinds.index if GENES.fullmatch(kind)]
            other = other or [kind for kind in kinds.index if kind not in genes]
        if other:
            rest = [kind for kind in kinds.index if kind not in other]
            hint = f"adata[:, adata.var[{column!r}] == {rest[0]!r}].copy()" if rest else "the counts of genes"
            msg = (
                f"Expected genes alone, found {sum(kinds[kind] for kind in other)} of {len(var)} features of the kinds "
                f"{listed(other)} in `adata.var[{column!r}]`. They would be treated as RNA and counted in the library sizes. "
                f"Use {'`' + hint + '`' if rest else hint}."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
            return


def check_not_replaced(adata: AnnData, key: str, own: Collection[str]) -> None:
    """Check that ``adata.uns[key]`` is free, or holds an earlier result, which has all entries or columns in ``own``."""
    entry: Any = adata.uns.get(key)
    if key in adata.uns and not (isinstance(entry, Mapping | pd.DataFrame) and set(own) <= set(entry)):
        msg = (
            f"Expected `key_added` to keep what others have written to `adata.uns`, found {key!r}, which is not an earlier "
            f"result of this function. Choose another name, or delete the entry: `del adata.uns[{key!r}]`."
        )
        raise ValueError(msg)


def check_not_view(adata: AnnData) -> None:
    """Check that an AnnData is not a view."""
    if adata.is_view:
        msg = "Expected an AnnData that is not a view, found a view. Call `adata = adata.copy()` first."
        raise ValueError(msg)


def check_range(value: Any, low: float, high: float, argument: str, *, whole: bool = False) -> None:
    """Check that a value is a number from ``low`` to ``high``."""
    number(low, high, whole=whole)(value, argument)


def check_one_of(value: Any, allowed: tuple[str, ...], argument: str) -> None:
    """Check that a value is one of a few names."""
    one_of(*allowed)(value, argument)


def check_seed(seed: Any, argument: str = "seed") -> None:
    """Check that a seed is a whole number that all sources of randomness accept."""
    RULES["seed"](seed, argument)


def check_key_added(key: Any, argument: str = "key_added") -> None:
    """Check that a name is accepted by AnnData and its file formats."""
    RULES["key_added"](key, argument)
