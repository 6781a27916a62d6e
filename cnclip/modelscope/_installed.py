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

from .._text import type_and_line
from ..errors import ModelScopeError
from . import _finder
from ._finder import ROOT

logger = logging.getLogger("cnclip")

_LOCK = threading.RLock()


def is_used() -> bool:
    """Whether `modelscope` is the installed ModelScope now."""
    module = sys.modules.get(ROOT)
    return module is not None and not isinstance(module, _finder.StandIn)


def installed_object(module: str, name: str, wanted: str | None = None, what: str = "") -> Any:
    """An object of the installed ModelScope.

    Args:
        module: Its module, such as `modelscope.models.nlp`.
        name: Its name there.
        wanted: What it is for, in messages, such as a model; by default the object itself.
        what: What that is.
    """
    wanted = f"{module}.{name}" if wanted is None else wanted
    use_installed(wanted, what or "not a part of cnclip")
    try:
        found = importlib.import_module(module)
        try:
            return getattr(found, name)
        except AttributeError:
            return importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        reason = f"the installed ModelScope lacks {module}.{name}: {type_and_line(error)}"
        raise ModelScopeError(reason, item=wanted) from error


def use_installed(name: str, what: str) -> None:
    """Let `modelscope` be the installed ModelScope.

    Args:
        name: What is needed, for messages.
        what: What that is.
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
                reason = f"{what}; it requires ModelScope: pip install modelscope"
            else:
                reason = (
                    f"{what}; it requires ModelScope, which is installed without {error.name}, "
                    f"which it imports: pip install {error.name}"
                )
            raise ModelScopeError(reason, item=name) from error
        except BaseException as error:
            _finder.restore(stand_ins)
            if not isinstance(error, Exception):
                raise
            reason = (
                f"{what}; it requires ModelScope, which cannot be imported: {type_and_line(error)}"
            )
            raise ModelScopeError(reason, item=name) from error
        logger.info("%s: using the installed ModelScope", name)
        ours = importlib.import_module(f"{__package__}.pipelines")  # which imports this one
        for module in (own, pipelines):
            module.pipeline = ours.pipeline  # type: ignore[attr-defined]
