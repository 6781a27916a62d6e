"""Faults of the HTTP interface: every error has the shape of OpenAI's, with the right status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._text import printable_lines
from ..errors import (
    BusyError,
    ClosedError,
    CnclipError,
    DeadlineError,
    ImageError,
    InputTypeError,
    InvalidInputError,
    OutOfMemoryError,
)

# The field `type` of an answer, by status.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


class Fault(Exception):
    """Ends a request with an error.

    Attributes:
        status: The HTTP status.
        reason: What happened, and what to do.
        code: A word that programs can compare.
        param: The field or item of the request, such as `input[3]`, or None.
        retry_after: Seconds after which the request may succeed, or None.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.code, self.param = status, reason, code, param
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The reason, with the field or item before it."""
        reason = printable_lines(self.reason)
        return reason if self.param is None else f"{self.param}: {reason}"

    @property
    def content(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = _TYPES.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "reason": printable_lines(self.reason),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers: Retry-After, in whole seconds."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def fault_of(error: BaseException) -> Fault:
    """The fault that an exception is for the client. Faults stay as they are.

    Only the reasons of errors that the client's own input causes are shown.
    """
    if isinstance(error, Fault):
        return error
    if isinstance(error, BusyError):
        return Fault(429, error.reason, "busy", retry_after=error.retry_after)
    if isinstance(error, DeadlineError):
        return Fault(504, error.reason, "timeout")
    if isinstance(error, ClosedError):
        return Fault(503, "the server is shutting down", "shutting_down", retry_after=5)
    if isinstance(error, OutOfMemoryError | MemoryError):
        return Fault(503, "the server has no memory for the request", "out_of_memory")
    if isinstance(error, CnclipError):
        param, reason = _split(error)
        if isinstance(error, ImageError | InvalidInputError | InputTypeError):
            return Fault(400, reason, "invalid_item", param=param)
        return Fault(500, reason, "model_error", param=param)
    return Fault(500, "the server failed; its log has the cause", "internal_error")


def _split(error: CnclipError) -> tuple[str | None, str]:
    """The item of an error, and its text without it."""
    if error.where is None:
        return None, str(error)
    rest = str(replace(error.where, item=None))
    return error.where.item, f"{rest}: {error.reason}" if rest else error.reason
