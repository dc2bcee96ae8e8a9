"""Read the "Returns" section of a docstring as prose: types stand in signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sphinx.ext.napoleon import NumpyDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def _parse_returns_section(self: NumpyDocstring, section: str) -> list[str]:
    return self._format_block(":returns: ", self._dedent(self._consume_to_next_section()))


def setup(app: Sphinx) -> dict[str, Any]:
    """Replace napoleon's parser, which takes the first line of the section for a type."""
    NumpyDocstring._parse_returns_section = _parse_returns_section
    return {"parallel_read_safe": True}
