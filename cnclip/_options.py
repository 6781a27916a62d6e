"""Options as the fields of a dataclass: one table for the API, the command line and files."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field
from numbers import Integral
from typing import Any

from .errors import InputTypeError, InvalidInputError


def option(default: Any, help: str, **rules: Any) -> Any:
    """A field with its help text and rules: `choices`, `min`, `max`, `above`, `below`, `many`.

    `short` is another name on the command line. `above` and `below` are exclusive bounds. `many`:
    the value is a tuple of at least one value, and the other rules are for each. `repeated`: the
    command line gives each of many values by the option's name.
    """
    return field(default=default, metadata={"help": help, **rules})


@contextlib.contextmanager
def environment(values: Mapping[str, str], defaults: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment in a context; of `defaults`, those that are not set."""
    changed = {**{n: v for n, v in defaults.items() if n not in os.environ}, **values}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def types_of(options: type) -> dict[str, type]:
    """The type of each option's values: `int` of `int | None` and of `tuple[int, ...]`.

    `str` of a Literal of strings.
    """
    hints = typing.get_type_hints(options)
    return {one.name: _type_of(hints[one.name]) for one in dataclasses.fields(options)}


def _type_of(hint: Any) -> type:
    first = (*typing.get_args(hint), hint)[0]
    if typing.get_origin(first):
        return _type_of(first)
    return first if isinstance(first, type) else type(first)


def check_options(options: Any) -> None:
    """Check every value of a dataclass; those of a similar type are converted, as int to float.

    None is allowed where it is the default.

    Raises:
        InputTypeError: a value has another type; names the option.
        InvalidInputError: a value is not allowed; names the option.
    """
    types = types_of(type(options))
    for one in dataclasses.fields(options):
        value = getattr(options, one.name)
        if value is None and one.default is None:
            continue
        if not one.metadata.get("many"):
            value = _checked(value, types[one.name], one)
        elif not isinstance(value, tuple):
            raise InputTypeError(f"expected a tuple, got {type(value).__name__}", item=one.name)
        elif not value:
            raise InvalidInputError("expected at least one value", item=one.name)
        else:
            value = tuple(_checked(each, types[one.name], one) for each in value)
        object.__setattr__(options, one.name, value)


def _checked(value: Any, wanted: type, one: dataclasses.Field[Any]) -> Any:
    value = _converted(value, wanted, one.name)
    if (expected := _violated(one.metadata, value)) is not None:
        raise InvalidInputError(f"expected {expected}, got {value!r:.60}", item=one.name)
    return value


def _converted(value: Any, wanted: type, name: str) -> Any:
    if wanted is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # NumPy's integers as well
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML reads 5e-5 as a string
            return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        found = f"{type(value).__name__}: {value!r:.60}"
        raise InputTypeError(f"expected {wanted.__name__}, got {found}", item=name)
    return value


def _violated(rules: Mapping[str, Any], value: Any) -> str | None:
    """The rule that a value violates, in words, or None."""
    if "choices" in rules and value not in rules["choices"]:
        return f"one of {', '.join(rules['choices'])}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if "min" in rules and value < rules["min"]:
        return f"{rules['min']} or more"
    if "max" in rules and value > rules["max"]:
        return f"{rules['max']} or less"
    if "above" in rules and value <= rules["above"]:
        return f"more than {rules['above']}"
    if "below" in rules and value >= rules["below"]:
        return f"less than {rules['below']}"
    return None
