"""The installed ModelScope, which is imported when a program first needs a part of it.

From then on, `modelscope` in `sys.modules` is ModelScope itself, whose parts import each other by
that name. What a program imported before stays as it is. `pipeline` stays ours under all its
names, since the model decides where a call goes.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from typing import Any

from ..errors import ModelScopeError
from . import _finder
from ._finder import ROOT

logger = logging.getLogger("cnclip")

_LOCK = threading.RLock()


def is_used() -> bool:
    """Whether `modelscope` is the installed ModelScope now."""
    module = sys.modules.get(ROOT)
    return module is not None and not isinstance(module, _finder.StandIn)


def installed_object(module: str, name: str) -> Any:
    """An object of the installed ModelScope.

    Args:
        module: Its module, such as `modelscope.models.nlp`.
        name: Its name there.

    Raises:
        ModelScopeError: ModelScope is not installed or cannot be imported, or lacks it.
    """
    use_installed(f"{module}.{name}")
    try:
        found = importlib.import_module(module)
        try:
            return getattr(found, name)
        except AttributeError:
            return importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        reason = f"the installed ModelScope cannot import it ({type(error).__name__}: {error})"
        raise ModelScopeError(f"{module}.{name}", reason) from error


def use_installed(name: str) -> None:
    """Let `modelscope` be the installed ModelScope.

    Args:
        name: What is needed, for messages.

    Raises:
        ModelScopeError: ModelScope is not installed, or cannot be imported.
    """
    with _LOCK:
        if is_used():
            return
        stand_ins = _finder.remove()
        try:
            importlib.invalidate_caches()
            own = importlib.import_module(ROOT)
            pipelines = importlib.import_module(f"{ROOT}.pipelines")
        except ModuleNotFoundError as error:
            _finder.restore(stand_ins)
            if error.name == ROOT:
                reason = "not a part of cnclip; it needs ModelScope: pip install modelscope"
            else:
                reason = f"needs ModelScope, which needs {error.name}: pip install {error.name}"
            raise ModelScopeError(name, reason) from error
        except BaseException as error:
            _finder.restore(stand_ins)
            if not isinstance(error, Exception):
                raise
            reason = f"needs ModelScope, which cannot be imported ({type(error).__name__}: {error})"
            raise ModelScopeError(name, reason) from error
        logger.info("%s: using the installed ModelScope", name)
        ours = importlib.import_module(f"{__package__}.pipelines")  # which imports this one
        for module in (own, pipelines):
            module.pipeline = ours.pipeline  # type: ignore[attr-defined]
