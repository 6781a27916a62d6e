"""Pillow's warnings, as remarks on the image that they are about.

Programs that use the package get Pillow's warnings as Python's. The commands call
`collect_warnings`, since a warning without the name of the file helps no one there.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import TextIO

import PIL
from PIL import Image

from .._text import printable

logger = logging.getLogger("cnclip")

_PILLOW = os.path.dirname(PIL.__file__) + os.sep


class _Current(threading.local):
    """The remarks on the image that a thread decodes, if they are wanted."""

    remarks: list[str] | None = None


_current = _Current()
_logged: set[str] = set()


class PillowWarnings:
    """Appends Pillow's warnings to a list, once each; with None, to the list of an outer block."""

    def __init__(self, remarks: list[str] | None) -> None:
        self._remarks = remarks

    def __enter__(self) -> None:
        self._outer = _current.remarks
        if self._remarks is not None:
            _current.remarks = self._remarks

    def __exit__(self, *_: object) -> None:
        _current.remarks = self._outer


def collect_warnings() -> None:
    """From now on, pass Pillow's warnings to `PillowWarnings`, in this process.

    Without such a block, each is logged once. A warning of many pixels is dropped: cnclip has its
    own limit. Filters of `python -W` and `$PYTHONWARNINGS` stay in effect.
    """
    warnings.filterwarnings("always", module=r"PIL\.", append=True)
    logging.getLogger("PIL").setLevel(logging.ERROR)  # details of faults that are reported
    if not isinstance(warnings.showwarning, _Show):
        warnings.showwarning = _Show(warnings.showwarning)


class _Show:
    """`warnings.showwarning`, but for Pillow's warnings."""

    def __init__(self, others: Callable[..., None]) -> None:
        self._others = others

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not filename.startswith(_PILLOW):
            self._others(message, category, filename, lineno, file, line)
        elif not issubclass(category, Image.DecompressionBombWarning):
            _add(f"Pillow warns: {printable(' '.join(str(message).split()))}")


def _add(remark: str) -> None:
    if _current.remarks is None:
        if remark not in _logged:
            _logged.add(remark)
            logger.warning("an image: %s", remark)
    elif remark not in _current.remarks:
        _current.remarks.append(remark)
