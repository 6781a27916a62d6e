"""Tables of plain text, aligned in a terminal, where a Chinese character is two columns wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "


def display_width(text: str) -> int:
    """Return the columns of a text in a terminal: 2 for a wide character, 0 for a combining one."""
    return sum(map(_character_width, text))


def format_table(
    rows: Sequence[Sequence[str]], right: Sequence[bool], *, underlined: bool = True
) -> str:
    """Format rows of cells as aligned lines; the first row is the heading.

    Args:
        rows: At least one row; all have the same length.
        right: For each column, whether its cells are aligned to the right.
        underlined: Add a line of dashes below the heading.

    Returns:
        Lines joined by newlines, without trailing spaces.
    """
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for cell, width, to_the_right in zip(row, widths, right, strict=True):
            spaces = " " * (width - display_width(cell))
            cells.append(spaces + cell if to_the_right else cell + spaces)
        lines.append(GAP.join(cells).rstrip())
    if underlined:
        lines.insert(1, GAP.join("-" * width for width in widths))
    return "\n".join(lines)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
