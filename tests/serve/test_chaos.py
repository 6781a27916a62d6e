"""Bad requests, faults of the model and lost connections at once; good requests are answered."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("uvicorn", reason="uvicorn is not installed, cnclip's extra `serve`")
pytest.importorskip("httpx", reason="httpx is not installed, cnclip's extra `serve`")
import httpx

from tests.support.api import CAT, as_base64, callers, listening
from tests.support.image_files import chunk

PATH = "/v1/embeddings"
TEXTS = ["一只猫", "生日蛋糕", "雨天"]
POISON = "毒" * 9  # the model fails for it
SLEEP = "睡" * 9  # the model hangs for it


class Faulty:
    """An encoder that fails or hangs for some texts, alone or in a batch."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.release = encoder, threading.Event()

    def encode_texts(self, texts: list[str], *rest: Any) -> Any:
        if POISON in texts:
            raise RuntimeError("injected")
        if SLEEP in texts:
            self.release.wait(30)
        return self.encoder.encode_texts(texts, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(stream, "PNG")
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels that ends after the first rows."""
    header = (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    rows = zlib.compress(bytes(1 << 20))
    parts = (b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


BAD_ITEMS: list[Any] = [
    {"image": as_base64(bomb())},
    {"image": as_base64(CAT.read_bytes()[:200])},
    {"image": as_base64(b"GIF89a")},
    {"image": "####"},
    {"image": "http://127.0.0.1:1/a.png"},
    {"image": "/etc/passwd"},
    {"text": ""},
    {"text": POISON},
    3,
    None,
]
RAW_BODIES = [
    b'{"input": "\\ud800"}',
    b'{"input": ' + b"[" * 50_000,
    b"\xff\xfe{}",
    b'{"input": "' + b"x" * (1 << 20),
    b"",
]


def early_end(host: str, port: int) -> None:
    """A connection that ends within the request."""
    body = json.dumps({"input": TEXTS * 50}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = head.encode() + body
    with contextlib.suppress(OSError), socket.create_connection((host, port)) as connection:
        connection.sendall(sent[: random.randrange(len(sent) + 1)])


def slow_body(host: str, port: int, ended: threading.Event) -> None:
    """A connection whose body never ends."""
    with contextlib.suppress(OSError), socket.create_connection((host, port)) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode()
        )
        while not ended.wait(0.05):
            connection.sendall(b" ")


MIB = 1 << 20
HUGE = 64 * MIB


def test_a_huge_body_is_refused_before_it_is_read(
    embedder: MultiModalEmbeddingPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cnclip.access")
    with listening(embedder, max_body=MIB) as (url, _):
        place = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        # By its Content-Length: nothing of the body is sent.
        with socket.create_connection(place, timeout=30) as connection:
            connection.sendall(f"{head}Content-Length: {HUGE}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        # Of unknown length: no more than the limit is read.
        with socket.create_connection(place, timeout=30) as connection:
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            sent = 0
            with contextlib.suppress(OSError):
                while sent < HUGE:
                    connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                    sent += 0x10000
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        answer = httpx.post(f"{url}{PATH}", json={"input": TEXTS}, timeout=60)
        assert answer.status_code == 200
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "cnclip.access"]
    by_length, chunked, _ = [line["received"] for line in lines]
    assert by_length == 0
    assert MIB < chunked < 4 * MIB  # the last piece is what the server has read at a time


def huge_bodies() -> dict[str, tuple[bytes, int, str]]:
    """Bodies of 64 MB, the status of each and its code."""
    text = b"\xe7\x8c\xab" * (HUGE // 3)  # a cat in Chinese, many times
    nested = b"[" + b"{}," * (HUGE // 3) + b"{}]"
    few = b'"' + b"x" * 100 + b'",'  # less than a million values
    return {
        "one text": (b'{"input": "' + text + b'"}', 400, "invalid_item"),
        "an image": (b'{"input": {"image": "' + b"A" * HUGE + b'"}}', 400, "invalid_item"),
        "very many values": (b'{"input": ' + nested + b"}", 413, "too_many_values"),
        "many texts": (b'{"input": [' + few * (HUGE // len(few)) + b'""]}', 400, "too_many_items"),
        "a value that is none": (b'{"input": [{"x": "' + b"x" * HUGE + b'"}]}', 422, "invalid"),
    }


@pytest.mark.slow
def test_huge_bodies_next_to_good_requests(
    start: Any, embedder: MultiModalEmbeddingPipeline
) -> None:
    """With a higher limit, they are read; memory stays bounded, and others are answered."""
    expected = embedder.forward({"text": TEXTS})["text_embedding"]
    limits = ["--max-body", 2 * HUGE, "--max-bytes", 4 * HUGE]
    process, url = start("serve", "emoji-cn", "--device", "cpu", "--threads", "1", *limits)
    good = 0

    def ask_good(client: Any) -> None:
        nonlocal good
        answer = client.post(PATH, json={"input": TEXTS})
        rows = np.array([one["embedding"] for one in answer.json()["data"]])
        assert np.abs(rows - expected).max() < 2e-6
        good += 1

    with httpx.Client(base_url=url, timeout=60) as client:
        ask_good(client)
        before = peak_of(process.pid)
        headers = {"Content-Type": "application/json"}
        with callers(url, ask_good, timeout=60) as failures:
            for name, (body, status, code) in huge_bodies().items():
                asked = good
                answer = client.post(PATH, content=body, headers=headers)
                found = answer.json().get("error", {}).get("code", "")
                assert (answer.status_code, found) == (status, code), name
                while good == asked and not failures:
                    time.sleep(0.01)
        ask_good(client)
    # The body, its text, and what is made of it: a few times its size, whatever it holds.
    assert peak_of(process.pid) - before < 10 * HUGE


def peak_of(pid: int) -> int:
    """The most bytes of memory that a process has had."""
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) << 10


@pytest.mark.slow
def test_good_requests_among_bad_ones(embedder: MultiModalEmbeddingPipeline) -> None:
    seconds = 4.0
    faulty = Faulty(embedder.model.encoder)
    model = replace(embedder.model, encoder=cast("Any", faulty))
    pipeline = MultiModalEmbeddingPipeline(model, embedder.preprocessor)
    images = [png(1, 1), png(20_000, 1), CAT.read_bytes()]
    want = embedder.forward({"text": TEXTS, "img": images})
    expected = np.concatenate([want["text_embedding"], want["img_embedding"]])
    good = [*TEXTS, *({"image": as_base64(one)} for one in images)]
    ended, counts = threading.Event(), {"good": 0, "bad": 0}

    def ask_good(client: Any) -> None:
        answer = client.post(PATH, json={"input": good})
        assert answer.status_code == 200, answer.text
        rows = np.array([one["embedding"] for one in answer.json()["data"]])
        assert np.abs(rows - expected).max() < 2e-6
        counts["good"] += 1

    def ask_bad(client: Any) -> None:
        item = random.choice(BAD_ITEMS)
        answer = client.post(PATH, json={"input": [TEXTS[0], item]})
        assert 400 <= answer.status_code < 500 or item == {"text": POISON}, (item, answer.text)
        assert answer.status_code != 200
        answer = client.post(PATH, json={"input": [TEXTS[0], item], "on_error": "item"})
        if answer.status_code == 200:
            data = answer.json()["data"]
            assert np.abs(np.array(data[0]["embedding"]) - expected[0]).max() < 2e-6
            assert data[1]["embedding"] is None and data[1]["error"]
        body = random.choice(RAW_BODIES)
        answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text
        counts["bad"] += 1

    with listening(pipeline, batch_timeout=0.5, request_timeout=20.0) as (url, _):
        host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
        acts: list[Callable[[Any], None]] = [
            *(ask_good for _ in range(3)),
            *(ask_bad for _ in range(3)),
            lambda client: early_end(host, port),
        ]
        threads = [threading.Thread(target=slow_body, args=(host, port, ended)) for _ in range(8)]
        hung = threading.Thread(
            target=lambda: httpx.post(f"{url}{PATH}", json={"input": SLEEP}, timeout=60)
        )
        with callers(url, *acts, timeout=30):
            for thread in (*threads, hung):
                thread.start()
            time.sleep(seconds)
            ended.set()
            faulty.release.set()
        for thread in (*threads, hung):
            thread.join(60)
        assert not any(thread.is_alive() for thread in (*threads, hung))
        assert counts["good"] > 3 and counts["bad"] > 3, counts
        deadline = time.monotonic() + 20
        while httpx.get(f"{url}/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with httpx.Client(base_url=url) as client:
            ask_good(client)
