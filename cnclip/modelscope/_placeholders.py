"""Names of ModelScope that cnclip does not have: they can be imported, and fail when used."""

from __future__ import annotations

import importlib
from typing import Any


class Placeholder:
    """A class, function or value of ModelScope that cnclip does not have.

    Whatever a program does with it is done with ModelScope's own, if ModelScope is installed.
    Otherwise a ModelScopeError says what to install. Type annotations are not a use.
    """

    __slots__ = ("_module", "_name")

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __repr__(self) -> str:
        return f"<{self._module}.{self._name}, which cnclip does not have>"

    def _own(self) -> Any:
        """ModelScope's object.

        Raises:
            ModelScopeError: ModelScope is not installed or cannot be imported, or lacks it.
        """
        installed = importlib.import_module(f"{__package__}._installed")  # which imports this one
        return installed.installed_object(self._module, self._name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._own()(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._own(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._own())

    def __subclasscheck__(self, subclass: Any) -> bool:
        return issubclass(subclass, self._own())

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__

    def __getitem__(self, key: Any) -> Any:
        return self._own()[key]

    def __iter__(self) -> Any:
        return iter(self._own())

    def __contains__(self, item: Any) -> bool:
        return item in self._own()

    def __len__(self) -> int:
        return len(self._own())

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Any:
        return self._own().__enter__()

    def __exit__(self, *raised: object) -> Any:
        return self._own().__exit__(*raised)

    def __fspath__(self) -> str:
        path: str = self._own().__fspath__()
        return path

    def __add__(self, other: Any) -> Any:
        return self._own() + other

    def __radd__(self, other: Any) -> Any:
        return other + self._own()
