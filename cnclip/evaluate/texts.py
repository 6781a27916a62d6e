"""Chinese class names and text templates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from .._encoding import read_text
from .._text import first_line, is_blank
from ..errors import InvalidInputError

logger = logging.getLogger("cnclip")

LABELS = ("cifar10", "cifar100", "caltech101", "imagenet")
TEMPLATES = ("generic", "photo", "small", "plain")
# The templates that suit the images of each list of labels.
TEMPLATES_OF = {"cifar10": "small", "cifar100": "small", "caltech101": "photo", "imagenet": "photo"}


def bundled_labels(name: str) -> dict[str, str]:
    """Return the Chinese class names of a data set by its folder names, in the order of indices.

    Args:
        name: One of LABELS.
    """
    text = resources.files(__package__).joinpath("labels", f"{name}.tsv").read_text("utf-8")
    names: dict[str, str] = dict(line.split("\t") for line in text.splitlines())
    return names


def read_labels(path: str | Path, encoding: str | None = None) -> dict[str, str] | list[str]:
    """Read class names from a file with `folder TAB name`, or a name, on each line.

    The log says so if the file is not UTF-8.

    Args:
        path: The file.
        encoding: Its encoding; by default UTF-8, UTF-16, UTF-32 or GB18030, as it is.

    Raises:
        InvalidInputError: the file cannot be read, is empty, or has a line of another form.
    """
    lines = _lines(path, encoding)
    if not any("\t" in line for line in lines):
        return lines
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise InvalidInputError(f"label {number}: expected 'folder TAB name'", file=path)
    names = {key.strip(): name.strip() for key, name in rows}
    if len(names) != len(rows):
        raise InvalidInputError("has a folder twice", file=path)
    return names


def read_templates(templates: str | Path | Sequence[str], encoding: str | None = None) -> list[str]:
    """Return the templates of a bundled name, of a file with one on each line, or of a list.

    `encoding` is as for `read_labels`.

    Raises:
        InvalidInputError: there are no templates, or one does not have exactly one `{}`.
    """
    if isinstance(templates, str | Path):
        if str(templates) in TEMPLATES:
            file = resources.files(__package__).joinpath("templates", f"{templates}.txt")
            found = file.read_text("utf-8").splitlines()
        elif isinstance(templates, str) and "{}" in templates:
            found = [templates]
        else:
            found = _lines(templates, encoding)
    else:
        found = list(templates)
    for template in found:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InvalidInputError(f"template {template!r}: expected a text with one {{}}")
    if not found:
        raise InvalidInputError("expected at least one template", item="templates")
    return found


def _lines(path: str | Path, encoding: str | None) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        text, found = read_text(Path(path).expanduser(), encoding)
    except (OSError, UnicodeError) as error:
        reason = f"neither a bundled name nor a readable file: {first_line(error)}"
        raise InvalidInputError(reason, file=path) from error
    if found.remark is not None:
        logger.warning("%s: %s", path, found.remark)
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise InvalidInputError("has a NUL byte", file=path, line=number)
    lines = [line for line in lines if not is_blank(line)]
    if not lines:
        raise InvalidInputError("is empty", file=path)
    return lines
