"""The content of `modelscope.utils.config`: settings whose keys are attributes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InvalidInputError


class ConfigDict(dict[str, Any]):
    """A dict whose keys are attributes too, in dicts and lists inside as well."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__()
        self.update(*arguments, **keywords)

    def update(self, *arguments: Any, **keywords: Any) -> None:
        """As `dict.update`."""
        for key, value in dict(*arguments, **keywords).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As `dict.setdefault`."""
        if key not in self:
            self[key] = default
        return self[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _with_attributes(value))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}; there are {', '.join(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> ConfigDict:
        return ConfigDict({key: copy.deepcopy(value, memo) for key, value in self.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists with the same content."""
        plain: dict[str, Any] = _plain(self)
        return plain


def _with_attributes(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, ConfigDict):
        return ConfigDict(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_with_attributes, value)) if type(value) in (list, tuple) else value
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


class Config:
    """The settings of a `configuration.json`."""

    _cfg_dict: ConfigDict
    _filename: str | None

    def __init__(
        self,
        cfg_dict: Mapping[str, Any] | None = None,
        cfg_text: str | None = None,
        filename: str | PathLike[str] | None = None,
    ) -> None:
        super().__setattr__("_cfg_dict", ConfigDict(cfg_dict or {}))
        super().__setattr__("_filename", None if filename is None else str(filename))

    @staticmethod
    def from_file(filename: str | PathLike[str], *_: Any, **__: Any) -> Config:
        """Read a JSON file.

        Raises:
            CheckpointError: it cannot be read, or is not a JSON object.
        """
        path = Path(filename)
        try:
            settings = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = f"cannot be read as JSON ({type(error).__name__})"
            raise CheckpointError(reason, file=path) from error
        if not isinstance(settings, dict):
            raise CheckpointError("expected a JSON object", file=path)
        return Config(settings, filename=path)

    @staticmethod
    def from_string(cfg_str: str, file_format: str) -> Config:
        """Read the text of a JSON file; `file_format` must be `'.json'`."""
        if file_format != ".json":
            raise InvalidInputError(f"expected '.json', got {file_format!r}", item="file_format")
        return Config(json.loads(cfg_str))

    @property
    def filename(self) -> str | None:
        """The file that was read."""
        return self._filename

    @property
    def text(self) -> str:
        """The settings as JSON."""
        return json.dumps(self.to_dict(), indent=4, ensure_ascii=False)

    pretty_text = text

    def safe_get(self, key_chain: str, default: Any = None, type_field: str = "type") -> Any:
        """The setting at the end of keys with dots between, such as `train.optimizer.lr`.

        A key of a list is an index, or the value of an item's `type_field`.
        """
        found: Any = self._cfg_dict
        for key in key_chain.split("."):
            if isinstance(found, list):
                found = next((one for one in found if _is_named(one, type_field, key)), None)
                if found is None:
                    return default
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                return default
        return found

    def merge_from_dict(self, options: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Set settings by keys with dots between."""
        for chain, value in options.items():
            *outer, last = chain.split(".")
            inner = self._cfg_dict
            for key in outer:
                inner = inner.setdefault(key, ConfigDict())
            inner[last] = value

    def dump(self, file: str | PathLike[str] | None = None) -> str | None:
        """The settings as JSON, or with `file` write them."""
        if file is None:
            return self.text
        Path(file).write_text(self.text, encoding="utf-8")
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists with the same content."""
        return self._cfg_dict.to_dict()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._cfg_dict, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._cfg_dict[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._cfg_dict[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._cfg_dict[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._cfg_dict

    def __iter__(self) -> Iterator[str]:
        return iter(self._cfg_dict)

    def __len__(self) -> int:
        return len(self._cfg_dict)

    def __repr__(self) -> str:
        return f"Config({self._filename!r}): {self._cfg_dict!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.to_dict(), None, self._filename)


def _is_named(item: Any, type_field: str, key: str) -> bool:
    return isinstance(item, Mapping) and item.get(type_field) == key


__all__ = ["Config", "ConfigDict"]
