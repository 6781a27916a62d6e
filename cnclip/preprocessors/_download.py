"""Downloads that end in time, whatever the server does.

A socket's own timeout starts again with each byte, so that a server that sends its headers slowly
could take hours. Here a timer closes the connections when the time for the whole download is over.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from functools import partial
from typing import Any

from .._text import first_line

_CHUNK = 1 << 16


def download(url: str, timeout: float, max_bytes: int) -> bytes:
    """The content of an http, https or data URL. Redirections are followed.

    Args:
        url: The URL.
        timeout: Seconds for the whole download; looking up the host's address is not counted.
        max_bytes: Size above which the download is stopped.

    Raises:
        OSError: the content cannot be fetched.
    """
    with _Deadline(timeout) as deadline:
        try:
            content = _read(url, timeout, max_bytes, deadline)
        except Exception as error:  # urllib, http.client, ssl and binascii each have their own
            if deadline.passed:
                raise TimeoutError(f"not complete after {timeout:g} seconds") from error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                raise OSError(first_line(error)) from error
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            known = first_line(cause) if isinstance(cause, BaseException) else cause
            raise OSError(known) from error
    # A response without a length ends with its connection, which our timer may have closed.
    if deadline.passed:
        raise TimeoutError(f"not complete after {timeout:g} seconds")
    return content


def _read(url: str, timeout: float, max_bytes: int, deadline: _Deadline) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "cnclip"})
    content = bytearray()
    with _opener(deadline).open(request, timeout=timeout) as response:
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > max_bytes:
                raise ValueError(f"larger than {max_bytes} bytes")
    return bytes(content)


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """An opener without handlers for files and FTP, so that no redirection leads to them."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _WatchedHandler(deadline),
        urllib.request.DataHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Deadline:
    """Closes the connections that it watches when its time is over.

    Attributes:
        passed: Whether the time is over.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def watch(self, connection: socket.socket) -> None:
        """Close a connection when the time is over, or now if it already is."""
        with self._lock:
            # A duplicate, since TLS detaches the connection's descriptor from its socket object.
            self._connections.append(connection.dup())
            if self.passed:
                _end_connection(self._connections[-1])

    def _end(self) -> None:
        with self._lock:
            self.passed = True
            for connection in self._connections:
                _end_connection(connection)


def _end_connection(connection: socket.socket) -> None:
    """Wake the thread that reads from the connection."""
    with contextlib.suppress(OSError):  # the connection may have ended
        connection.shutdown(socket.SHUT_RDWR)


class _HTTPConnection(http.client.HTTPConnection):
    deadline: _Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class _HTTPSConnection(http.client.HTTPSConnection, _HTTPConnection):
    """Connects as `_HTTPConnection` does, so it is watched before the TLS handshake."""


class _WatchedHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https URLs with connections that a deadline watches."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connection, _HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connection, _HTTPSConnection), req)

    def _connection(
        self, kind: type[_HTTPConnection], host: str, **options: Any
    ) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.deadline = self._deadline
        return connection
