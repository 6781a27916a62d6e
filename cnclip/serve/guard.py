"""Keeps the page to this machine: what browsers may load, who may ask, and in which language."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .._locale import LANGUAGES, Language
from .words import WORDS, choose_language

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Gradio has scripts in its page and makes functions of text.
POLICY = (
    "default-src 'self' data: blob:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'>"
    "<rect width='32' height='32' rx='8' fill='%23b93f28'/>"
    "<circle cx='14' cy='14' r='6.5' fill='none' stroke='white' stroke-width='3'/>"
    "<path d='m19 19 6 6' stroke='white' stroke-width='3.5' stroke-linecap='round'/></svg>"
)
# Previews for social networks, a missing file, and links to other hosts.
_UNWANTED = re.compile(
    r'<meta\s+(?:property="og:|name="twitter:)[^>]*>|<link\s+rel="manifest"[^>]*>'
    r'|<link[^>]*href="https?:[^>]*>|<script[^>]*src="https?:[^>]*>\s*</script>',
    re.IGNORECASE,
)


# Routes of Gradio that the page does not use. They fetch any URL, run programs on uploads, or
# describe the application.
_CLOSED = re.compile(
    r"/\w+(/gradio_api)?/(file[=/]\s*[a-z][a-z0-9+.-]*:|proxy|process_recording|vibe|deep_link"
    r"|monitoring|openapi|custom_component)",
    re.IGNORECASE,
)


class Guard:
    """ASGI middleware for an application with the pages `/zh/` and `/en/`.

    `/` redirects to the page in the browser's language. Every response has a content security
    policy, so that browsers load nothing from other hosts. If the server listens on this machine
    only, requests with other host names are refused: a foreign page could otherwise read this one
    by pointing its host name at this machine (DNS rebinding).
    """

    def __init__(self, application: Application, *, local: bool) -> None:
        """Wrap an application; `local` if the server listens on this machine only."""
        self._application = application
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if self._local and not is_local(_header(scope, b"host")):
            await _answer(send, 403, b"content-type", b"text/plain", b"unknown host name\n")
            return
        path = str(scope["path"])
        foreign = _header(scope, b"sec-fetch-site") == "cross-site"
        if _CLOSED.match(path) or (foreign and _header(scope, b"sec-fetch-mode") != "navigate"):
            await _answer(send, 403, b"content-type", b"text/plain", b"forbidden\n")
            return
        if path in ("/", *(f"/{code}" for code in LANGUAGES)):
            page = choose_language(_header(scope, b"accept-language")) if path == "/" else path[1:]
            await _answer(send, 307, b"location", f"/{page}/".encode(), b"")
            return
        language: Language | None = next((code for code in LANGUAGES if path == f"/{code}/"), None)
        if language is None:
            await self._application(scope, receive, _with_headers(send))
            return
        # Rewriting requires an uncompressed page.
        headers = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        rewriting = _rewriting(_with_headers(send), lambda page: rewrite(page, language))
        await self._application({**scope, "headers": headers}, receive, rewriting)


def is_local(host: str) -> bool:
    """Whether a Host header is a loopback name or address."""
    name = re.sub(r":\d*$", "", host.strip()).strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def rewrite(page: str, language: Language) -> str:
    """A page of Gradio in one language, without links to other hosts."""
    tag = WORDS[language].tag
    # Gradio's texts are in the language that the browser reports.
    head = (
        f'<script>for (const [name, value] of [["language", "{tag}"], ["languages", ["{tag}"]]])'
        " Object.defineProperty(navigator, name, {get: () => value});</script>"
        f'<link rel="icon" href="data:image/svg+xml,{_ICON}">'
    )
    page = _UNWANTED.sub("", page)
    page = re.sub(r'<html\s+lang="[^"]*"', f'<html lang="{tag}"', page, count=1)
    return page.replace("<head>", f"<head>{head}", 1)


def _header(scope: Scope, name: bytes) -> str:
    values = (value for key, value in scope["headers"] if key == name)
    return bytes(next(values, b"")).decode("latin-1")


def _with_headers(send: Send) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return send_more


def _rewriting(send: Send, change: Callable[[str], str]) -> Send:
    """Holds a page back until it is whole, and changes it."""
    start: Message = {}
    content = bytearray()

    async def send_changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        if message["type"] != "http.response.body":
            await send(message)
            return
        content.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        body = bytes(content)
        headers = list(start.get("headers", ()))
        if any(key.lower() == b"content-type" and b"text/html" in value for key, value in headers):
            body = change(body.decode()).encode()
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            headers.append((b"cache-control", b"no-store"))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return send_changed


async def _answer(send: Send, status: int, name: bytes, value: bytes, body: bytes) -> None:
    headers = [(name, value), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
