"""Chinese names of classes and templates for texts: those that ship, and those of files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ..errors import InvalidInputError

LABELS = ("cifar10", "cifar100", "caltech101", "imagenet")
TEMPLATES = ("generic", "photo", "small", "plain")
# Those that go with the images of a list of labels.
TEMPLATES_OF = {"cifar10": "small", "cifar100": "small", "caltech101": "photo", "imagenet": "photo"}


def shipped_labels(name: str) -> dict[str, str]:
    """Chinese names by the names of the data set's folders, in the order of its indices.

    Args:
        name: One of LABELS.
    """
    text = resources.files(__package__).joinpath("labels", f"{name}.tsv").read_text("utf-8")
    names: dict[str, str] = dict(line.split("\t") for line in text.splitlines())
    return names


def read_labels(path: str | Path) -> dict[str, str] | list[str]:
    """Names of classes from a file: `folder TAB name` on each line, or names alone.

    Raises:
        InvalidInputError: it cannot be used.
    """
    lines = _lines(path)
    if not any("\t" in line for line in lines):
        return lines
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise InvalidInputError(f"{path}: label {number}: expected 'folder TAB name'")
    names = {key.strip(): name.strip() for key, name in rows}
    if len(names) != len(rows):
        raise InvalidInputError(f"{path}: names a folder twice")
    return names


def read_templates(templates: str | Path | Sequence[str]) -> list[str]:
    """Templates of a shipped name, of a file with one on each line, or as they are given.

    Raises:
        InvalidInputError: there are none, or one has not exactly one `{}`.
    """
    if isinstance(templates, str | Path):
        if str(templates) in TEMPLATES:
            file = resources.files(__package__).joinpath("templates", f"{templates}.txt")
            found = file.read_text("utf-8").splitlines()
        elif isinstance(templates, str) and "{}" in templates:
            found = [templates]
        else:
            found = _lines(templates)
    else:
        found = list(templates)
    for template in found:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InvalidInputError(f"template {template!r}: expected a text with one {{}}")
    if not found:
        raise InvalidInputError("templates: there are none")
    return found


def _lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{path}: neither a name that ships nor a file that can be read: {error}"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidInputError(f"{path}: is empty")
    return lines
