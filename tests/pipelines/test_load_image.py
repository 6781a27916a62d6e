"""load_image: what it opens, what it refuses, and servers that do not behave."""

from __future__ import annotations

import base64
import io
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnclip import errors, load_image
from cnclip.preprocessors import _download
from cnclip.preprocessors.image import located

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "FIRST_WAIT", 0.0)


@pytest.fixture
def images(golden: Path) -> Path:
    return golden / "cases" / "images"


@pytest.fixture
def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (10, 20, 30)).save(stream, "PNG")
    return stream.getvalue()


def huge_png(side: int) -> bytes:
    """A bilevel image of side x side pixels in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    compressor = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join([compressor.compress(row * 1000) for _ in range(side // 1000)])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", packed + compressor.flush())]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def answer(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def seconds_to_fail(url: str, match: str, **options: Any) -> float:
    begun = time.monotonic()
    with pytest.raises(errors.ImageError, match=match) as raised:
        load_image(url, **options)
    assert isinstance(raised.value, OSError)
    return time.monotonic() - begun


# Files


def test_equals_modelscopes_load_image(image_paths: list[Path]) -> None:
    for path in image_paths:
        found = load_image(str(path))
        with Image.open(path) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found), np.asarray(expected)), path.name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    found = load_image(stream.getvalue())
    assert found.size == ((4, 2) if orientation <= 4 else (2, 4))
    pixels = np.asarray(image)
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    assert np.array_equal(np.asarray(found), pixels)


def test_the_file_is_closed(images: Path, tmp_path: Path) -> None:
    for name in ("jpeg_q90.jpg", "anim.gif", "webp.webp"):
        copy = tmp_path / name
        copy.write_bytes((images / name).read_bytes())
        opened = load_image(copy)
        open_files = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
        assert str(copy) not in open_files
        assert opened.getpixel((0, 0)) is not None


class Named:
    """A path-like object that answers bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


@pytest.mark.parametrize(
    "name", ["图 片.png", "100%41.png", "a#b?c.png", "http:name.png".replace(":", "-"), b"\xff.png"]
)
def test_strange_file_names(tmp_path: Path, png: bytes, name: str | bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + os.fsencode(name)))
    path.write_bytes(png)
    for source in (path, str(path), path.as_uri(), Named(path)):
        assert load_image(source).size == (3, 2)  # type: ignore[arg-type]


def test_file_urls(tmp_path: Path, png: bytes) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(png)
    for url in (f"file://{path}", f"FILE://localhost{path}", f"file:{path}", path.as_uri()):
        assert load_image(url).size == (3, 2)
    with pytest.raises(errors.ImageNotFoundError, match="no such file"):
        load_image(f"file://{tmp_path}/nowhere.png")


def test_file_urls_with_bytes_that_are_not_utf8(tmp_path: Path, png: bytes) -> None:
    path = tmp_path / os.fsdecode(b"\xe7.png")
    path.write_bytes(png)
    assert located(f"file://{path}") == path
    assert load_image(f"file://{path}").size == (3, 2)
    with pytest.raises(errors.ImageError, match="not a URL"):
        located("file:///\ud800.png")


@pytest.mark.parametrize(
    "source",
    ["", "nowhere.png", "nowhere/else.png", "a\0b", "x" * 5000, "s3://bucket/key", "\ud800"],
    ids=lambda value: ascii(value)[:20],
)
def test_no_such_file(source: str) -> None:
    with pytest.raises(errors.ImageError) as raised:
        load_image(source)
    assert isinstance(raised.value, OSError)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("", "''"),
        ("a\x1b[31m", r"a\x1b[31m"),
        ("\ud800", r"\ud800"),
        ("a\nb", r"a\nb"),
        ("猫", "猫"),
    ],
)
def test_names_in_messages_are_printable(source: str, shown: str) -> None:
    with pytest.raises(errors.ImageError) as raised:
        load_image(source)
    assert str(raised.value).startswith(f"{shown}: ")


def test_bytes_of_no_known_format() -> None:
    with pytest.raises(errors.ImageError) as raised:
        load_image(b"12345")
    assert str(raised.value) == (
        "5 bytes: cannot be read as an image: of no format that Pillow knows"
    )


