"""HTTP connections that end in time, whatever the server does.

A socket's own timeout starts again with each byte, so that a server that sends its headers slowly
could take hours. Here a timer closes the connections when the time for the whole download is over.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import IO, Any

from .._text import hide_secrets
from . import _urls

# Headers that are sent to the server of a redirection as well. Others may be secrets.
_SENT_ANYWHERE = frozenset({"accept", "accept-language", "referer", "user-agent"})
# Variables that name a file of certificates; OpenSSL itself reads SSL_CERT_FILE.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SCHEMES = ("http", "https")


class Deadline:
    """Closes the connections that it watches when its time is over.

    The end of the interpreter ends the time, too: it waits for threads, for example after Ctrl-C.
    """

    def __init__(self, seconds: float) -> None:
        self._passed = threading.Event()
        self._end_time = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        _active.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        _active.discard(self)
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._passed.is_set()

    @property
    def remaining(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self._end_time - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Sleep, at most until the time is over."""
        self._passed.wait(seconds)

    def watch(self, connection: socket.socket) -> None:
        """Close a connection when the time is over, or now if it already is."""
        with self._lock:
            # A duplicate, since TLS detaches the connection's descriptor from its socket object.
            self._connections.append(connection.dup())
            if self.passed:
                _end_connection(self._connections[-1])

    def end(self) -> None:
        """End the time now."""
        with self._lock:
            self._passed.set()
            for connection in self._connections:
                _end_connection(connection)


_active: set[Deadline] = set()


def _end_all() -> None:
    for deadline in list(_active):
        deadline.end()


with contextlib.suppress(RuntimeError):  # the interpreter ends already
    # Not atexit, whose functions are called after the threads have ended.
    getattr(threading, "_register_atexit", atexit.register)(_end_all)
os.register_at_fork(after_in_child=_active.clear)  # the connections are the parent's


def _end_connection(connection: socket.socket) -> None:
    """Wake the thread that reads from the connection."""
    with contextlib.suppress(OSError):  # the connection may have ended
        connection.shutdown(socket.SHUT_RDWR)


def open_url(
    url: str, headers: Mapping[str, str], timeout: float, deadline: Deadline
) -> http.client.HTTPResponse:
    """The response to a GET request. Redirections are followed, but not to files and FTP.

    Args:
        url: An http or https URL as people write it.
        headers: Are sent; most of them not to another server, to which a redirection leads.
        timeout: Seconds that the server may be silent.
        deadline: Watches the connections.

    Raises:
        OSError, http.client.HTTPException, ValueError: the request fails, or its status is not one
            of success.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(_proxies()),
        _WatchedHandler(deadline),
        _RedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    response: http.client.HTTPResponse = opener.open(_request(url, headers), timeout=timeout)
    return response


def _request(url: str, headers: Mapping[str, str]) -> urllib.request.Request:
    address = _urls.parse(url)
    # As curl does, send other characters than ASCII in UTF-8.
    sent = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    if address.authorization is not None:
        sent["Authorization"] = address.authorization
    request = urllib.request.Request(address.url, headers=sent)
    if _is_socks(_proxy_of(request) or ""):
        raise OSError("SOCKS is not supported; use an HTTP proxy")
    return request


def _proxies() -> dict[str, str]:
    """The proxies of http and https URLs in the environment."""
    found = urllib.request.getproxies()
    proxies = {scheme: found[scheme] for scheme in _SCHEMES if scheme in found}
    other = found.get("all", "")
    if other and not _is_socks(other):
        proxies = dict.fromkeys(_SCHEMES, other) | proxies
    return proxies


def _proxy_of(request: urllib.request.Request) -> str | None:
    if urllib.request.proxy_bypass(request.host or ""):
        return None
    return _proxies().get(request.type or "")


def _is_socks(proxy: str) -> bool:
    return proxy.lower().startswith("socks")


def environment_note(url: str) -> str:
    """Settings of the environment that may be the reason why a URL cannot be fetched."""
    request = urllib.request.Request(_urls.parse(url).url)
    notes = []
    proxy, other = _proxy_of(request), urllib.request.getproxies().get("all", "")
    if proxy is not None:
        notes.append(f"through the proxy {hide_secrets(proxy)}")
    elif _is_socks(other) and not urllib.request.proxy_bypass(request.host or ""):
        notes.append(f"the proxy {hide_secrets(other)} was not used: SOCKS is not supported")
    file = os.environ.get("SSL_CERT_FILE")
    if request.type == "https" and file is not None and not os.path.isfile(file):
        notes.append(f"SSL_CERT_FILE is {file!r}, which is not a file")
    return "; ".join(notes)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if super().redirect_request(req, fp, code, msg, headers, newurl) is None:
            return None
        new = _request(newurl, {})
        # The same server, or the same on its secure port. Of a request through a proxy, `host` is
        # the proxy's.
        old = urllib.parse.urlsplit(req.full_url)
        same = new.host == old.netloc and new.type in (old.scheme, "https")
        for name, value in req.headers.items():
            if (same or name.lower() in _SENT_ANYWHERE) and not new.has_header(name):
                new.add_header(name, value)
        return new


class _HTTPConnection(http.client.HTTPConnection):
    deadline: Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)
        if self.deadline.passed:  # ssl would leave a socket open where the connection is over
            self.close()
            raise TimeoutError("timed out")


class _HTTPSConnection(http.client.HTTPSConnection, _HTTPConnection):
    """Connects as `_HTTPConnection` does, so it is watched before the TLS handshake."""


class _WatchedHandler(urllib.request.AbstractHTTPHandler):
    """Opens http and https URLs with connections that a deadline watches."""

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connection, _HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        variables = (*_BUNDLES, "SSL_CERT_FILE", "SSL_CERT_DIR")
        context = _tls_context(*map(os.environ.get, variables))
        return self.do_open(partial(self._connection, _HTTPSConnection), req, context=context)

    def _connection(
        self, kind: type[_HTTPConnection], host: str, **options: Any
    ) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.deadline = self._deadline
        return connection


@lru_cache(maxsize=8)
def _tls_context(*bundles: str | None) -> ssl.SSLContext:
    """The certificates are read once for each value of the variables.

    Raises:
        OSError: the file of certificates that a variable names cannot be read.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:  # as in small containers
        with contextlib.suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    for variable, bundle in zip(_BUNDLES, bundles, strict=False):
        if bundle:
            try:
                is_folder = os.path.isdir(bundle)
                context.load_verify_locations(
                    capath=bundle if is_folder else None, cafile=None if is_folder else bundle
                )
            except OSError as error:
                raise OSError(f"{variable} is {bundle!r}: {error.strerror or error}") from error
    return context
