"""Downloads of images: URLs as people write them, secrets, servers that fail once."""

from __future__ import annotations

import base64
import gzip
import socket
import time
import zlib
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from cnclip import errors, load_image
from cnclip._text import hide_secrets
from cnclip.bulk import EmbedOptions, embed, iter_embeddings, open_recorded
from cnclip.preprocessors import _download, download_settings
from cnclip.preprocessors._urls import parse
from tests.support.downloads import (
    PNG,
    Recorder,
    Serve,
    fail,
    respond,
    without_waits_and_proxies,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waits_and_proxies(monkeypatch)


# URLs as people write them


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("http://h/图片.png", "http://h/%E5%9B%BE%E7%89%87.png"),
        ("http://h/a b.png?q=红 猫", "http://h/a%20b.png?q=%E7%BA%A2%20%E7%8C%AB"),
        ("http://h/%E5%9B%BE%20.png", "http://h/%E5%9B%BE%20.png"),
        ("http://h/100%.png", "http://h/100%25.png"),
        ("http://h/%zz%41.png", "http://h/%25zz%41.png"),
        ('http://h/a|b"c<d>{e}^`.png', "http://h/a%7Cb%22c%3Cd%3E%7Be%7D%5E%60.png"),
        ("http://h/a\\b.png", "http://h/a%5Cb.png"),
        ("http://h/(1)[2]~'*!$&,;=:@+.png", "http://h/(1)[2]~'*!$&,;=:@+.png"),
        ("http://例子.测试/x.png", "http://xn--fsqu00a.xn--0zwm56d/x.png"),
        ("http://例子.测试:8080", "http://xn--fsqu00a.xn--0zwm56d:8080"),
        ("http://bücher.example/é.png", "http://xn--bcher-kva.example/%C3%A9.png"),
        ("http://例。com/x", "http://xn--fsq.com/x"),
        ("  http://h/x.png\t\n", "http://h/x.png"),
        ("\ufeffhttp://h/x.png\u200b", "http://h/x.png"),
        ("\u3000http://h/x.png\u3000", "http://h/x.png"),
        ("http://[::1]:80/x@y.png", "http://[::1]:80/x@y.png"),
        ("http://h/@eaDir/x@2x.png", "http://h/@eaDir/x@2x.png"),
        ("http://h:80/a:b@c.png", "http://h:80/a:b@c.png"),
        ("http://h/x?mail=a:b@c", "http://h/x?mail=a:b@c"),
    ],
)
def test_urls_are_quoted(written: str, sent: str) -> None:
    assert parse(written) == (sent, None)


@pytest.mark.parametrize(
    ("written", "user"),
    [
        ("http://u:p@h/x", "u:p"),
        ("http://u@h/x", "u:"),
        ("http://u:p%40ss@h/x", "u:p@ss"),
        ("http://u:p@ss@h/x", "u:p@ss"),
        ("http://u:p/w@h/x", "u:p/w"),
        ("http://u:p w@h/x", "u:p w"),
        ("http://u:p#?w@h/x", "u:p#?w"),
        ("http://用户:密码@h/x", "用户:密码"),
        ("http://:p@h/x", ":p"),
        ("http://u:p@h/x@2x.png", "u:p"),
    ],
)
def test_user_and_password_are_sent_and_hidden(written: str, user: str) -> None:
    sent, authorization = parse(written)
    assert sent.startswith("http://h/x") and authorization is not None
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == user
    shown = hide_secrets(written)
    assert shown.startswith("http://***@h/x") or " " in written
    if " " not in written:
        assert parse(shown) == (sent, None)


def test_a_host_that_is_none() -> None:
    with pytest.raises(ValueError, match="not a host"):
        parse("http://例..子/x.png")
    fail("http://例..子/x.png", "not a host")


@pytest.mark.parametrize("port", ["65536", "99999", "x"])
def test_a_port_that_is_none(port: str) -> None:
    fail(f"http://127.0.0.1:{port}/x.png", "Port")


def test_urls_as_people_write_them_are_fetched(serve: Serve) -> None:
    server = Recorder(serve)
    for path in ("图片.png", "a b.png", "%E5%9B%BE.png", "100%.png"):
        assert load_image(f" {server.url}{path}\n").size == (3, 2)
    assert [unquote(path) for path in server.paths] == [
        "/图片.png",
        "/a b.png",
        "/图.png",
        "/100%.png",
    ]