def test_a_missing_file_is_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such file"):
        load_image("nowhere.png")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(errors.ImageError, match="directory"):
        load_image(tmp_path)


@pytest.mark.parametrize("url", ["file://[/x.png", "file:///a%00b", "http://[", "http://", "http:"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(errors.ImageError):
        load_image(url)


@pytest.mark.parametrize("source", [None, 5, 1.5, ["a.png"], {"a"}, Image.new("RGB", (2, 2))])
def test_sources_of_other_types(source: Any) -> None:
    with pytest.raises(errors.InputTypeError, match="expected a path, URL or bytes, got"):
        load_image(source)


def test_bytes_and_their_views(png: bytes) -> None:
    spaced = bytes(2 * len(png))
    spaced = b"".join(bytes([byte, 0]) for byte in png)
    for source in (png, bytearray(png), memoryview(png), memoryview(spaced)[::2]):
        assert load_image(source).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("content", [b"", b"\0", b"text", bytes(10_000), b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_image(content: bytes) -> None:
    with pytest.raises(errors.ImageError, match=f"^{len(content)} bytes: cannot be read"):
        load_image(content)


@pytest.mark.parametrize(
    "name",
    "jpeg_q90.jpg jpeg_420_prog.jpg rgba.png webp.webp anim.gif bmp.bmp gray16.png".split(),
)
def test_damaged_files_never_crash(images: Path, name: str) -> None:
    content = (images / name).read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        kind = random.integers(3)
        at = int(random.integers(len(content)))
        if kind == 0:
            del damaged[at:]
        elif kind == 1:
            damaged[at : at + 16] = random.bytes(16)
        else:
            damaged[int(random.integers(200)) % len(content)] ^= 1 << random.integers(8)
        try:
            assert load_image(bytes(damaged)).mode == "RGB"
        except errors.ImageError:
            refused += 1
    assert refused > 0


def test_a_decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(20_000))
    assert path.stat().st_size < 1 << 18
    with pytest.raises(errors.ImageError, match=r"bomb\.png: .*decompression bomb"):
        load_image(path)


# data URLs


def test_data_urls(png: bytes) -> None:
    encoded = base64.b64encode(png).decode()
    for head in ("data:image/png;base64,", "DATA:;base64,", "data:image/png;charset=x;base64,"):
        assert load_image(head + encoded).size == (3, 2)
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in png)
    assert load_image(percent).size == (3, 2)


@pytest.mark.parametrize("url", ["data:", "data:,", "data:image/png;base64,AAA", "data:;base64,!"])
def test_broken_data_urls(url: str) -> None:
    with pytest.raises(errors.ImageError, match=r"^data:"):
        load_image(url)


def test_large_data_urls_are_not_printed(png: bytes) -> None:
    url = "data:image/png;base64," + base64.b64encode(b"x" * 100_000).decode()
    with pytest.raises(errors.ImageError, match="cannot be read") as raised:
        load_image(url)
    assert len(str(raised.value)) < 300
    with pytest.raises(errors.ImageError, match="larger than 1000 bytes"):
        load_image(url, max_bytes=1000)


# Servers


def test_http(serve: Serve, png: bytes) -> None:
    seen: list[Any] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers["User-Agent"]))
        answer(handler, png)

    url = serve(respond)
    assert load_image(url + "a.png?size=3").size == (3, 2)
    assert load_image(url.replace("http", "HTTP") + "b.png").size == (3, 2)
    assert seen == [("/a.png?size=3", "cnclip"), ("/b.png", "cnclip")]


def test_an_answer_without_a_length(serve: Serve, png: bytes) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + png)

    assert load_image(serve(respond)).size == (3, 2)


