"""Checks of arguments and of installed packages that several modules share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from numbers import Integral
from typing import Any

from ._text import first_line
from .errors import InputTypeError, InvalidInputError, MissingExtraError


def check_integer(value: Any, name: str, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer, Python's or NumPy's, from `minimum` to `maximum`, as an int.

    Args:
        value: The argument's value.
        name: The argument's name in messages.
        minimum: The least value that is allowed.
        maximum: The largest value that is allowed; None for no bound.

    Raises:
        InputTypeError: it is not an integer; names the argument.
        InvalidInputError: it is out of bounds; names the argument.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputTypeError(f"expected int, got {type(value).__name__}", item=name)
    number = int(value)
    if number < minimum or (maximum is not None and number > maximum):
        bounds = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
        raise InvalidInputError(f"expected {bounds}, got {value}", item=name)
    return number


@contextlib.contextmanager
def requires_extra(extra: str, package: str) -> Iterator[None]:
    """Raise a MissingExtraError if an import in the block fails since something is not installed.

    A package that is installed, and fails for another reason, such as memory that its libraries
    do not get, is not reported as missing.

    Args:
        extra: The extra of cnclip that installs the package.
        package: The package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(extra, package) from error
    except ImportError as error:
        raise MissingExtraError(extra, package, first_line(error)) from error
