"""What comes before a body is limited."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

for package in ("fastapi", "uvicorn", "httptools", "faiss"):
    pytest.importorskip(package, reason=f"{package} is not installed, cnclip's extra `serve`")

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "cnclip", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        parts = urlsplit(process.stdout.readline().strip())
        yield parts.hostname or "", parts.port or 0
        process.kill()


def answer_to(address: tuple[str, int], *parts: bytes) -> bytes:
    """What a server responds until it closes the connection."""
    received = b""
    with socket.create_connection(address, 30) as connection:
        with contextlib.suppress(OSError):  # it does not wait for the rest
            for part in parts:
                connection.sendall(part)
        with contextlib.suppress(ConnectionResetError):
            while content := connection.recv(1 << 16):
                received += content
    return received


@pytest.mark.parametrize(
    "rest",
    [
        [b"X: " + b"a" * (1 << 16)] * 200,
        [b"X-%d: a\r\n" % number * 4000 for number in range(200)],
    ],
    ids=["a long value", "many headers"],
)
def test_headers_that_do_not_end(address: tuple[str, int], rest: list[bytes]) -> None:
    received = answer_to(address, HEAD, *rest)
    assert received == b"" or received.startswith(b"HTTP/1.1 400"), received[:100]


def test_headers_within_the_limit(address: tuple[str, int]) -> None:
    """Also of later requests of a connection, whose sizes do not add up."""
    one = HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n"
    last = HEAD + b"Connection: close\r\n\r\n"
    received = answer_to(address, one, one, one, last)
    assert received.count(b"HTTP/1.1 200") == 4
