"""The server's command and process."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.cli.serve import _report
from cnclip.errors import (
    InvalidInputError,
)
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Index
from cnclip.serve import Searchable
from cnclip.serve.server import is_loopback, listen, url_of
from tests.support.serve import make_index

for package in ("faiss", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"{package} is not installed, cnclip's extra `serve`")
httpx = pytest.importorskip("httpx")

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


@pytest.mark.parametrize("command", [["serve"], ["demo", "--ui"]])
def test_a_missing_package_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(command) == 2
    assert last_line(capsys) == (
        f"cnclip {command[0]}: uvicorn is not installed: pip install 'cnclip[serve]'"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "many", "٣"])
def test_ports_that_cannot_be(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", f"--port={port}"])
    assert stopped.value.code == 2
    assert "--port" in last_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "nowhere.index"], "nowhere.index"),
        (["serve", "nowhere/model"], "nowhere"),
        (["serve", "--model", "nowhere"], "nowhere"),
        (["serve", "--host", "0.0.0.0"], "--no-auth"),
        (["serve", "--api-keys", "nowhere"], "nowhere"),
        (["serve", "--tls-key", "key.pem"], "--tls-certificate"),
        (["serve", "--max-body", "0"], "--max-body: expected 1 or more"),
        (["demo", "--ui", "--images", "nowhere"], "nowhere"),
        (["demo", "--ui", "猫"], "TEXT"),
    ],
)
def test_bad_usage_is_named(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is found while models are opened ends the server, too."""
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--port", "0"]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_is_ascii(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.isascii()


# The process


def test_files_that_are_gone_are_reported(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "cat.png"
    photo.write_bytes(CAT.read_bytes())
    make_index(tmp_path / "photos.index", embedder, [CAT, photo])
    served = Searchable("photos", Index.load(tmp_path / "photos.index"), embedder)
    _report("serve", [served])
    assert capsys.readouterr().err == "cnclip serve: photos: 2 images\n"
    photo.unlink()
    _report("serve", [served])
    assert f"cnclip serve: photos: 1 of 2 files are gone, such as {photo}; if" in (
        capsys.readouterr().err
    )


def test_models_and_indexes(
    start: Any, tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    """The first index comes first, and the models of all can be asked."""
    paths = [str(make_index(tmp_path / f"{name}.index", embedder, [CAT])) for name in "ba"]
    process, url = start("serve", *paths, "emoji-cn", "--device", "cpu", "--threads", "1")
    collections = httpx.get(f"{url}/v1/collections").json()["data"]
    assert [one["name"] for one in collections] == ["b", "a"]
    assert len(httpx.get(f"{url}/v1/models").json()["data"]) >= 1
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err
    assert "cnclip serve: b: 1 image" in err


def test_sigterm_completes_the_requests_in_progress(
    start: Any, embedder: MultiModalEmbeddingPipeline
) -> None:
    process, url = start("serve", "emoji-cn", "--device", "cpu")
    texts = ["一只戴着眼镜的猫坐在桌子上"] * 600
    want = embedder.forward({"text": texts[:1]})["text_embedding"]
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(httpx.post(f"{url}/v1/embeddings", json={"input": texts}, timeout=100))
        except httpx.HTTPError as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: "cnclip_requests_in_flight" in httpx.get(f"{url}/metrics", timeout=60).text)
    wait_until(lambda: in_flight(url) > 0)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    _, err = process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    complete = [one for one in answers if getattr(one, "status_code", None) == 200]
    assert complete
    for one in complete:
        rows = np.array([row["embedding"] for row in one.json()["data"]])
        assert rows.shape == (600, 128) and np.abs(rows - want).max() < 2e-6
    # The others came too late, and got 503.
    for one in answers:
        assert isinstance(one, httpx.ConnectError | httpx.ReadError) or one.status_code in (
            200,
            503,
        )


def in_flight(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("cnclip_requests_in_"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    line = f"cnclip serve: cannot listen at 127.0.0.1, port {port}: Address already in use"
    assert last_line(capsys) == line
