"""Makes classes whose attributes are ModelScope's words."""

from __future__ import annotations

from typing import Any

from ._installed import installed_object


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


class PartOf(type):
    """The type of a class with some of the names of one in `modelscope.metainfo`.

    The others are those of the installed ModelScope.
    """

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(installed_object("modelscope.metainfo", cls.__name__), name)
