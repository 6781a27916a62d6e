"""A server of images that records its requests, for the tests of downloads."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from PIL import Image

from cnclip import errors, load_image
from cnclip.preprocessors import _download

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


def sample_image(format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (10, 20, 30)).save(stream, format)
    return stream.getvalue()


PNG = sample_image()


def respond(
    handler: BaseHTTPRequestHandler, body: bytes = PNG, status: int = 200, **headers: str
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class Recorder:
    """A server that records its requests and answers them in turn; the last answer repeats."""

    def __init__(self, serve: Serve, *answers: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.requests: list[BaseHTTPRequestHandler] = []
        self.answers = answers or (respond,)
        self.url = serve(self._respond)

    def _respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler)
        self.answers[min(len(self.requests), len(self.answers)) - 1](handler)

    @property
    def paths(self) -> list[str]:
        return [handler.path for handler in self.requests]

    def header(self, name: str) -> list[str | None]:
        return [handler.headers[name] for handler in self.requests]


def without_waits_and_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat downloads at once, whatever proxies the environment has."""
    monkeypatch.setattr(_download, "FIRST_WAIT", 0.0)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def fail(url: str, match: str, **options: Any) -> str:
    with pytest.raises(errors.ImageError, match=match) as raised:
        load_image(url, **options)
    return str(raised.value)
