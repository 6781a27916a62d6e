"""Names of ModelScope that cnclip does not have: they can be imported, and fail when used."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
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
        """ModelScope's object."""
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

    def __bool__(self) -> bool:
        return True

    def __radd__(self, other: Any) -> Any:
        return other + self._own()

    def __enter__(self) -> Any:
        return self._own().__enter__()

    def __exit__(self, *raised: object) -> Any:
        return self._own().__exit__(*raised)


def _passed_on(function: Callable[..., Any]) -> Any:
    return lambda self, *arguments: function(self._own(), *arguments)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": operator.add,
    "__contains__": operator.contains,
    "__fspath__": lambda own: own.__fspath__(),
    "__getitem__": operator.getitem,
    "__iter__": iter,
    "__len__": len,
}
for _name, _function in _OPERATORS.items():
    setattr(Placeholder, _name, _passed_on(_function))
