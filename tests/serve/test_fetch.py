"""Images that the server fetches: which hosts, which addresses, how much, how long."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from cnclip.errors import ImageError

pytest.importorskip("httpx", reason="httpx is not installed, cnclip's extra `serve`")
from cnclip.serve import fetch
from cnclip.serve.fetch import Fetcher, is_public
from cnclip.serve.options import ServerOptions
from tests.support.http_server import LocalServer


class Handler(BaseHTTPRequestHandler):
    """Paths say how to answer."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        codes = {"/missing": 404, "/nowhere": 302, "/unchanged": 304}
        self.send_response(codes.get(self.path, 200))
        self.end_headers()
        if self.path == "/long":
            for _ in range(100):
                self.wfile.write(b"x" * 1000)
        elif self.path == "/slow":
            for _ in range(100):
                time.sleep(0.05)
                self.wfile.write(b"x")
        else:
            self.wfile.write(f"{self.headers['Host']} {self.path}".encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server on this machine, whose address counts as public here."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    server = LocalServer(Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(url: str, *hosts: str, **options: Any) -> bytes:
    async def run() -> bytes:
        fetcher = Fetcher(ServerOptions(allow_urls=hosts or None, **options))
        try:
            return await fetcher.fetch(url)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def test_an_allowed_host(server: int) -> None:
    url = f"http://localhost:{server}/a.png?b=%E7%8C%AB#c"
    want = f"localhost:{server} /a.png?b=%E7%8C%AB".encode()
    assert fetched(url, f"localhost:{server}") == want
    assert fetched(url, "other.example", f"LOCALHOST:{server}") == want


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("http://localhost:{port}/a", ()),
        ("http://localhost:{port}/a", ("localhost",)),  # another port
        ("http://localhost:{port}/a", ("*.localhost:{port}",)),
        ("http://localhost:{port}/a", ("host:{port}",)),
        ("http://user:pass@localhost:{port}/a", ("*:{port}",)),
        ("ftp://localhost:{port}/a", ("*:{port}",)),
        ("http://localhost:99999/a", ("*",)),
        ("http://[::1", ("*",)),
        ("http:///a", ("*",)),
    ],
)
def test_what_is_not_allowed(server: int, url: str, hosts: tuple[str, ...]) -> None:
    with pytest.raises(ImageError):
        fetched(url.format(port=server), *(host.format(port=server) for host in hosts))


def test_redirections(server: int) -> None:
    host = f"localhost:{server}"
    assert fetched(f"http://{host}/to//b", host) == f"{host} /b".encode()
    assert fetched(f"http://{host}/to/http://{host}/b", host) == f"{host} /b".encode()
    with pytest.raises(ImageError, match="fetches nothing from this host"):
        fetched(f"http://{host}/to/http://127.0.0.1:{server}/b", host)
    with pytest.raises(ImageError, match="expected an http or https URL"):
        fetched(f"http://{host}/to/file:///etc/passwd", host)
    with pytest.raises(ImageError, match="more than 5 redirections"):
        fetched(f"http://{host}/loop", host)


def test_limits(server: int) -> None:
    host = f"localhost:{server}"
    for path, code in (("missing", 404), ("nowhere", 302), ("unchanged", 304)):
        with pytest.raises(ImageError, match=f"responded with {code}"):
            fetched(f"http://{host}/{path}", host)
    with pytest.raises(ImageError, match="more than 5000 bytes"):
        fetched(f"http://{host}/long", host, max_url_bytes=5000)
    begun = time.monotonic()
    with pytest.raises(ImageError, match=r"no image within 0\.3 s"):
        fetched(f"http://{host}/slow", host, url_timeout=0.3)
    assert time.monotonic() - begun < 3
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetched(f"http://localhost:{port}/a", "*:" + str(port))


def test_private_addresses_are_never_contacted() -> None:
    """Whatever the name: the address decides."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(0.2)
        for host in ("localhost", "127.0.0.1", "0", "2130706433", "127.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(ImageError):
                fetched(f"http://{host}:{port}/a", f"*:{port}", f"{host}:{port}")
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::8.8.8.8", True),
        ("2002:0a00:0001::", False),
        ("ff02::1", False),
        ("nonsense", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
