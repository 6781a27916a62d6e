"""A confusion matrix as an HTML table, for a notebook. Needs no font and no matplotlib."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .._html import escape
from .._locale import Words

MAX_CLASSES = 30
"""With more classes the table has no columns for predicted classes."""


def notebook_html(
    heading: str,
    subtitle: str,
    accuracies: Mapping[str, float | None],
    confusion: NDArray[np.int64],
    words: Words,
) -> str:
    """Return a table with a row for each class: its accuracy, and how its images were classified.

    Its style applies to nothing else in the notebook.

    Args:
        heading: The line above the table, in bold.
        subtitle: The line below that.
        accuracies: Per cent for each class by its name; None for a class without images.
        confusion: int64 [classes, classes]: images of a class (row) by predicted class (column).
        words: The words of a language, see `words.py`.
    """
    full = len(accuracies) <= MAX_CLASSES
    heads = "".join(f"<th>{escape(label)}</th>" for label in accuracies) if full else ""
    corner = words.confusion if full else words.classes
    rows = [f"<tr><th>{corner}</th><th>top-1</th>{heads}</tr>"]
    for number, (label, accuracy) in enumerate(accuracies.items()):
        share = "" if accuracy is None else f"{accuracy:.0f} %"
        counts = confusion[number].tolist() if full else []
        cells = "".join(
            _cell(count, sum(counts), right=column == number) for column, count in enumerate(counts)
        )
        rows.append(f"<tr><th>{escape(label)}</th><td>{share}</td>{cells}</tr>")
    return (
        f"<style>\n{_STYLE}</style>\n"
        f'<div class="cnclip-confusion"><p><b>{escape(heading)}</b><br>{escape(subtitle)}</p>'
        f"<table>{''.join(rows)}</table></div>"
    )


def _cell(count: int, total: int, *, right: bool) -> str:
    """A count, green if it is right, else red; stronger with its share of the class's images."""
    if not count:
        return "<td></td>"
    color = "43, 138, 62" if right else "201, 42, 42"
    shade = 0.6 * count / max(1, total)
    return f'<td style="background: rgba({color}, {shade:.2f})">{count}</td>'


_STYLE = """\
.cnclip-confusion { overflow-x: auto }
.cnclip-confusion table { border-collapse: collapse; margin: 0 }
.cnclip-confusion th, .cnclip-confusion td { border: 1px solid #8884; padding: 3px 8px }
.cnclip-confusion th, .cnclip-confusion td { text-align: center; font-weight: normal }
.cnclip-confusion tr > th:first-child { text-align: left }
"""
