from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
from anndata import AnnData


def check_arguments(adata: Any, key: Any) -> None:
    """Require an AnnData and one name.

    Raises
    ------
    TypeError
        If they are something else.
    """
    if not isinstance(adata, AnnData):
        msg = f"Expected `adata` to be an AnnData, found {type(adata).__name__}. Pass the AnnData that was annotated."
        raise TypeError(msg)
    if not isinstance(key, Hashable):
        msg = f"Expected the name of one column of `adata.obs`, found {key!r}. Draw the columns one by one."
        raise TypeError(msg)


def categories_of(adata: AnnData, key: str) -> pd.Series:
    """Column of `adata.obs` as a categorical without unused categories, index `obs_names`.

    Raises
    ------
    KeyError
        If `adata.obs` has no such column.
    TypeError
        If `adata` is no AnnData, or `key` no name.
    ValueError
        If no cell has a value.
    """
    check_arguments(adata, key)
    if key not in adata.obs:
        msg = f"Expected `adata.obs[{key!r}]`, found the columns {list(adata.obs.columns)}. Name one of these."
        raise KeyError(msg)
    column = adata.obs[key].astype("category").cat.remove_unused_categories()
    if column.isna().all():
        msg = f"Expected at least one cell with a value in `adata.obs[{key!r}]`, found none."
        raise ValueError(msg)
    return column


def colors_of(adata: AnnData, key: str) -> dict[object, str]:
    """Colour of each category of `adata.obs[key]`; `adata` is not changed.

    These are the colours in `adata.uns[f"{key}_colors"]`, where users and scanpy's plots put them, as long as there is one
    for each category and all are colours. Else they are `DISTINCT`, or scanpy's palette for more categories than these.
    """
    from matplotlib.colors import is_color_like
    from scanpy.plotting import palettes

    from ._palette import DISTINCT

    # scanpy stores one colour per category, used or not.
    categories = list(adata.obs[key].astype("category").cat.categories)
    stored = adata.uns.get(f"{key}_colors")
    palette: Sequence[str] = [] if stored is None else [str(color) for color in stored]
    if len(palette) < len(categories) or not all(map(is_color_like, palette)):
        defaults = (list(DISTINCT), palettes.default_102)
        palette = next((p for p in defaults if len(p) >= len(categories)), ["grey"] * len(categories))
    return dict(zip(categories, palette, strict=False))
