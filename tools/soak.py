"""Sends mixed requests to a server for a long time, and checks that nothing grows or changes.

    python -m tools.soak [--seconds 1800 | --requests 100000] [--clients 8]

A process runs `cnclip serve` with the bundled model and gallery. Clients send good and bad requests
of every route, large and small ones, and connections that end early. After the first thousand
requests, memory, descriptors and threads of the server are noted; they are printed once a minute.
The exit status is 1 if at the end memory has grown by more than 20 MB, descriptors or threads by
more than a few, or if an answer differed from the first of its request by more than 2e-6 or had
another status than is expected.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import psutil

from cnclip.assets import asset_path
from tests.support.process_state import State

TEXTS = ["一只猫", "生日蛋糕", "雨天", "戴眼镜的人", "a red car", "猫" * 200]
SETTLED, MAX_GROWTH, MAX_OBJECTS = 1000, 20e6, 4
MAX_DIFFERENCE = 2e-6
# On a machine that is busy or stopped for a while, a request takes long and still succeeds.
PATIENCE = 700.0
IMAGES = [path.read_bytes() for path in sorted(asset_path("gallery").glob("1f4*.png"))[:6]]


@dataclass(frozen=True)
class Request:
    """A request with the status that it gets.

    Attributes:
        path: The route.
        status: The status of the answer.
        arguments: Those of httpx's `request`.
        method: The method.
    """

    path: str
    status: int
    arguments: dict[str, Any]
    method: str = "POST"


def requests() -> list[Request]:
    """Good and bad requests of every route."""
    encoded = [base64.b64encode(image).decode() for image in IMAGES]
    embeddings, form = "/v1/embeddings", {"file": ("a.png", IMAGES[0], "image/png")}
    as_png, as_json = {"Content-Type": "image/png"}, {"Content-Type": "application/json"}
    mixed = [{"text": TEXTS[0]}, {"image": encoded[0]}, {"image": "####"}, {"text": ""}]
    found = [Request(embeddings, 200, {"json": {"input": text}}) for text in TEXTS]
    found += [Request(embeddings, 200, {"content": one, "headers": as_png}) for one in IMAGES]
    found += [
        Request(embeddings, 200, {"json": {"input": TEXTS * 12}}),
        Request(embeddings, 200, {"json": {"input": encoded, "modality": "image"}}),
        Request(embeddings, 200, {"json": {"input": mixed, "on_error": "item"}}),
        Request(embeddings, 200, {"files": form}),
        Request("/v1/search", 200, {"json": {"text": "猫", "image": encoded[1], "k": 20}}),
        Request("/v1/classify", 200, {"json": {"image": encoded[2], "labels": TEXTS[:3]}}),
        Request("/v1/tokenize", 200, {"json": {"input": TEXTS}}),
        Request("/v1/sample?count=3", 200, {}, "GET"),
        Request("/v1/models", 200, {}, "GET"),
        Request("/v1/collections", 200, {}, "GET"),
        Request("/readyz", 200, {}, "GET"),
        Request("/metrics", 200, {}, "GET"),
        Request("/zh/", 200, {}, "GET"),
        Request("/static/search.js", 200, {}, "GET"),
        Request(embeddings, 400, {"json": {"input": mixed}}),
        Request(embeddings, 400, {"json": {"input": [[1, 2, 3]]}}),
        Request(embeddings, 400, {"json": {"input": "猫", "dimensions": 3}}),
        Request(embeddings, 400, {"content": IMAGES[0][:99], "headers": as_png}),
        Request(embeddings, 400, {"content": b'{"input": "\xff"}', "headers": as_json}),
        Request(embeddings, 400, {"content": b"[" * 60_000, "headers": as_json}),
        Request(embeddings, 404, {"json": {"input": "猫", "model": "other"}}),
        Request(embeddings, 415, {"content": b"a", "headers": {"Content-Type": "text/plain"}}),
        Request(embeddings, 422, {"json": {"input": ["猫", 7]}}),
        Request("/v1/search", 404, {"json": {"like": "../../etc/passwd"}}),
        Request("/v1/thumbnail?id=/etc/passwd", 404, {}, "GET"),
        Request("/static/..%2f..%2fapplication.py", 404, {}, "GET"),
    ]
    return found


class Soak:
    """The clients of a server, and what they found."""

    def __init__(self, url: str, limit: float) -> None:
        self.url, self._limit = url, limit
        self._requests = requests()
        self._first: dict[int, Any] = {}
        self._numbers = itertools.count()
        self.count = 0
        self.faults: list[str] = []
        self.is_over = False

    def run(self) -> None:
        """Send requests until the end, on this thread."""
        chooser = random.Random()
        client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        try:
            while not self.is_over and not self.faults:
                if (number := next(self._numbers)) >= self._limit:
                    break
                self._send(client, chooser.randrange(len(self._requests)))
                self.count = max(self.count, number + 1)
                if number % 97 == 0:
                    self._end_early()
                if number % 1009 == 0:  # a new connection now and then
                    client.close()
                    client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        except Exception as error:
            self.faults.append(f"{type(error).__name__}: {error}")
        finally:
            client.close()

    def _send(self, client: httpx.Client, which: int) -> None:
        request = self._requests[which]
        answer = client.request(request.method, request.path, **request.arguments)
        if answer.status_code != request.status:
            self.faults.append(
                f"{request.path}: {answer.status_code}, expected {request.status}: "
                f"{answer.text[:200]}"
            )
        elif request.status == 200 and request.path.startswith("/v1/"):
            numbers = np.array(list(_numbers(json.loads(answer.content))))
            first = self._first.setdefault(which, numbers)
            if (
                len(first) != len(numbers)
                or np.abs(first - numbers).max(initial=0) > MAX_DIFFERENCE
            ):
                self.faults.append(f"{request.path}: another answer than the first")

    def _end_early(self) -> None:
        """A connection that ends within the request, and one that does not read the answer."""
        address = httpx.URL(self.url)
        body = json.dumps({"input": TEXTS * 12}).encode()
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        sent = head % len(body) + body
        for part in (sent[: len(sent) // 2], sent):
            with socket.create_connection((address.host, address.port or 80)) as connection:
                connection.sendall(part)


def _numbers(value: Any) -> Any:
    """The numbers of JSON, in its order."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def watch(soak: Soak, process: psutil.Process, seconds: float, every: float) -> list[str]:
    """Print the server's state until the end; returns what is wrong."""
    begun = printed = time.monotonic()
    before: State | None = None
    while not soak.faults and process.is_running() and not soak.is_over:
        time.sleep(0.2)
        now = time.monotonic()
        if before is None and soak.count >= SETTLED:
            before = State.of(process)
            print(f"{soak.count:8} requests {now - begun:6.0f} s: {before}", flush=True)
        if now - printed > every:
            print(f"{soak.count:8} requests {now - begun:6.0f} s: {State.of(process)}", flush=True)
            printed = now
        soak.is_over = now - begun > seconds or not any(
            one.name == "soak" and one.is_alive() for one in threading.enumerate()
        )
    if soak.faults:
        return list(soak.faults)
    if before is None:
        return [f"fewer than {SETTLED} requests: run longer"]
    time.sleep(2)  # connections are closed
    after = State.of(process)
    print(f"{soak.count:8} requests {time.monotonic() - begun:6.0f} s: {after}", flush=True)
    return after.grown_from(before, MAX_GROWTH, MAX_OBJECTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--requests", type=float, default=float("inf"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    arguments = parser.parse_args()
    if arguments.seconds == arguments.requests:
        arguments.seconds = 1800.0
    command = [sys.executable, "-m", "cnclip", "serve", "--port", "0"]
    command += ["--request-timeout", "600", "--batch-timeout", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            while httpx.get(f"{url}/readyz", timeout=PATIENCE).status_code != 200:
                time.sleep(0.1)
            soak = Soak(url, arguments.requests)
            threads = [
                threading.Thread(target=soak.run, name="soak") for _ in range(arguments.clients)
            ]
            for thread in threads:
                thread.start()
            wrong = watch(soak, psutil.Process(server.pid), arguments.seconds, arguments.every)
            soak.is_over = True
            for thread in threads:
                thread.join()
            if httpx.get(f"{url}/readyz", timeout=PATIENCE).status_code != 200:
                wrong.append("/readyz fails at the end")
        finally:
            server.terminate()
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