@pytest.mark.parametrize("location", ["/图 片.png", "/%E5%9B%BE%20%E7%89%87.png"])
def test_redirections_to_other_characters(serve: Serve, location: str) -> None:
    raw = location.encode().decode("latin-1")
    server = Recorder(serve, lambda handler: respond(handler, b"", 302, Location=raw), respond)
    assert load_image(server.url).size == (3, 2)
    assert unquote(server.paths[1]) == "/图 片.png"


# Secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h/x?token=abc&w=3", "http://***@h/x?token=***&w=3"),
        ("http://h/x?w=3&access_token=abc#y", "http://h/x?w=3&access_token=***#y"),
        (
            "http://h/x?X-Amz-Signature=abc&X-Amz-Date=1",
            "http://h/x?X-Amz-Signature=***&X-Amz-Date=1",
        ),
        ("http://h/x?Expires=1&Signature=a%2Bb", "http://h/x?Expires=1&Signature=***"),
        ("http://h/x?sv=1&sig=abc", "http://h/x?sv=1&sig=***"),
        ("http://h/x?OSSAccessKeyId=abc", "http://h/x?OSSAccessKeyId=***"),
        ("http://h/x?apiKey=abc&api_key=d", "http://h/x?apiKey=***&api_key=***"),
        ("http://h/x?auth_key=1-0-0-abc", "http://h/x?auth_key=***"),
        ("http://h/x?key=photos/cat.jpg", "http://h/x?key=photos/cat.jpg"),
        ("http://h/x?design=a&author=b&assign=c", "http://h/x?design=a&author=b&assign=c"),
        ("http://h/x.png", "http://h/x.png"),
        ("cat=1;token", "cat=1;token"),
    ],
)
def test_hidden_secrets(url: str, shown: str) -> None:
    assert hide_secrets(url) == shown
    assert hide_secrets(shown) == shown


def test_long_tokens_stay_different() -> None:
    first, second = (hide_secrets(f"http://h/x?token={c * 40}") for c in "ab")
    assert first != second and "aaa" not in first
    assert (
        first.startswith("http://h/x?token=***") and len(first) == len("http://h/x?token=***") + 8
    )
    assert hide_secrets(first) == first
    key = "AIza" + "x" * 30
    assert key not in hide_secrets(f"http://h/x?key={key}")


def test_messages_hide_secrets(serve: Serve) -> None:
    server = Recorder(serve, lambda handler: respond(handler, b"no", 401))
    url = server.url.replace("//", "//user:pass@") + "x.png?token=SECRET"
    message = fail(url, "401")
    assert "pass" not in message and "SECRET" not in message and "***@127.0.0.1" in message
    assert server.header("Authorization") == ["Basic " + base64.b64encode(b"user:pass").decode()]
    assert server.paths == ["/x.png?token=SECRET"]


