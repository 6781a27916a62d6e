"""The modules that programs get for `modelscope` and its submodules."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from ..errors import ModelScopeError
from ._placeholders import Placeholder

ROOT = "modelscope"
# ModelScope's modules, without `modelscope.`, and the modules of this package with their content.
_CONTENT = {
    "": "root",
    "hub": "hub",
    "hub.api": "hub",
    "hub.file_download": "hub",
    "hub.snapshot_download": "hub",
    "metainfo": "metainfo",
    "models": "models",
    "models.base": "models",
    "models.base.base_model": "models",
    "models.base.base_torch_model": "models",
    "models.builder": "models",
    "models.multi_modal": "clip",
    "models.multi_modal.clip": "clip",
    "models.multi_modal.clip.bert_tokenizer": "tokenizer",
    "models.multi_modal.clip.model": "clip",
    "msdatasets": "msdatasets",
    "msdatasets.ms_dataset": "msdatasets",
    "outputs": "outputs",
    "outputs.outputs": "outputs",
    "pipelines": "pipelines",
    "pipelines.base": "pipelines",
    "pipelines.builder": "pipelines",
    "pipelines.multi_modal": "pipelines",
    "pipelines.multi_modal.multi_modal_embedding_pipeline": "pipelines",
    "preprocessors": "preprocessors",
    "preprocessors.base": "preprocessors",
    "preprocessors.image": "preprocessors",
    "preprocessors.multi_modal": "preprocessors",
    "trainers": "trainers",
    "trainers.builder": "trainers",
    "trainers.multi_modal": "trainers",
    "trainers.multi_modal.clip": "trainers",
    "trainers.multi_modal.clip.clip_trainer": "trainers",
    "utils": "utils",
    "utils.config": "config",
    "utils.constant": "constant",
    "utils.device": "utils",
    "utils.hub": "utils",
    "utils.logger": "utils",
    "utils.test_utils": "utils",
    "utils.torch_utils": "utils",
    "version": "root",
}
# The names with an underscore that a module may have.
_SPECIAL = ("__all__", "__release_datetime__", "__version__")


class StandIn(ModuleType):
    """A module of ModelScope: our content, submodules, and placeholders for all other names."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name not in _SPECIAL:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        inner = self.__name__.partition(".")[2]
        content = _CONTENT.get(inner)
        if content is not None:
            module = importlib.import_module(f"{__package__}.{content}")
            if name == "__all__":
                return list(module.__all__)
            if name in module.__all__:
                value = getattr(module, name)
                setattr(self, name, value)
                return value
        if name in _SPECIAL:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if f"{inner}.{name}".lstrip(".") in _CONTENT:
            return importlib.import_module(f"{self.__name__}.{name}")
        return Placeholder(self.__name__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing `modelscope.hub.snapshot_download` does not hide the function of that name.
        inner = f"{self.__name__.partition('.')[2]}.{name}".lstrip(".")
        is_inner = isinstance(value, StandIn) and inner in _CONTENT
        if not (is_inner and name in getattr(self, "__all__", ())):
            super().__setattr__(name, value)

    def __dir__(self) -> Iterable[str]:
        return {*super().__dir__(), *getattr(self, "__all__", ())}


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a stand-in for every name in `modelscope`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != ROOT:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, _Loader(), origin=f"{__package__}, for {fullname}", is_package=True
        )


_FINDER = _Finder()


def install() -> None:
    """Make `import modelscope` find the stand-ins; the second time, do nothing."""
    if _FINDER in sys.meta_path:
        return
    if isinstance(sys.modules.get(ROOT), ModuleType):
        raise ModelScopeError(
            "ModelScope is imported already; import cnclip.modelscope before it, in a notebook "
            "after a restart of the kernel",
            item=ROOT,
        )
    sys.meta_path.insert(0, _FINDER)


def remove() -> dict[str, ModuleType]:
    """Make `import modelscope` find ModelScope itself again; return the stand-ins' modules."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    names = [name for name, module in sys.modules.items() if isinstance(module, StandIn)]
    return {name: sys.modules.pop(name) for name in names}


def restore(modules: dict[str, ModuleType]) -> None:
    """Undo `remove`."""
    for name in [name for name in sys.modules if name.partition(".")[0] == ROOT]:
        del sys.modules[name]
    sys.modules.update(modules)
    install_again()


def install_again() -> None:
    """Put the finder first, as `install` does, without a check."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
