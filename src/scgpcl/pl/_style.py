"""Appearance of groups in every figure: their order, colours and names."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from scgpcl import _keys
from scgpcl.cluster import NUMBERED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Maximum number of characters in a name. Longer names are shortened.
MAX_LENGTH = 30
#: Colours that can be distinguished with any colour vision, as far as their number allows. The first six are the
#: colours of Okabe and Ito (2008) that stand out from white. Each further colour is chosen from a grid to be the
#: farthest (CIE 1976 distance) from white, light grey and all previous colours, in the least favourable of normal,
#: protan, deutan and tritan vision, as simulated by Machado, Oliveira and Fernandes (2009).
DISTINCT = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8010F0", "#503010", "#302090", "#A0F080",
    "#701040", "#F01050", "#9070F0", "#503070", "#10F0A0", "#F0E010", "#506070", "#606020", "#B0B050", "#8020C0",
    "#B020A0", "#80C0A0", "#A01040", "#F0C0F0", "#F07080", "#E0B080", "#907050", "#9090F0",
)  # fmt: skip
#: Share of white in the colour of the lightest part of a cluster.
LIGHTEST = 0.72


def categories_of(adata: Any, key: Any) -> pd.Series:
    """Return a column of ``adata.obs`` as a categorical without unused categories.

    An error is raised if the column is missing or empty.
    """
    if not isinstance(adata, AnnData):
        msg = f"Expected `adata` to be an AnnData, found {type(adata).__name__}. Pass the AnnData that was annotated."
        raise TypeError(msg)
    if not isinstance(key, Hashable):
        msg = f"Expected the name of one column of `adata.obs`, found {key!r}. Plot the columns one by one."
        raise TypeError(msg)
    if key not in adata.obs:
        msg = f"Expected `adata.obs[{key!r}]`, found the columns {list(adata.obs.columns)}. Name one of these."
        raise KeyError(msg)
    column = adata.obs[key].astype("category").cat.remove_unused_categories()
    if column.isna().all():
        msg = f"Expected at least one cell with a value in `adata.obs[{key!r}]`, found none."
        raise ValueError(msg)
    return column


def colors_of(adata: AnnData, key: str) -> dict[object, str]:
    """Return the colour of each category of ``adata.obs[key]`` without changing ``adata``.

    If ``adata.uns[f"{key}_colors"]``, where users and scanpy store colours, contains a valid colour for every category,
    these colours are used. Otherwise, ``DISTINCT`` is used, or scanpy's palette if there are more categories than that.
    """
    from matplotlib.colors import is_color_like
    from scanpy.plotting import palettes

    # scanpy stores one colour per category, used or not
    categories = list(adata.obs[key].astype("category").cat.categories)
    stored: Any = adata.uns.get(f"{key}_colors")
    palette: Sequence[str] = [] if stored is None else [str(color) for color in stored]
    if len(palette) < len(categories) or not all(map(is_color_like, palette)):
        names = [str(name) for name in categories]
        own = str(key).endswith("_cluster") or str(key).startswith(_keys.LEVEL)
        if own and all(map(NUMBERED.fullmatch, names)) and not all(map(str.isdecimal, names)):
            return dict(zip(categories, node_colors(names), strict=True))
        defaults = (list(DISTINCT), palettes.default_102)
        palette = next((p for p in defaults if len(p) >= len(categories)), ["grey"] * len(categories))
    return dict(zip(categories, palette, strict=False))


def node_colors(names: Sequence[str], clusters: Sequence[str] = ()) -> list[str]:
    """Return the colour of each node in a tree of clusters, or in part of a tree, given the names of the nodes.

    The colour of a node is the same at every level. The colour of a cluster from training depends on its number, or on
    its position in ``clusters`` if the clusters have names. The first part of a cluster keeps its colour, and further
    parts get different lighter shades. A merge of several clusters gets the colour of the first one.
    """
    from matplotlib.colors import to_hex, to_rgb
    from scanpy.plotting import palettes

    numbered = all(map(NUMBERED.fullmatch, names))
    place = {name: number for number, name in enumerate(clusters)}
    whole = [int(number) for name in names for number in re.findall(r"(?<![.\d])\d+", name)] if numbered else []
    palette = DISTINCT if max(len(place), 1 + max(whole, default=0)) <= len(DISTINCT) else palettes.default_102
    found = []
    for name in names:
        first = re.sub(r"^\(+|[+-][^)]*|\)", "", name) if numbered else name.lstrip("(").split(" + ")[0]
        known = [first.split(".")[0]] if numbered else sorted(place, key=len, reverse=True)
        base = next((one for one in known if re.fullmatch(rf"{re.escape(one)}(\.(\d+|[a-z]+))*", first)), first)
        parts = [int(part) if part.isdecimal() else _rank(part) for part in re.findall(r"\.(\w+)", first[len(base) :])]
        number = int(base) if numbered else place.get(base, 0)
        light, width = 0.0, 1.0
        for part in parts:  # 1 is the first half of what the parent has, 2 the next quarter, and so on
            light += width * (1.0 - 0.5 ** (part - 1))
            width *= 0.5**part
        red, green, blue = (c + LIGHTEST * light * (1.0 - c) for c in to_rgb(palette[number % len(palette)]))
        found.append(to_hex((red, green, blue)))
    return found


def _rank(letters: str) -> int:
    """Return 1 for "a", 2 for "b", ..., 27 for "aa"."""
    rank = 0
    for letter in letters:
        rank = 26 * rank + ord(letter) - ord("a") + 1
    return rank


def shown(name: object, max_length: int = MAX_LENGTH) -> str:
    """Return a name for matplotlib: on one line, shortened in the middle if long, and never parsed as a formula."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    if len(text) > max_length:
        end = max_length // 3  # names often differ only at one end
        text = f"{text[: max_length - 1 - end].rstrip()}…{text[-end:].lstrip()}"
    return text.replace("$", r"\$")  # matplotlib would typeset text between two dollars as mathematics


def name_ticks(ax: Axes, names: Iterable[object]) -> None:
    """Write the names of groups below positions 0, 1, ..., slanted if any name has more than three characters.

    Groups are placed by position, because two categories may have the same text (1 and "1").
    """
    texts = [shown(name) for name in names]
    slanted = max(map(len, texts)) > 3
    ax.set_xticks(
        range(len(texts)),
        texts,
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else None,
    )
