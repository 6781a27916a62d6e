"""Downloads, limited in time and size, and tried again where that may help."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ssl
import time
import urllib.error
import urllib.request
import zlib
from typing import TypeVar

from .._text import first_line
from ._http import Deadline, environment_note, open_url
from .download_settings import DownloadSettings

TRIES = 3
# Seconds before the second try where the server does not ask for more; doubled before the third.
FIRST_WAIT = 0.5

Bytes = TypeVar("Bytes", bytes, bytearray)
_CHUNK = 1 << 16
_STATUSES_TO_TRY_AGAIN = (429, 500, 502, 503, 504)
_BROKEN = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLEOFError)
_WEB_PAGE = (b"<!doctype html", b"<html")


class _IncompleteError(OSError):
    """The connection ended before the whole content was sent."""


def download(url: str, timeout: float | None, max_bytes: int) -> bytes:
    """The content of an http, https or data URL.

    Characters that a URL must not have are quoted, redirections followed. `user:password@` in the
    URL, and the headers of the settings, are sent. Statuses 429 and 5xx and connections that
    break are tried again, after the time for which the server asks.

    Args:
        url: The URL.
        timeout: Seconds for the whole download with all tries, by default those of the settings;
            looking up the host's address is not counted.
        max_bytes: Size above which the download is stopped.

    Raises:
        OSError: the content cannot be fetched.
        ValueError: a variable of the environment is not as expected.
    """
    if url[:5].lower() == "data:":
        return _data(url, max_bytes)
    settings = DownloadSettings.of_environment()
    timeout = settings.timeout if timeout is None else timeout
    with Deadline(timeout) as deadline:
        for tries in range(1, TRIES + 1):
            try:
                content = _read(url, settings.headers, timeout, max_bytes, deadline)
            except MemoryError:
                raise
            except Exception as error:  # urllib, http.client and ssl each have their own
                if deadline.passed:
                    raise _too_slow(timeout) from error
                wait = _wait(error, tries)
                if wait is None or tries == TRIES or wait >= deadline.remaining:
                    raise OSError(_reason(error, url, tries)) from error
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                deadline.sleep(wait)
                continue
            # A response without a length ends with its connection, which our timer may have closed.
            if deadline.passed:
                raise _too_slow(timeout)
            return content
    raise AssertionError("the last try returns or raises")


def _too_slow(timeout: float) -> TimeoutError:
    return TimeoutError(f"not complete after {timeout:g} seconds")


def _data(url: str, max_bytes: int) -> bytes:
    try:
        with urllib.request.DataHandler().data_open(urllib.request.Request(url)) as response:
            content: bytes = response.read(max_bytes + 1)
    except ValueError as error:  # of binascii, too
        raise OSError(first_line(error)) from error
    return _limited(content, max_bytes)


def _limited(content: Bytes, max_bytes: int) -> Bytes:
    if len(content) > max_bytes:
        raise OSError(f"larger than {max_bytes} bytes")
    return content


def _read(
    url: str, headers: dict[str, str], timeout: float, max_bytes: int, deadline: Deadline
) -> bytes:
    content = bytearray()
    with open_url(url, headers, timeout, deadline) as response:
        if (response.length or 0) > max_bytes:
            raise OSError(f"larger than {max_bytes} bytes")
        while chunk := response.read1(_CHUNK):
            content += chunk
            _limited(content, max_bytes)
        if response.length:
            size = len(content) + response.length
            raise _IncompleteError(f"the connection ended after {len(content)} of {size} bytes")
        encodings = response.headers.get("Content-Encoding", "").lower().split(",")
        kind = response.headers.get_content_type()
    for encoding in reversed(encodings):
        content = _decoded(content, encoding.strip(), max_bytes)
    if kind == "text/html" and content[:200].lstrip().lower().startswith(_WEB_PAGE):
        raise OSError("the server sent a web page, not an image")
    return bytes(content)


def _decoded(content: bytearray, encoding: str, max_bytes: int) -> bytearray:
    """The content before a server encoded it, though it was not asked to."""
    if encoding in ("", "identity"):
        return content
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise OSError(f"the server sent it with the encoding {encoding!r:.40}, which is unknown")
    # Some servers send deflate without zlib's header, which is a multiple of 31.
    bare = encoding == "deflate" and int.from_bytes(content[:2]) % 31
    decoder = zlib.decompressobj(-zlib.MAX_WBITS if bare else 32 + zlib.MAX_WBITS)
    try:
        decoded = decoder.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise OSError(f"not {encoding}, as the server says: {first_line(error)}") from error
    _limited(decoded, max_bytes)
    if not decoder.eof:
        raise _IncompleteError(f"ends in the middle of its {encoding} encoding")
    return bytearray(decoded)


def _wait(error: Exception, tries: int) -> float | None:
    """Seconds to wait before the next try, or None where it would not help."""
    wait: float = FIRST_WAIT * 2 ** (tries - 1)
    if isinstance(error, urllib.error.HTTPError):
        if error.code not in _STATUSES_TO_TRY_AGAIN:
            return None
        return max(wait, _asked_to_wait(error))
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    broken = isinstance(cause, (*_BROKEN, _IncompleteError, http.client.IncompleteRead))
    return wait if broken else None


def _asked_to_wait(error: Exception) -> float:
    """The seconds of the header Retry-After, which has a number or a date; 0 if there is none."""
    value = "" if not isinstance(error, urllib.error.HTTPError) else error.headers["Retry-After"]
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


def _reason(error: Exception, url: str, tries: int) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        cause = error
        error.close()
    if isinstance(cause, http.client.IncompleteRead):
        cause = "the connection ended before the end of the content"
    reason = first_line(cause) if isinstance(cause, BaseException) else str(cause)
    details = [f"tried {tries} times"] if tries > 1 else []
    if (seconds := _asked_to_wait(error)) > 0:
        details.append(f"the server asks to wait {seconds:.0f} seconds")
    with contextlib.suppress(ValueError):  # it is not a URL
        details.append(environment_note(url))
    note = "; ".join(filter(None, details))
    return f"{reason} ({note})" if note else reason
