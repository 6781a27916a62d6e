"""Ids of images and texts."""

from __future__ import annotations

import re
from typing import Any

Id = int | str

_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")


def id_of(value: Any) -> Id | None:
    """An id as the data sets mean it: `7` and `"7"` are the same. None if it is no id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if _INTEGER.fullmatch(text) else text
    return None