def test_a_chunked_answer(serve: Serve, png: bytes) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in png:
            handler.wfile.write(b"1\r\n" + bytes([byte]) + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    assert load_image(serve(respond)).size == (3, 2)


def test_redirections_are_followed(serve: Serve, png: bytes) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        steps = int(handler.path[1:])
        if steps:
            answer(handler, b"", 302, Location=f"/{steps - 1}")
        else:
            answer(handler, png)

    assert load_image(serve(respond) + "3").size == (3, 2)


@pytest.mark.parametrize("target", ["/", "/other"])
def test_redirections_without_end(serve: Serve, target: str) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        location = target if target == "/" else handler.path + "x"
        answer(handler, b"", 302, Location=location)

    assert seconds_to_fail(serve(respond), "cannot be fetched: .*redirect") < 5


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "gopher:x"]
)
def test_redirections_to_other_schemes(serve: Serve, target: str) -> None:
    url = serve(lambda handler: answer(handler, b"", 302, Location=target))
    assert seconds_to_fail(url, "cannot be fetched") < 5


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_statuses_of_failure(serve: Serve, png: bytes, status: int) -> None:
    url = serve(lambda handler: answer(handler, png, status))
    assert seconds_to_fail(url, rf"{url}: cannot be fetched: HTTP Error {status}") < 5


def test_an_answer_that_is_no_image(serve: Serve) -> None:
    url = serve(lambda handler: answer(handler, b"<html>not here</html>"))
    seconds_to_fail(url, f"{url}: cannot be read as an image")


def test_an_answer_that_ends_early(serve: Serve, images: Path) -> None:
    content = (images / "jpeg_q90.jpg").read_bytes()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:5000])
        handler.close_connection = True

    seconds_to_fail(serve(respond), "cannot be")


def test_an_answer_that_is_too_large(serve: Serve) -> None:
    sent = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while len(sent) < 10_000:
            handler.wfile.write(bytes(100_000))
            sent.append(100_000)

    assert seconds_to_fail(serve(respond), "larger than 1000000 bytes", max_bytes=10**6) < 5
    assert sum(sent) < 50_000_000


def drip(handler: BaseHTTPRequestHandler, content: bytes, rest: bytes) -> None:
    handler.wfile.write(content)
    for _ in range(600):
        handler.wfile.write(rest)
        handler.wfile.flush()
        time.sleep(0.05)


DRIPS = {
    "nothing": (b"", b""),
    "a status line": (b"HTTP/1.1 200 O", b"K"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "one header": (b"HTTP/1.1 200 OK\r\nX-A:", b"b"),
    "a body": (b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
    "a body with its length": (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk's size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_server_that_drips(serve: Serve, what: str) -> None:
    url = serve(lambda handler: drip(handler, *DRIPS[what]))
    assert seconds_to_fail(url, "not complete after 0.3 seconds|timed out", timeout=0.3) < 2


def test_redirections_share_one_deadline(serve: Serve) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        answer(handler, b"", 302, Location=handler.path + "x")

    assert seconds_to_fail(serve(respond), "not complete after 0.5 seconds", timeout=0.5) < 2


def test_a_server_that_never_answers() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert seconds_to_fail(url, "cannot be fetched", timeout=0.3) < 2
    assert seconds_to_fail(url, "refused") < 2


def test_a_server_that_answers_nonsense(serve: Serve) -> None:
    url = serve(lambda handler: handler.wfile.write(b"\xff\xfe nonsense\r\n\r\n"))
    seconds_to_fail(url, "cannot be fetched")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and certificate for 127.0.0.1, in one file."""
    file = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", file]
    try:
        subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return file


def test_https(certificate: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        answers = [png[:20], png[:20], png]

        def respond() -> None:
            for content in answers:
                raw, _ = listener.accept()
                try:
                    raw.getpeername()  # of a client that is gone, wrap_socket would leave a socket
                except OSError:
                    raw.close()
                    continue
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        connection.recv(4096)
                        connection.sendall(
                            b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(png)
                        )
                        connection.sendall(content)
                        if content != png:
                            time.sleep(1)
                except OSError:
                    continue

        thread = threading.Thread(target=respond)
        thread.start()
        seconds_to_fail(url, "CERTIFICATE_VERIFY_FAILED")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert seconds_to_fail(url, "not complete after 0.3", timeout=0.3) < 0.9
        assert load_image(url).size == (3, 2)
        thread.join()


def test_a_tls_server_that_never_shakes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        assert seconds_to_fail(url, "cannot be fetched", timeout=0.3) < 2


def test_downloads_leave_no_threads_behind(serve: Serve, png: bytes) -> None:
    url = serve(lambda handler: answer(handler, png))
    for _ in range(20):
        load_image(url, timeout=60)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    pytest.fail(f"still running: {threading.enumerate()}")
