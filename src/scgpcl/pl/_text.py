"""Names in pictures: shortened, on one line, and never read as formulas."""

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
