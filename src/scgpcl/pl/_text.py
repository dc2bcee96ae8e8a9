"""Names in pictures: shortened, on one line, and never read as formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes

#: Characters of a name before it is cut.
MAX_LENGTH = 30


def shown(name: object, max_length: int = MAX_LENGTH) -> str:
    """Name as matplotlib should draw it.

    Parameters
    ----------
    name
        A category, gene or column.
    max_length
        Characters to keep; an ellipsis takes the place of the middle of a longer name, since names often differ at an
        end only.
    """
    text = "".join(c if c.isprintable() else " " for c in str(name))
    if len(text) > max_length:
        end = max_length // 3
        text = f"{text[: max_length - 1 - end].rstrip()}…{text[-end:].lstrip()}"
    return text.replace("$", r"\$")  # a pair of dollars would be set as mathematics, or fail to be


def name_ticks(ax: Axes, names: Iterable[object]) -> None:
    """Write the names of groups below positions 0, 1, ...; those of more than three characters are slanted.

    Positions, not names, are the places of groups: two categories may read the same as text (1 and "1").
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
