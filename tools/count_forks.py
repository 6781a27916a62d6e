"""Lets the children that tests fork count for the coverage of the engine.

gcov writes the counts of a process when it exits, which os._exit leaves out. Python imports this
file when it starts, in the environment of `make coverage-c`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import NoReturn

_ENGINE = os.environ.get("CNCLIP_ENGINE")
_exit = os._exit


def _exit_with_counts(status: int) -> NoReturn:
    if _ENGINE is not None:
        with contextlib.suppress(OSError, AttributeError):  # not loaded, or not for gcov
            ctypes.CDLL(_ENGINE, os.RTLD_NOLOAD).__gcov_dump()
    _exit(status)


os._exit = _exit_with_counts
