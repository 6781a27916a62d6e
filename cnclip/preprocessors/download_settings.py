"""Settings of downloads, in variables of the environment, which worker processes inherit."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from .._text import first_line

T = TypeVar("T")

# Headers, one on each line, as `Name: value`.
HEADERS = "CNCLIP_HEADERS"
USER_AGENT = "CNCLIP_USER_AGENT"
# Seconds for a download with all its tries.
TIMEOUT = "CNCLIP_TIMEOUT"
DEFAULT_USER_AGENT = "cnclip"
TIMEOUT_SECONDS = 10.0
_MAX_TIMEOUT = 3600.0
_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


class DownloadSettings(NamedTuple):
    """How images are fetched from URLs."""

    headers: dict[str, str]
    timeout: float  # seconds

    @classmethod
    def of_environment(cls) -> DownloadSettings:
        """The settings in the variables of the environment, or the defaults.

        Raises:
            ValueError: a variable is not as expected; names it.
        """
        agent = os.environ.get(USER_AGENT) or DEFAULT_USER_AGENT
        headers = {"User-Agent": agent, "Accept": "*/*"}
        headers |= _variable(HEADERS, "", parse_headers)
        return cls(headers, _variable(TIMEOUT, str(TIMEOUT_SECONDS), parse_timeout))


def _variable(name: str, default: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(os.environ.get(name) or default)
    except ValueError as error:
        raise ValueError(f"{name}: {first_line(error)}") from error


def parse_headers(text: str) -> dict[str, str]:
    """The headers of several lines `Name: value`.

    Raises:
        ValueError: a line is something else. The message does not show it, since it may be secret.
    """
    headers = {}
    for line in filter(None, map(str.strip, text.split("\n"))):
        name, colon, value = line.partition(":")
        if not colon or _NAME.fullmatch(name.strip()) is None or not value.isprintable():
            raise ValueError("expected a header as 'Name: value'")
        headers[name.strip().capitalize()] = value.strip()
    return headers


def parse_timeout(text: str) -> float:
    """The seconds that a download may take.

    Raises:
        ValueError: not a number of seconds up to an hour.
    """
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= _MAX_TIMEOUT:
            return float(text)
    raise ValueError(f"expected seconds, up to {_MAX_TIMEOUT:g}, got {text!r:.60}")
