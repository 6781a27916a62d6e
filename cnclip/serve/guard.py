"""What every request passes first: who may ask, how large it is, and what is logged about it."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from .faults import Fault
from .metrics import Metrics
from .options import Keys, ServerOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

access = logging.getLogger("cnclip.access")
access.setLevel(logging.WARNING)  # `--access-log` lowers it

# Pages load from this server only, and run no script or style inside of the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
# What needs no key: the application's files, health, and the description. All else does.
_OPEN = re.compile(r"/|/(zh|en)/?|/static/[\w.-]+|/docs|/openapi\.json|/livez|/readyz|/ping")
# Probes ask for them by the address of a pod or machine, whatever `--allow-host` says.
_HEALTH = ("/livez", "/readyz")
_PORT = re.compile(r":\d*$")
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Guard:
    """ASGI middleware.

    - A request has an id, X-Request-ID, its client's or a new one, and a line in the access log.
    - Host names: without `--allow-host`, a server that listens on this machine only answers to its
      names only. A foreign page could otherwise read from it by pointing its own host name at this
      machine (DNS rebinding). Scripts of other sites are refused.
    - API keys, if there are some, for everything but pages and health.
    - Bodies: their size, and the memory of all bodies that are being received.
    """

    def __init__(
        self,
        application: Application,
        options: ServerOptions,
        keys: Keys,
        metrics: Metrics,
        *,
        local: bool,
        root_path: str = "",
    ) -> None:
        """Wrap an application.

        Args:
            application: The application.
            options: The limits.
            keys: The API keys.
            metrics: Counts the requests.
            local: Whether the server listens on this machine only.
            root_path: The path under which a proxy serves it. It is removed from requests that
                have it, so that a proxy may remove it or leave it.
        """
        self._application, self._options = application, options
        self._keys, self._metrics, self._local = keys, metrics, local
        self._root = f"/{root_path.strip('/')}" if root_path.strip("/") else ""
        self._hosts = {host.lower() for host in options.allow_host or ()}
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        scope["cnclip.begun"] = time.monotonic()
        if self._root and str(scope["path"]).startswith(f"{self._root}/"):
            scope = {**scope, "path": scope["path"][len(self._root) :]}
        answer = _Answer(send, _request_id(scope), is_head=scope["method"] == "HEAD")
        body = _Body(self, receive)
        try:
            self._check(scope)
            body.expect(_header(scope, b"content-length"))
            if answer.is_head:  # the headers of GET
                scope = {**scope, "method": "GET"}
            await self._application(scope, body.receive, answer.send)
        except Fault as fault:
            await answer.fault(fault)
        finally:
            body.release()
            self._log(scope, answer, body)

    def _check(self, scope: Scope) -> None:
        host = _header(scope, b"host")
        is_known = not (self._hosts or self._local) or is_local(host) or _name(host) in self._hosts
        if not is_known and scope["path"] not in _HEALTH:
            raise Fault(403, "unknown host name: see --allow-host", "unknown_host")
        is_foreign = _header(scope, b"sec-fetch-site") == "cross-site"
        if is_foreign and _header(scope, b"sec-fetch-mode") != "navigate":
            raise Fault(403, "requests of other sites are not allowed", "cross_site")
        if self._keys and not _OPEN.fullmatch(scope["path"]):
            scheme, _, key = _header(scope, b"authorization").partition(" ")
            if scheme.lower() != "bearer" or not self._keys.accept(key.strip()):
                reason = "a key is missing or wrong: send Authorization: Bearer KEY"
                raise Fault(401, reason, "invalid_api_key")

    def hold(self, size: int) -> None:
        """Count bytes of a body that is being received.

        Raises:
            Fault: the server receives too many at a time.
        """
        if self._receiving + size > self._options.max_bytes:
            reason = "the server receives too many bytes at a time"
            raise Fault(429, reason, "busy", retry_after=1)
        self._receiving += size

    def let_go(self, size: int) -> None:
        """Forget bytes that were counted."""
        self._receiving -= size

    @property
    def max_body(self) -> int:
        """Bytes of a body."""
        return self._options.max_body

    def _log(self, scope: Scope, answer: _Answer, body: _Body) -> None:
        seconds = time.monotonic() - scope["cnclip.begun"]
        route = getattr(scope.get("route"), "path", None) or "other"
        status = answer.status or 499
        self._metrics.count(route, status, seconds)
        if access.isEnabledFor(logging.INFO):
            line = {
                "time": round(time.time(), 3),
                "id": answer.request_id,
                "client": (scope.get("client") or ("", 0))[0],
                "method": "HEAD" if answer.is_head else scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "seconds": round(seconds, 4),
                "received": body.size,
                "sent": answer.size,
            }
            access.info("%s", json.dumps(line, ensure_ascii=True))


class _Body:
    """Receives a request's body within the limits."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self._held = 0
        self.size = 0

    def expect(self, length: str) -> None:
        """Refuse a body by its Content-Length, before it is received.

        Its bytes are counted as they come: a client that announces many and sends none keeps no
        others out.
        """
        if length.isascii() and length.isdigit():
            self._check(int(length))

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self._check(self.size)
            self._guard.hold(self.size - self._held)
            self._held = self.size
        return message

    def release(self) -> None:
        """Forget the body."""
        self._guard.let_go(self._held)
        self._held = 0

    def _check(self, size: int) -> None:
        if size > self._guard.max_body:
            reason = f"the body has more than {self._guard.max_body} bytes"
            raise Fault(413, reason, "body_too_large")


class _Answer:
    """Sends an answer with the headers that each has, and notes its status and size."""

    def __init__(self, send: Send, request_id: str, *, is_head: bool = False) -> None:
        self._send = send
        self.request_id, self.is_head = request_id, is_head
        self.status: int | None = None
        self.size = 0

    async def send(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = ((b"x-request-id", self.request_id.encode()), *_HEADERS)
            given = list(message.get("headers", ()))
            message = {**message, "headers": [*given, *own]}
        elif message["type"] == "http.response.body":
            if self.is_head:
                message = {**message, "body": b""}
            self.size += len(message.get("body", b""))
        await self._send(message)

    async def fault(self, fault: Fault) -> None:
        """Send an error, unless an answer has begun."""
        if self.status is not None:
            return
        body = orjson.dumps(fault.content)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(key.lower().encode(), value.encode()) for key, value in fault.headers.items()]
        if fault.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if fault.status in (408, 413):  # the rest of the body is not read
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": fault.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def is_local(host: str) -> bool:
    """Whether a Host header is a loopback name or address."""
    name = _name(host)
    if name in _LOCAL or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    return _PORT.sub("", host.strip()).strip("[]").lower()


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


def _request_id(scope: Scope) -> str:
    given = _header(scope, b"x-request-id")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
