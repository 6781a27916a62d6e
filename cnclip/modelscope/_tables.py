"""Makes the classes of `_names.py`, whose attributes are words."""

from __future__ import annotations

from typing import Any


def with_hyphens(name: str) -> str:
    """The usual value of a name: hyphens for underscores."""
    return name.replace("_", "-")


def table(name: str, words: str, *bases: type[Any], value: Any = with_hyphens) -> Any:
    """A class with the names of a table.

    Args:
        name: The class's name.
        words: `NAME` or `NAME=VALUE`, between white space.
        bases: Its bases.
        value: Makes the value of a name without one.
    """
    values = {}
    for word in words.split():
        key, given, text = word.partition("=")
        values[key] = text if given else value(key)
    return type(name, bases or (object,), values | {"__module__": __name__})
