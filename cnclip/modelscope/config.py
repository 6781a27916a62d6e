"""The content of `modelscope.utils.config`: settings whose keys are attributes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._checks import requires_extra
from .._encoding import read_text
from .._text import first_line
from ..errors import CnclipError, InputTypeError, InvalidInputError

__all__ = ["Config", "ConfigDict"]

_SUFFIXES = (".json", ".yaml", ".yml")


class ConfigDict(dict[str, Any]):
    """A dict whose keys are also attributes; dicts in it are of this class."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__()
        self.update(*arguments, **values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            reason = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(reason) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _converted(value))

    def update(self, *arguments: Any, **values: Any) -> None:
        """Like `dict.update`."""
        for key, value in dict(*arguments, **values).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Like `dict.setdefault`."""
        if key not in self:
            self[key] = default
        return self[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> ConfigDict:
        return ConfigDict({key: copy.deepcopy(value, memo) for key, value in self.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigDict, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {key: _plain(value) for key, value in self.items()}


def _converted(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, ConfigDict):
        return ConfigDict(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_converted(one) for one in value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict):
        return value.to_dict()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


class Config:
    """A configuration: a dict whose keys are also attributes, and the file that it is from."""

    _cfg_dict: ConfigDict
    _filename: str | None

    def __init__(
        self,
        cfg_dict: Mapping[str, Any] | None = None,
        cfg_text: str | None = None,
        filename: str | os.PathLike[str] | None = None,
    ) -> None:
        if cfg_dict is not None and not isinstance(cfg_dict, Mapping):
            found = type(cfg_dict).__name__
            raise InputTypeError(f"expected a dict, got {found}", item="cfg_dict")
        values = {
            "_cfg_dict": ConfigDict(cfg_dict or {}),
            "_filename": None if filename is None else os.fspath(filename),
            "_text": cfg_text or "",
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def from_file(filename: str | os.PathLike[str], **options: Any) -> Config:
        """Read a JSON or YAML file. A Python file is refused: reading it would run it.

        Raises:
            InvalidInputError: the file cannot be read, or is not a JSON object.
            MissingExtraError: YAML without PyYAML.
        """
        path = Path(filename).expanduser()
        try:
            text, _ = read_text(path)
        except CnclipError as error:
            raise error.at(file=path) from error
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"cannot be read: {first_line(error)}", file=path) from error
        return Config(_parse(text, path.suffix.lower(), path), text, path)

    @staticmethod
    def from_string(cfg_str: str, file_format: str) -> Config:
        """Read the text of a file with this suffix, `.json` or `.yaml`."""
        return Config(_parse(cfg_str, file_format, Path(f"text{file_format}")), cfg_str)

    @property
    def filename(self) -> str | None:
        """The path of the file."""
        return self._filename

    @property
    def text(self) -> str:
        """The text of the file."""
        return str(object.__getattribute__(self, "_text"))

    @property
    def pretty_text(self) -> str:
        """The values as JSON."""
        return _json(self.to_dict())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # such as those that pickle looks for
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "_cfg_dict"), name)

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

    def __repr__(self) -> str:
        return f"Config (path: {self._filename}): {self._cfg_dict!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (self.to_dict(), self.text, self._filename)

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        return Config(copy.deepcopy(self._cfg_dict, memo), self.text, self._filename)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return self._cfg_dict.to_dict()

    def safe_get(self, key_chain: str, default: Any = None, type_field: str = "type") -> Any:
        """The value at a path such as `train.hooks[0].type`, or the default.

        `train.hooks.NAME` is the first dict of a list whose `type_field` is NAME.
        """
        value: Any = self._cfg_dict
        try:
            for key in key_chain.split("."):
                name, *indices = key.replace("]", "").split("[")
                if isinstance(value, list | tuple):
                    value = next(one for one in value if one[type_field] == name)
                else:
                    value = value[name]
                for index in indices:
                    value = value[int(index)]
        except (KeyError, IndexError, TypeError, ValueError, StopIteration):
            return default
        return value

    def dump(self, file: str | os.PathLike[str] | None = None) -> str | None:
        """Write a JSON or YAML file, by its suffix; without a path, return the values as JSON."""
        if file is None:
            return _json(self.to_dict())
        path = Path(file).expanduser()
        if path.suffix.lower() not in _SUFFIXES:
            reason = f"expected a name that ends in {', '.join(_SUFFIXES)}"
            raise InvalidInputError(reason, file=path)
        text = _json(self.to_dict()) if path.suffix.lower() == ".json" else _yaml(self.to_dict())
        path.write_text(text, encoding="utf-8")
        return None

    def merge_from_dict(
        self, options: Mapping[str, Any], allow_list_keys: bool = True, force: bool = True
    ) -> None:
        """Set values by their paths, such as `{'train.max_epochs': 3}`.

        Dicts are merged, and lists of dicts by their `type`. Without `force`, values that there are
        stay. Raises InvalidInputError where a path leads through another value.
        """
        for path, value in options.items():
            *parents, last = path.split(".")
            inner: Any = self._cfg_dict
            for key in parents:
                inner = _child(inner, key, path)
            _merge(inner, last, _converted(value), path, force=force)


def _child(inner: Any, key: str, path: str) -> Any:
    """The dict or list under a key, which is made if there is none."""
    if isinstance(inner, ConfigDict):
        return inner.setdefault(key, ConfigDict())
    if isinstance(inner, list) and key.isdecimal() and int(key) < len(inner):
        return inner[int(key)]
    reason = f"no place for it in the configuration: {key!r} of {type(inner).__name__}"
    raise InvalidInputError(reason, item=path)


def _merge(inner: Any, key: str, value: Any, path: str, *, force: bool) -> None:
    """Set the value of a key of a dict or list."""
    if isinstance(inner, list) and key.isdecimal() and int(key) < len(inner):
        inner[int(key)] = value if force else inner[int(key)]
        return
    if not isinstance(inner, ConfigDict):
        reason = f"no place for it in the configuration: {key!r} of {type(inner).__name__}"
        raise InvalidInputError(reason, item=path)
    known = inner.get(key)
    if isinstance(known, ConfigDict) and isinstance(value, ConfigDict):
        for one, new in value.items():
            _merge(known, one, new, path, force=force)
    elif known is not None and _has_types(known) and _has_types(value):
        by_type = {one["type"]: one for one in known}
        for new in value:
            if new["type"] not in by_type:
                known.append(new)
            else:
                for one, part in new.items():
                    _merge(by_type[new["type"]], one, part, path, force=force)
    elif key not in inner or force:
        inner[key] = value


def _has_types(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, ConfigDict) and "type" in one for one in value
    )


def _parse(text: str, suffix: str, path: Path) -> Any:
    if suffix not in _SUFFIXES:
        reason = f"expected a name that ends in {', '.join(_SUFFIXES)}"
        raise InvalidInputError(reason, file=path)
    try:
        value = json.loads(text) if suffix == ".json" else _load_yaml(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"cannot be read: {first_line(error)}", file=path) from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"expected names and values, found {value!r:.60}", file=path)
    return value


def _load_yaml(text: str) -> Any:
    with requires_extra("train", "PyYAML"):
        import yaml
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from error


def _json(value: Any) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False, default=_as_json) + "\n"


def _as_json(value: Any) -> Any:
    """What JSON has no type for: functions are left out, iterables become lists."""
    if callable(value):
        return None
    return list(value) if isinstance(value, Iterable) else str(value)


def _yaml(value: Any) -> str:
    with requires_extra("train", "PyYAML"):
        import yaml
    text: str = yaml.safe_dump(json.loads(_json(value)), allow_unicode=True, sort_keys=False)
    return text
