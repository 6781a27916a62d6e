"""The server and its command, as far as they work without Gradio and a browser."""

from __future__ import annotations

import importlib.util
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.errors import (
    InvalidInputError,
)
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve.server import is_loopback, listen, url_of
from tests.support.serve import make_index

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `ui`")
pytest.importorskip("pyarrow", reason="pyarrow is not installed, cnclip's extra `ui`")

GALLERY = asset_path("gallery")
CAT = GALLERY / "1f408.png"


def test_free_port_is_taken_and_a_taken_one_named() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        assert is_loopback(listener)
        with pytest.raises(InvalidInputError, match=f"127.0.0.1, port {port}: "):
            listen("127.0.0.1", port)
    with listen("0.0.0.0", 0) as listener:
        assert url_of(listener).startswith("http://127.0.0.1:")
        assert not is_loopback(listener)
    for host in ("no-such-host.invalid", "203.0.113.1", "x" * 70, "a..b"):
        with pytest.raises(InvalidInputError, match="cannot listen at"):
            listen(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ipv6_has_its_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except InvalidInputError:
        pytest.skip("there is no IPv6")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def test_serve_asks_for_ui(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 2
    assert last_line(capsys) == "cnclip serve: expected --ui"


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_missing_gradio_is_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name)
    )
    assert main([command, "--ui"]) == 2
    assert last_line(capsys) == (
        f"cnclip {command}: gradio is not installed: pip install 'cnclip[serve]'"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "many", "٣"])
def test_ports_that_cannot_be(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--ui", f"--port={port}"])
    assert stopped.value.code == 2
    assert "--port" in last_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--ui", "nowhere.index"], "nowhere.index"),
        (["serve", "--ui", "--model", "nowhere"], "nowhere"),
        (["demo", "--ui", "--images", "nowhere"], "nowhere"),
        (["demo", "--ui", "猫"], "TEXT"),
    ],
)
def test_bad_usage_is_named_before_anything_is_served(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cnclip.serve.server.check_gradio", lambda: None)
    assert main([*arguments, "--port", "0"]) == 2
    assert named in last_line(capsys)


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_is_ascii(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.isascii()


def test_url_is_printed_and_the_first_index_comes_first(
    tmp_path: Path,
    embedder: MultiModalEmbeddingPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(make_index(tmp_path / f"{name}.index", embedder, [CAT])) for name in "ba"]
    served: list[list[str]] = []

    def serve(searchables: Any, listener: socket.socket, ready: Any) -> None:
        served.append([one.name for one in searchables])
        ready(url_of(listener))
        raise KeyboardInterrupt

    monkeypatch.setattr("cnclip.serve.server.check_gradio", lambda: None)
    monkeypatch.setattr("cnclip.serve.server.serve", serve)
    assert main(["serve", "--ui", *paths, "--port", "0", "--device", "cpu"]) == 130
    printed = capsys.readouterr()
    assert printed.out.startswith("http://127.0.0.1:") and printed.out.count("\n") == 1
    assert served == [["b", "a"]]
    assert threading.active_count() < 50