def test_nothing_secret_is_recorded(serve: Serve, vit: Any, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        respond(handler) if path.startswith("/good") else respond(handler, b"no", 403)

    url = Recorder(serve, answer).url.replace("//", "//user:passw0rd@")
    names = [f"{url}{name}.png?token=SECRET{name}" for name in ("good", "good2", "bad")]
    lines = tmp_path / "list.txt"
    lines.write_text("\n".join(names), encoding="utf-8")
    table = tmp_path / "table.csv"
    table.write_text(f"id,image\n{names[0]}&n=1,{names[0]}\n", encoding="utf-8")
    single = f"{url}good3.png?token=SECRETgood3"
    report = embed([lines, table, single], vit, tmp_path / "out")
    assert (report.embedded, report.failed) == (4, 1)
    assert "***@" in report.first_failed[0][0] and "token=***" in report.first_failed[0][0]
    import pyarrow.parquet as parquet

    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            if file.suffix == ".parquet":
                content += str(parquet.read_table(file).to_pylist()).encode()
            assert b"SECRET" not in content and b"passw0rd" not in content, file
    again = embed([lines, table, single], vit, tmp_path / "out", EmbedOptions(retry=True))
    assert (again.kept, again.embedded, again.failed) == (4, 0, 1)
    ids = [id for some, _ in iter_embeddings(lines, vit) for id in some]
    assert not any("SECRET" in id or "passw0rd" in id for id in ids) and len(ids) == 2


def test_a_recorded_url_is_opened_without_its_password(serve: Serve) -> None:
    server = Recorder(serve)
    url = server.url.replace("//", "//***@") + "x.png"
    assert open_recorded(url, url).size == (3, 2)
    assert server.header("Authorization") == [None]


# Headers


def test_headers_of_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Recorder(serve)
    load_image(server.url)
    assert server.header("User-Agent") == ["cnclip"]
    monkeypatch.setenv(download_settings.USER_AGENT, "Mozilla/5.0 (猫)")
    monkeypatch.setenv(download_settings.HEADERS, "Referer: http://h/\n\nX-Key:  a: b \n")
    load_image(server.url)
    assert server.header("Referer")[1] == "http://h/"
    assert server.header("X-Key")[1] == "a: b"
    agent = server.header("User-Agent")[1]
    assert agent is not None and agent.encode("latin-1").decode() == "Mozilla/5.0 (猫)"
    monkeypatch.setenv(download_settings.HEADERS, "User-Agent: other")
    load_image(server.url)
    assert server.header("User-Agent")[2] == "other"


@pytest.mark.parametrize(
    "value", ["Authorization Bearer SECRET", ": SECRET", "a b: SECRET", "é: x"]
)
def test_headers_that_are_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download_settings.HEADERS, value)
    assert "SECRET" not in fail("http://127.0.0.1:9/", "CNCLIP_HEADERS: expected a header")


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "soon"])
def test_timeouts_that_are_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download_settings.TIMEOUT, value)
    fail("http://127.0.0.1:9/", "CNCLIP_TIMEOUT: expected seconds")


def test_settings_break_nothing_that_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(PNG)
    data = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for name, value in {
        download_settings.HEADERS: "none",
        download_settings.TIMEOUT: "none",
        "http_proxy": "socks5h://127.0.0.1:9",
        "https_proxy": "://[",
        "all_proxy": "socks5://[::1",
        "no_proxy": "[::1],fe80::/10,*,10.0.0.0/8, ,:::",
        "SSL_CERT_FILE": "/nowhere.pem",
        "REQUESTS_CA_BUNDLE": "/nowhere.pem",
    }.items():
        monkeypatch.setenv(name, value)
    for source in (data, tmp_path / "x.png", (tmp_path / "x.png").as_uri(), PNG):
        assert load_image(source).size == (3, 2)


@pytest.mark.parametrize("other", [False, True])
def test_secrets_are_not_sent_to_another_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    second = Recorder(serve)
    first = Recorder(
        serve,
        lambda handler: respond(handler, b"", 302, Location=second.url if other else "/y"),
        respond,
    )
    monkeypatch.setenv(download_settings.HEADERS, "X-Key: SECRET\nCookie: SECRET\nReferer: r")
    load_image(first.url.replace("//", "//u:p@"))
    last = (second if other else first).requests[-1].headers
    names = ("X-Key", "Cookie", "Authorization")
    assert [last[name] is None for name in names] == [other] * 3
    assert last["Referer"] == "r" and last["User-Agent"] == "cnclip"


def test_a_redirection_with_a_password(serve: Serve) -> None:
    second = Recorder(serve)
    target = second.url.replace("//", "//u:p@")
    load_image(serve(lambda handler: respond(handler, b"", 302, Location=target)))
    assert second.header("Authorization") == ["Basic dTpw"]


# Servers that fail once


