"""Names of batches and types that do not depend on the data type of the column."""

from __future__ import annotations

import datetime
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

#: Patterns for a whole number that was once stored as a float, and for a date with or without a time.
_WHOLE = re.compile(r"-?(0|[1-9]\d*)\.0")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?")

#: Separator between names from different columns.
_BETWEEN = " / "


def batch_name(value: Any) -> str:
    """Return the name of a batch, regardless of how its value is stored.

    The values 1, 1.0, "1" and "1.0" have the same name, and so does a day stored as a date, a timestamp or text. Types
    change when tables are joined, written and read again. Apart from these two cases, text is kept as it is.
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
    """Return a date as text: in UTC if it has a time zone, and otherwise without the time if that is midnight."""
    try:
        stamp = pd.Timestamp(value)
    except ValueError:  # not a valid date, or one that pandas cannot represent
        return str(value)
    if stamp.tz is not None:
        return stamp.tz_convert("UTC").isoformat(sep=" ")
    return stamp.date().isoformat() if stamp == stamp.normalize() else stamp.isoformat(sep=" ")


def batch_names(column: pd.Series) -> pd.Categorical[str]:
    """Return the batch name of each cell as a categorical.

    Only categories in use are kept, in the order of the column's categories or values.
    """
    codes, values = _factorized(column)
    names = [batch_name(value) for value in values]
    unique = list(dict.fromkeys(names))
    position = np.array([unique.index(name) for name in names], dtype=np.int64)
    return pd.Categorical.from_codes(position[codes], categories=pd.Index(unique, dtype=object))


def combined_names(obs: pd.DataFrame, columns: Sequence[str]) -> pd.Categorical[str]:
    """Return the batch name of each cell, such as "study 1 / donor 2" if there are several columns.

    Only combinations that occur become categories, in order.
    """
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
    """Return the joined names that stand for more than one combination of values in the columns."""
    parts = pd.DataFrame({column: np.asarray(batch_names(obs[column]), dtype=object) for column in columns})
    names = parts.drop_duplicates().agg(_BETWEEN.join, axis=1)
    return sorted(set(names[names.duplicated()]))


def shared_names(column: pd.Series) -> list[str]:
    """Return the names that are shared by more than one value of a column."""
    names = [batch_name(value) for value in _factorized(column)[1]]
    return sorted({name for name in names if names.count(name) > 1})


def _factorized(column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """Return the index of each cell's value and the values that occur.

    The values are in the order of the categories, sorted, or sorted by name.
    """
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
