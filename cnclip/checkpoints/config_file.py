"""Small files of a checkpoint, and the values of configurations, checked as they are asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..archive import MAX_RESOLUTION
from ..errors import CheckpointError

# Far above any published model; what is larger is damage, and would take hours or all memory.
MAX_SIZE = 1 << 24
MAX_LAYERS = 1000
# Of a file of settings; the published ones have a few kB.
_MAX_FILE = 1 << 24


def read_small(path: Path, at_most: int) -> bytes:
    """A file's bytes.

    Raises:
        CheckpointError: there is no such file, or it cannot be read or is too large; names it.
    """
    if not os.path.isfile(path):  # a pipe would wait, a device may never end
        raise CheckpointError(f"{path}: there is no such file")
    try:
        if path.stat().st_size > at_most:
            raise CheckpointError(
                f"{path}: {path.stat().st_size} bytes, expected {at_most} at most"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: there is none; names the file.
    """
    content = read_small(path, _MAX_FILE)
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return values


class ConfigFile:
    """A JSON object's values.

    Attributes:
        name: Begins messages: the file, and the key of an object within it.
        values: The object.
    """

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.values = values

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """A file's.

        Raises:
            CheckpointError: it holds no JSON object.
        """
        return cls(str(path), read_json(path))

    def part(self, key: str) -> ConfigFile:
        """An object within; empty if it is not there."""
        values = self.values.get(key)
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise self.error(key, "an object")
        return ConfigFile(f"{self.name}: {key}", values)

    def error(self, key: str, expected: str) -> CheckpointError:
        """That a value is not what it has to be."""
        found = repr(self.values[key]) if key in self.values else "nothing"
        return CheckpointError(f"{self.name}: {key}: expected {expected}, found {found:.100}")

    def size(
        self,
        key: str,
        default: int | None = None,
        *,
        at_least: int = 1,
        at_most: int = MAX_SIZE,
    ) -> int:
        """An integer within bounds."""
        value = self.values.get(key, default)
        if type(value) is not int or not at_least <= value <= at_most:
            raise self.error(key, f"an integer from {at_least} to {at_most}")
        return value

    def layers(self, key: str, default: int | None = None) -> int:
        """How many layers there are."""
        return self.size(key, default, at_most=MAX_LAYERS)

    def stages(self, key: str) -> int | tuple[int, int, int, int]:
        """How many layers there are, or how many in each of a ResNet's four stages."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return self.layers(key)
        if len(value) != 4 or not all(type(n) is int and 1 <= n <= MAX_LAYERS for n in value):
            raise self.error(key, "an integer or four of them")
        return value[0], value[1], value[2], value[3]

    def divisor(self, key: str, of: int, default: int | None = None) -> int:
        """One that divides a width, such as the number of its attention heads."""
        value = self.size(key, default)
        if of % value:
            raise self.error(key, f"a divisor of {of}")
        return value

    def expect(self, key: str, *expected: Any) -> None:
        """Refuse a setting that would change what is computed; one that is not there is fine."""
        if key in self.values and self.values[key] not in expected:
            raise self.error(key, " or ".join(map(str, expected)))

    def resolution(self, key: str, default: int | None = None) -> int:
        """Pixels a side."""
        return self.size(key, default, at_most=MAX_RESOLUTION)

    def one_of(self, key: str, known: tuple[str, ...], default: str) -> str:
        """One of some words."""
        value = self.values.get(key, default)
        if value not in known:
            raise self.error(key, f"one of {', '.join(known)}")
        return str(value)
