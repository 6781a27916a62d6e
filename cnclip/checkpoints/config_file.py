"""Configuration files, whose values are checked as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..archive import LARGEST_RESOLUTION
from ..errors import CheckpointError

# Far above any published model; what is larger is damage, and would take hours or all memory.
LARGEST_SIZE = 1 << 24
MOST_LAYERS = 1000
# Of a file of settings; the published ones have a few kB.
_LARGEST_FILE = 1 << 24


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: there is none; names the file.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, too many to be true")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
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

    def size(self, key: str, default: int | None = None, *, at_most: int = LARGEST_SIZE) -> int:
        """A positive integer."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= at_most:
            raise self.error(key, f"an integer from 1 to {at_most}")
        return value

    def layers(self, key: str, default: int | None = None) -> int:
        """How many layers there are."""
        return self.size(key, default, at_most=MOST_LAYERS)

    def resolution(self, key: str, default: int | None = None) -> int:
        """Pixels a side."""
        return self.size(key, default, at_most=LARGEST_RESOLUTION)

    def one_of(self, key: str, known: tuple[str, ...], default: str) -> str:
        """One of some words."""
        value = self.values.get(key, default)
        if value not in known:
            raise self.error(key, f"one of {', '.join(known)}")
        return str(value)
