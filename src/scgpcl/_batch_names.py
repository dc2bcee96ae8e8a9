"""Names of batches and types, independent of the type of the column."""

from __future__ import annotations

import datetime
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

#: Text of a whole number that was once stored as a float, and of a date with or without a time.
_WHOLE = re.compile(r"-?(0|[1-9]\d*)\.0")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?")

#: Separator between the names from several columns.
_BETWEEN = " / "


def batch_name(value: Any) -> str:
    """Name of a batch: the same for 1, 1.0, "1" and "1.0", and for a day as a date, a time stamp or text.

    Types change when tables are joined, written and read again; apart from these two forms, text is kept as it is.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, datetime.date | np.datetime64):
        return _date_name(value)
    if isinstance(value, np.timedelta64):
        value = pd.Timedelta(value)
    text = str(value)
    if _WHOLE.fullmatch(text):
        return text[:-2]
    return _date_name(text) if _DATE.fullmatch(text) else text


def _date_name(value: Any) -> str:
    """A date without the time if the time is midnight; values with a time zone are converted to UTC."""
    try:
        stamp = pd.Timestamp(value)
    except ValueError:  # not a valid date, or one that pandas cannot represent
        return str(value)
    if stamp.tz is not None:
        return stamp.tz_convert("UTC").isoformat(sep=" ")
    return stamp.date().isoformat() if stamp == stamp.normalize() else stamp.isoformat(sep=" ")


def batch_names(column: pd.Series) -> pd.Categorical[str]:
    """Name of each cell's batch; only used categories, in the order of the column's categories or values."""
    codes, values = _factorized(column)
    names = [batch_name(value) for value in values]
    unique = list(dict.fromkeys(names))
    position = np.array([unique.index(name) for name in names], dtype=np.int64)
    return pd.Categorical.from_codes(position[codes], categories=pd.Index(unique, dtype=object))


def combined_names(obs: pd.DataFrame, columns: Sequence[str]) -> pd.Categorical[str]:
    """Name of each cell's batch, such as "study 1 / donor 2" for several columns; existing combinations, in order."""
    own = batch_names(obs[columns[0]])
    for column in columns[1:]:
        inner = batch_names(obs[column])
        code = own.codes.astype(np.int64) * len(inner.categories) + inner.codes
        found, position = np.unique(code, return_inverse=True)
        pairs = zip(*np.divmod(found, len(inner.categories)), strict=True)
        names = [_BETWEEN.join((own.categories[first], inner.categories[second])) for first, second in pairs]
        unique = list(dict.fromkeys(names))
        place = np.array([unique.index(name) for name in names], dtype=np.int64)
        own = pd.Categorical.from_codes(place[position], categories=pd.Index(unique, dtype=object))
    return own


def ambiguous_names(obs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Joined names that belong to more than one combination of the columns."""
    parts = pd.DataFrame({column: np.asarray(batch_names(obs[column]), dtype=object) for column in columns})
    names = parts.drop_duplicates().agg(_BETWEEN.join, axis=1)
    return sorted(set(names[names.duplicated()]))


def shared_names(column: pd.Series) -> list[str]:
    """Names that belong to more than one value of a column."""
    names = [batch_name(value) for value in _factorized(column)[1]]
    return sorted({name for name in names if names.count(name) > 1})


def _factorized(column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """Index of each cell's value, and the values that occur: in the order of categories, sorted, or sorted by name."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories().cat
        return used.codes.to_numpy(), list(np.asarray(used.categories))
    if column.dtype != object or pd.api.types.infer_dtype(column, skipna=False) == "string":
        codes, found = pd.factorize(column, sort=True)
        return codes, list(np.asarray(found))
    seen: dict[tuple[bool, Any], int] = {}
    codes = np.empty(len(column), dtype=np.int64)
    for cell, value in enumerate(column):  # pandas treats True and 1 as the same value
        key = value if isinstance(value, Hashable) else str(value)
        codes[cell] = seen.setdefault((isinstance(value, bool | np.bool_), key), len(seen))
    values = [value for _, value in seen]
    try:
        order = sorted(range(len(values)), key=values.__getitem__)
    except TypeError:
        order = sorted(range(len(values)), key=lambda position: batch_name(values[position]))
    return np.argsort(order)[codes], [values[position] for position in order]
