"""Ten thousand connections that end early leave nothing in the server."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("faiss", reason="faiss is not installed, cnclip's extra `serve`")
pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("uvicorn", reason="uvicorn is not installed, cnclip's extra `serve`")
pytest.importorskip("httpx")
import httpx

from tests.support.api import callers

CONNECTIONS = 10_000
PATH = "/v1/embeddings"
TEXTS = ["一只猫", "生日蛋糕", "雨天"]
BODY = json.dumps({"input": TEXTS}).encode()
HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode()
FORM = (
    f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; "
).encode()
# Nothing; half of the headers; half of a body, of a form; a request whose answer is not awaited.
STARTS = (b"", HEAD[:40], HEAD + BODY[:20], FORM, HEAD + BODY)


def end_early(address: tuple[str, int], number: int) -> None:
    """Open a connection, send a part of a request, and close it, or reset it."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(STARTS[number % len(STARTS)])
        if number // len(STARTS) % 2:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def descriptors(process: Any) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


@pytest.mark.slow
def test_ten_thousand_connections_that_end_early(
    start: Any, embedder: MultiModalEmbeddingPipeline
) -> None:
    want = embedder.forward({"text": TEXTS})["text_embedding"]
    process, url = start("serve", "emoji-cn", "--device", "cpu")
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    answers = []

    def ask(client: Any) -> None:
        answer = client.post(PATH, json={"input": TEXTS})
        assert answer.status_code == 200, answer.text
        rows = np.array([one["embedding"] for one in answer.json()["data"]])
        assert np.abs(rows - want).max() < 2e-6
        answers.append(len(rows))

    with httpx.Client(base_url=url, timeout=100) as client:
        ask(client)
    before = descriptors(process)
    with callers(url, ask, timeout=100):
        for number in range(CONNECTIONS):
            end_early(address, number)
    assert len(answers) > 3
    assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200
    with httpx.Client(base_url=url, timeout=100) as client:
        ask(client)
    deadline = time.monotonic() + 100
    while descriptors(process) > before:
        assert time.monotonic() < deadline, (before, descriptors(process))
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
