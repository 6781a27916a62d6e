"""Results of `forward`."""

from __future__ import annotations

from typing import Any


def rows(answer: dict[str, Any]) -> Any:
    """The one embedding of an answer that has one."""
    (found,) = [value for value in answer.values() if value is not None]
    return found
