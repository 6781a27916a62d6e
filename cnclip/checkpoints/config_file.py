"""Small files of a checkpoint, and the values of configuration files with their checks.

Each format stores the sizes of the towers under other keys. A reader passes a table of them, by the
fields of `VisionConfig` or `TextConfig`; a writer uses the same table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._text import first_line
from ..archive import MAX_RESOLUTION
from ..errors import CheckpointError
from ..modeling.config import ACTIVATIONS, TextConfig, VisionConfig

# Far above any published model: larger values are damage, and would take hours or all memory.
MAX_SIZE = 1 << 24
MAX_LAYERS = 1000
# Bytes of a configuration file; the published ones have a few kB.
_MAX_FILE = 1 << 24
# Other names of activations, those of Hugging Face.
_ALIASES = {"silu": "swish"}


def read_small(path: Path, at_most: int) -> bytes:
    """A file's bytes.

    Raises:
        CheckpointError: the file does not exist, cannot be read or is too large.
    """
    if not os.path.isfile(path):  # reading a pipe or device may never end
        raise CheckpointError("there is no such file", file=path)
    try:
        if path.stat().st_size > at_most:
            raise CheckpointError(
                f"{path.stat().st_size} bytes, expected {at_most} at most", file=path
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{first_line(error)}", file=path) from error


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it holds none.
    """
    content = read_small(path, _MAX_FILE)
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON: {first_line(error)}", file=path) from error
    if not isinstance(values, dict):
        raise CheckpointError("expected a JSON object", file=path)
    return values


class ConfigFile:
    """A JSON object of a configuration file; its methods return checked values.

    Attributes:
        file: The file, for messages.
        values: The object.
        member: The keys that lead to the object within the file, for messages.
    """

    def __init__(
        self, file: Path, values: Mapping[str, Any] | None = None, member: str = ""
    ) -> None:
        self.file = file
        self.values = read_json(file) if values is None else values
        self.member = member

    def part(self, key: str, defaults: Mapping[str, Any] | None = None) -> ConfigFile:
        """The object under a key, with the defaults of missing values; it may be missing."""
        values = self.values.get(key)
        if not isinstance(values, dict | None):
            raise self.error(key, "an object")
        return ConfigFile(self.file, {**(defaults or {}), **(values or {})}, self._place(key))

    def error(self, key: str, expected: str) -> CheckpointError:
        """The error of a wrong value."""
        found = repr(self.values[key]) if key in self.values else "nothing"
        reason = f"expected {expected}, found {found:.100}"
        return CheckpointError(reason, file=self.file, member=self._place(key))

    def _place(self, key: str) -> str:
        return f"{self.member}.{key}" if self.member else key

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

    def layers(self, key: str) -> int | tuple[int, int, int, int]:
        """A number of layers, or one for each of a ResNet's four stages."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return self.size(key, at_most=MAX_LAYERS)
        if len(value) != 4 or not all(type(n) is int and 1 <= n <= MAX_LAYERS for n in value):
            raise self.error(key, "an integer or four of them")
        return value[0], value[1], value[2], value[3]

    def divisor(self, key: str, of: int) -> int:
        """An integer that divides a width, such as the number of attention heads."""
        value = self.size(key)
        if of % value:
            raise self.error(key, f"a divisor of {of}")
        return value

    def expect(self, key: str, *expected: Any) -> None:
        """Refuse a setting that would change the results; it may be missing."""
        if key in self.values and self.values[key] not in expected:
            raise self.error(key, " or ".join(map(str, expected)))


def read_vision_config(values: ConfigFile, keys: Mapping[str, str]) -> VisionConfig:
    """The sizes of a vision tower.

    Args:
        values: The object that has them.
        keys: The key of each field.

    Raises:
        CheckpointError: a size is missing or invalid.
    """
    resolution = values.size(keys["resolution"], at_most=MAX_RESOLUTION)
    layers = values.layers(keys["layers"])
    is_vit = isinstance(layers, int)
    # The stem's first convolution rounds its half up, four poolings round theirs down.
    if not is_vit and (resolution + 1) // 2 // 16 != resolution // 32:
        raise values.error(keys["resolution"], "one that a ResNet halves five times")
    config = VisionConfig(
        resolution=resolution,
        layers=layers,
        width=values.size(keys["width"]),
        patch_size=values.size(keys["patch_size"], at_most=resolution) if is_vit else None,
        head_width=values.size(keys["head_width"], 64),
    )
    if config.heads < 1 or config.feature_width % config.heads:
        raise values.error(keys["head_width"], f"a divisor of {config.feature_width} columns")
    return config


def read_text_config(values: ConfigFile, keys: Mapping[str, str]) -> TextConfig:
    """The sizes of a text tower; the arguments are those of `read_vision_config`.

    Raises:
        CheckpointError: a size is missing or invalid.
    """
    width = values.size(keys["width"])
    activation = values.values.get(keys["activation"], "gelu")
    if activation not in (*ACTIVATIONS, *_ALIASES):
        raise values.error(keys["activation"], f"one of {', '.join((*ACTIVATIONS, *_ALIASES))}")
    return TextConfig(
        vocab_size=values.size(keys["vocab_size"]),
        width=width,
        layers=values.size(keys["layers"], at_most=MAX_LAYERS),
        heads=values.divisor(keys["heads"], of=width),
        intermediate_width=values.size(keys["intermediate_width"]),
        max_positions=values.size(keys["max_positions"]),
        type_vocab_size=values.size(keys["type_vocab_size"]),
        activation=_ALIASES.get(activation, activation),
    )
