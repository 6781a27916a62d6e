"""Downloads through proxies, certificates, and the options of the command line."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cnclip import load_image
from cnclip.cli import main
from cnclip.preprocessors import download_settings
from tests.support.downloads import (
    Recorder,
    Serve,
    fail,
    respond,
    without_waits_and_proxies,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waits_and_proxies(monkeypatch)


# Proxies and certificates


def test_a_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Recorder(serve)
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:pass@"))
    assert load_image("http://例子.invalid/图.png").size == (3, 2)
    assert proxy.paths == ["http://xn--fsqu00a.invalid/%E5%9B%BE.png"]
    assert proxy.header("Proxy-Authorization") == [
        "Basic " + base64.b64encode(b"user:pass").decode()
    ]
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("all_proxy", proxy.url)
    assert load_image("http://host.invalid/x.png").size == (3, 2)


def test_headers_are_kept_through_a_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(handler: BaseHTTPRequestHandler) -> None:
        respond(handler, b"", 302, Location="http://a.invalid/y")

    proxy = Recorder(serve, moved, respond)
    monkeypatch.setenv("http_proxy", proxy.url)
    load_image("http://u:p@a.invalid/x")
    assert proxy.header("Authorization") == ["Basic dTpw"] * 2
    proxy = Recorder(serve, moved, respond)
    monkeypatch.setenv("http_proxy", proxy.url)
    load_image("http://u:p@b.invalid/x")
    assert proxy.header("Authorization") == ["Basic dTpw", None]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_messages_name_the_proxy(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", "http://user:SECRET@127.0.0.1:9")
    message = fail(f"{scheme}://host.invalid/x", r"through the proxy http://\*\*\*@127\.0\.0\.1:9")
    assert "SECRET" not in message
    for odd in ("http://127.0.0.1:port", "http://[", "127.0.0.1:9"):
        monkeypatch.setenv(f"{scheme}_proxy", odd)
        assert odd in fail(f"{scheme}://host.invalid/x", "through the proxy")
    assert "proxy" not in fail("http://127.0.0.1:9/", "refused")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_socks(scheme: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", "socks5://127.0.0.1:9")
    fail(f"{scheme}://host.invalid/x", "SOCKS is not supported; use an HTTP proxy .through the pro")
    assert load_image(serve(respond)).size == (3, 2)  # no_proxy has its host
    monkeypatch.delenv(f"{scheme}_proxy")
    monkeypatch.setenv("all_proxy", "socks5://u:SECRET@127.0.0.1:9")
    message = fail(f"{scheme}://host.invalid/x", "was not used: SOCKS is not supported")
    assert "SECRET" not in message


def test_certificates_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    fail("https://127.0.0.1:9/", "SSL_CERT_FILE is '/nowhere.pem', which is not a file")
    fail("http://127.0.0.1:9/", "refused$")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/none.pem")
    fail("https://127.0.0.1:9/", "REQUESTS_CA_BUNDLE is '/none.pem': No such file")


# The command line


def test_options_of_the_command(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        download_settings.HEADERS,
        download_settings.USER_AGENT,
        download_settings.TIMEOUT,
    ):
        monkeypatch.setenv(name, "")
    timeouts = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        timeouts.append(os.environ[download_settings.TIMEOUT])
        respond(handler)

    server = Recorder(serve, answer)
    options = ["--header", "X-Key: a", "--header", "Referer: b", "--user-agent", "Mozilla/5.0"]
    options += ["--timeout", "5", "--timeout", "7.5"]
    command = ["embed", server.url + "x.png", "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, *options]) == 0
    sent = server.requests[0].headers
    assert (sent["X-Key"], sent["Referer"], sent["User-Agent"]) == ("a", "b", "Mozilla/5.0")
    assert timeouts == ["7.5"]
    assert os.environ[download_settings.TIMEOUT] == ""  # as before the command


@pytest.mark.parametrize("option", [["--header", "SECRET"], ["--timeout", "0"]])
def test_options_that_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["embed", "x", "-o", "y"], ["search", "x.index", "猫"], ["serve"]):
        with pytest.raises(SystemExit):
            main([*command, *option])
        shown = capsys.readouterr().err
        assert f"{option[0]}: expected" in shown and "SECRET" not in shown


@pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="starts a slow process")
def test_ctrl_c_ends_downloads(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        code = (
            "import signal, sys; from cnclip import load_image\n"
            "from concurrent.futures import ThreadPoolExecutor\n"
            # A shell's background jobs ignore it.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "pool = ThreadPoolExecutor(2)\n"
            "some = [pool.submit(load_image, sys.argv[1], timeout=60) for _ in range(2)]\n"
            "print('ready', flush=True); some[0].result()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        connections = [server.accept()[0] for _ in range(2)]
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert time.monotonic() - begun < 10 and process.returncode
        for file in (process.stdout, *connections):
            file.close()