def broken(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def short(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, PNG[:-20], Content_Length=str(len(PNG)))


def short_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab")
    handler.connection.shutdown(socket.SHUT_RDWR)


def short_gzip(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, gzip.compress(PNG)[:-12], Content_Encoding="gzip")


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: respond(handler, b"busy", code, **headers)


@pytest.mark.parametrize(
    "fault",
    [
        *(status(code) for code in (429, 500, 502, 503, 504)),
        status(503, Retry_After="0"),
        status(429, Retry_After=formatdate(0, usegmt=True)),
        status(429, Retry_After="soon"),
        broken,
        short,
        short_chunks,
        short_gzip,
    ],
)
def test_a_fault_that_passes(serve: Serve, fault: Callable[[Any], None]) -> None:
    server = Recorder(serve, fault, fault, respond)
    assert load_image(server.url).size == (3, 2)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "tries", "message"),
    [
        (status(503), 3, "HTTP Error 503: Service Unavailable \\(tried 3 times\\)"),
        (short, 3, "the connection ended after .* bytes"),
        (short_chunks, 3, "the connection ended before the end of the content"),
        (lambda handler: respond(handler, b""), 1, "an empty file"),
        (status(404), 1, "HTTP Error 404: Not Found$"),
        (status(403), 1, "HTTP Error 403"),
        (status(501), 1, "HTTP Error 501"),
        (status(429, Retry_After="600"), 1, "429.*asks to wait 600 seconds"),
        (status(503, Retry_After=formatdate(4e9, usegmt=True)), 1, "503.*asks to wait .* seconds"),
    ],
)
def test_a_fault_that_stays(
    serve: Serve, fault: Callable[[Any], None], tries: int, message: str
) -> None:
    server = Recorder(serve, fault)
    begun = time.monotonic()
    fail(server.url, message)
    assert time.monotonic() - begun < 5
    assert len(server.requests) == tries


def test_the_server_decides_the_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(_download.Deadline, "sleep", lambda _, seconds: waits.append(seconds))
    monkeypatch.setattr(_download, "FIRST_WAIT", 0.5)
    load_image(Recorder(serve, status(503), broken, respond).url)
    load_image(Recorder(serve, status(429, Retry_After="7"), respond).url)
    later = formatdate(time.time() + 5, usegmt=True)
    load_image(Recorder(serve, status(429, Retry_After=later), respond).url)
    assert waits[:3] == [0.5, 1.0, 7.0] and 3 < waits[3] <= 5


def test_all_tries_share_the_timeout(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download_settings.TIMEOUT, "0.3")
    begun = time.monotonic()
    fail(serve(lambda handler: time.sleep(1)), "not complete after 0.3 seconds|timed out")
    assert time.monotonic() - begun < 2
    monkeypatch.setattr(_download, "FIRST_WAIT", 5.0)
    fail(serve(status(503)), "503")
    assert time.monotonic() - begun < 3


# Encodings


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PNG)),
        ("X-GZIP", gzip.compress(PNG)),
        ("deflate", zlib.compress(PNG)),
        ("deflate", zlib.compress(PNG)[2:-4]),
        ("deflate, gzip", gzip.compress(zlib.compress(PNG))),
        ("identity", PNG),
        ("", PNG),
    ],
)
def test_encodings(serve: Serve, encoding: str, body: bytes) -> None:
    server = Recorder(serve, lambda handler: respond(handler, body, Content_Encoding=encoding))
    assert load_image(server.url).size == (3, 2)
    assert server.header("Accept-Encoding") == ["identity"]


def test_encodings_that_fail(serve: Serve) -> None:
    fail(serve(lambda handler: respond(handler, PNG, Content_Encoding="br")), "encoding 'br'")
    fail(serve(lambda handler: respond(handler, PNG, Content_Encoding="gzip")), "not gzip, as")
    bomb = gzip.compress(bytes(10**7))
    url = serve(lambda handler: respond(handler, bomb, Content_Encoding="gzip"))
    fail(url, "larger than 1000000 bytes", max_bytes=10**6)


def test_a_web_page_instead_of_an_image(serve: Serve) -> None:
    page = b"\n<!DOCTYPE HTML><title>log in</title>"
    url = serve(lambda handler: respond(handler, page, Content_Type="text/html; charset=utf-8"))
    fail(url, "the server sent a web page, not an image")
    assert load_image(serve(lambda handler: respond(handler, Content_Type="text/html"))).size


def test_a_length_that_is_too_large(serve: Serve) -> None:
    server = Recorder(serve, lambda handler: respond(handler, b"x", Content_Length="99999"))
    fail(server.url, "larger than 5000 bytes", max_bytes=5000)
    assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["nas", "127.0.0.1", "photos.example:80", "LOCALHOST.example"])
def test_file_urls_of_other_machines(tmp_path: Path, host: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with pytest.raises(errors.ImageError, match=f"of another machine, {host}: .* three slashes"):
        load_image(f"file://{host}{path}")
