"""One engine for a process and those that it starts."""

from __future__ import annotations

import os

from cnclip.engine import compiled_engine, included_engines
from cnclip.engine.libtorch import find_torch


def use_one_engine() -> None:
    """Where the package includes no engine, use the one in the cache, compiled if there is none.

    Its name has a digest of its sources. Processes with another cache would compile their own.
    """
    if "CNCLIP_ENGINE" not in os.environ and find_torch().minor not in included_engines():
        os.environ["CNCLIP_ENGINE"] = str(compiled_engine(find_torch()))
