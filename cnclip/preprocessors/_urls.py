"""URLs as people write them, and as they are sent."""

from __future__ import annotations

import base64
import re
import urllib.parse
from typing import NamedTuple

from .._text import HIDDEN, USER_OF_URL

# Invisible characters that people copy with a URL.
INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
_SAFE = "!#$%&'()*+,/:;=?@[]~"
_LONE_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")
_HOST = re.compile(r"(?<=://)[^/?#:]*")


class Address(NamedTuple):
    """A URL as it is sent.

    Attributes:
        url: The URL without user and password, in ASCII.
        authorization: The value of the header for the user and password, or None.
    """

    url: str
    authorization: str | None


def stripped(url: str) -> str:
    """A URL without the blanks and invisible characters around it."""
    while url != (url := url.strip().strip(INVISIBLE)):
        pass
    return url


def parse(url: str) -> Address:
    """Quote the characters that a URL must not have, and separate user and password.

    `%XX` stays as it is. A host in other characters than ASCII is encoded as IDNA has it.

    Raises:
        ValueError: the host cannot be encoded, or the port is not one.
    """
    url, authorization = stripped(url).replace(" ", "%20"), None
    user = USER_OF_URL.search(url)
    if user is not None and user.start() == url.find("://") + 3:
        url = url[: user.start()] + url[user.end() + 1 :]
        if user[0] != HIDDEN:  # as it is recorded
            name, _, password = user[0].partition(":")
            pair = urllib.parse.unquote(name) + ":" + urllib.parse.unquote(password)
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    url = _LONE_PERCENT.sub("%25", _HOST.sub(lambda host: _ascii_host(host[0]), url, count=1))
    url = urllib.parse.quote(url, safe=_SAFE)
    _ = urllib.parse.urlsplit(url).port  # raises the error; sockets take it modulo 65,536
    return Address(url, authorization)


def _ascii_host(host: str) -> str:
    # The host of a redirection comes quoted.
    host = urllib.parse.unquote(host) if "%" in host and not host.startswith("[") else host
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"not a host: {host!r:.80}") from error
