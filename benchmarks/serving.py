"""Many callers of one model, compared with batches of one caller.

    python benchmarks/serving.py [--model emoji-cn | --random ViT-B-16] [--precision fp32]
        [--callers N] [--uploads N] [--seconds S] [--rounds N] [--part texts|latency|images|http]

All are measured in one process, in turns; medians of the rounds are printed.

- texts: so many callers, each with one text of 12 tokens at a time: with `cnclip.serve.Batcher`,
  and each with its own call of the pipeline; compared with batches of 32.
- latency: one caller with one text and with one open image of 640 x 480, with and without the
  batcher, in alternation.
- images: so many uploads, each of the content of a JPEG file of 640 x 480 at a time, compared with
  `iter_embeddings`, the loop of `cnclip embed`, on the same files.
- http: the same callers and uploads ask `cnclip serve` on this machine, one request per text or
  file; and one client alone. Client and server share the cores: the processor time of both per
  item is printed, too.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from PIL import Image, ImageFilter

from cnclip import bulk, pipeline
from cnclip.benchmark import random_archive
from cnclip.benchmark.inputs import make_images, make_texts
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Batcher

TEXTS = make_texts(64, 12)
FILES = 32
PARTS = ("texts", "latency", "images", "http")


def rate_of(call: Callable[[], int], seconds: float) -> float:
    """Items per second of one caller; `call` returns the items that it has embedded."""
    begin, items = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        items += call()
    return items / (time.perf_counter() - begin)


def rate_of_callers(
    call: Callable[[int], Any], callers: int, seconds: float
) -> tuple[float, float]:
    """Items per second of many callers, and the median of the milliseconds of a call."""
    waits: list[float] = []
    begin = time.perf_counter()

    def run(number: int) -> None:
        for turn in itertools.count(number):
            start = time.perf_counter()
            if start - begin > seconds:
                return
            call(turn)
            waits.append(time.perf_counter() - start)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(waits) / (time.perf_counter() - begin), statistics.median(waits) * 1000


def median_times(calls: list[Callable[[], Any]], seconds: float) -> list[float]:
    """The median milliseconds of calls that take turns."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, samples in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
    return [statistics.median(samples) * 1000 for samples in times]


def compare_texts(
    embedder: MultiModalEmbeddingPipeline, batcher: Batcher, callers: int, seconds: float
) -> dict[str, float]:
    def embed_batch() -> int:
        return len(embedder.forward({"text": TEXTS[:32]})["text_embedding"])

    batches = rate_of(embed_batch, seconds)
    common, wait = rate_of_callers(
        lambda turn: batcher.forward({"text": TEXTS[turn % 64]}), callers, seconds
    )
    alone, alone_wait = rate_of_callers(
        lambda turn: embedder.forward({"text": TEXTS[turn % 64]}), callers, seconds
    )
    return {
        "batches of 32, texts/s": batches,
        f"{callers} callers, batcher, texts/s": common,
        f"{callers} callers, batcher, ms": wait,
        f"{callers} callers, pipeline, texts/s": alone,
        f"{callers} callers, pipeline, ms": alone_wait,
        "batcher / batches of 32": common / batches,
    }


def compare_latency(
    embedder: MultiModalEmbeddingPipeline, batcher: Batcher, seconds: float
) -> dict[str, float]:
    found = {}
    inputs: dict[str, dict[str, Any]] = {
        "a text": {"text": TEXTS[0]},
        "an image": {"img": make_images(1)},
    }
    for name, given in inputs.items():
        calls = [partial(embedder.forward, given), partial(batcher.forward, given)]
        alone, common = median_times(calls, seconds)
        found |= {
            f"{name}, pipeline, ms": alone,
            f"{name}, batcher, ms": common,
            f"{name}, difference, ms": common - alone,
        }
    return found


def write_files(folder: Path) -> None:
    """Write JPEG files with about as many bytes per pixel as a photo has."""
    random = np.random.default_rng(0)
    for number in range(FILES):
        noise = Image.fromarray(random.integers(0, 256, (480, 640, 3), np.uint8))
        content = io.BytesIO()
        noise.filter(ImageFilter.GaussianBlur(1.5)).save(content, "jpeg", quality=85)
        (folder / f"{number:02}.jpg").write_bytes(content.getvalue())


def compare_images(
    embedder: MultiModalEmbeddingPipeline, batcher: Batcher, uploads: int, seconds: float
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        files = sorted(Path(folder).iterdir())
        contents = [file.read_bytes() for file in files]

        def embed_files() -> int:
            return sum(len(vectors) for _, vectors in bulk.iter_embeddings(folder, embedder))

        files_rate = rate_of(embed_files, seconds)
    common, wait = rate_of_callers(
        lambda turn: batcher.forward({"img": contents[turn % FILES]}), uploads, seconds
    )
    return {
        "files, cnclip embed, images/s": files_rate,
        f"{uploads} uploads, batcher, images/s": common,
        f"{uploads} uploads, batcher, ms": wait,
        "batcher / cnclip embed": common / files_rate,
    }


class HttpServer:
    """`cnclip serve` in a separate process."""

    def __init__(self, model: str | Path, arguments: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "cnclip", "serve", str(model), "--port", "0"]
        command += ["--device", arguments.device, "--precision", arguments.precision]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
        assert self._process.stdout is not None
        self._address = urlsplit(self._process.stdout.readline().strip()).netloc
        self._local = threading.local()
        while self._get("/readyz") != 200:
            time.sleep(0.1)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def processor_seconds(self) -> float:
        """Processor time of the server until now."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection, which stays open."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._address, timeout=60)
        connection: http.client.HTTPConnection = self._local.connection
        return connection

    def _get(self, path: str) -> int:
        self._connection().request("GET", path)
        response = self._connection().getresponse()
        response.read()
        return response.status

    def post(self, body: bytes, kind: str) -> bytes:
        """The bytes of the embeddings of a request."""
        headers = {"Content-Type": kind, "Accept": "application/octet-stream"}
        self._connection().request("POST", "/v1/embeddings", body, headers)
        response = self._connection().getresponse()
        content = response.read()
        assert response.status == 200, content
        return content

    def text(self, text: str) -> bytes:
        """The embedding of a text."""
        return self.post(json.dumps({"input": text}).encode(), "application/json")


def compare_http(
    embedder: MultiModalEmbeddingPipeline,
    server: HttpServer,
    callers: int,
    uploads: int,
    seconds: float,
) -> dict[str, float]:
    def embed_batch() -> int:
        return len(embedder.forward({"text": TEXTS[:32]})["text_embedding"])

    batches = rate_of(embed_batch, seconds)
    before, own = server.processor_seconds(), time.process_time()
    rate, wait = rate_of_callers(lambda turn: server.text(TEXTS[turn % 64]), callers, seconds)
    texts = rate * seconds
    found = {
        "batches of 32, texts/s": batches,
        f"{callers} clients, texts/s": rate,
        f"{callers} clients, ms": wait,
        "server's processor ms per text": (server.processor_seconds() - before) * 1000 / texts,
        "clients' processor ms per text": (time.process_time() - own) * 1000 / texts,
        "clients / batches of 32": rate / batches,
    }
    alone, over_http = median_times(
        [lambda: embedder.forward({"text": TEXTS[0]}), lambda: server.text(TEXTS[0])], seconds
    )
    found |= {
        "one client, in process, ms": alone,
        "one client, over HTTP, ms": over_http,
        "difference, ms": over_http - alone,
    }
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        contents = [file.read_bytes() for file in sorted(Path(folder).iterdir())]

        def embed_files() -> int:
            return sum(len(vectors) for _, vectors in bulk.iter_embeddings(folder, embedder))

        files_rate = rate_of(embed_files, seconds)
    rate, wait = rate_of_callers(
        lambda turn: server.post(contents[turn % FILES], "image/jpeg"), uploads, seconds
    )
    return found | {
        "files, cnclip embed, images/s": files_rate,
        f"{uploads} uploads over HTTP, images/s": rate,
        f"{uploads} uploads over HTTP, ms": wait,
        "uploads / cnclip embed": rate / files_rate,
    }


@contextlib.contextmanager
def model_of(arguments: argparse.Namespace) -> Iterator[str | Path]:
    """The model to measure."""
    if arguments.random is None:
        yield arguments.model
    else:
        with random_archive(arguments.random) as archive:
            yield archive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-cn")
    parser.add_argument("--random", metavar="ARCHITECTURE", help="a model of a published size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--uploads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, nargs="*")
    arguments = parser.parse_args()
    wanted: tuple[str, ...] = tuple(arguments.part or PARTS)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(model_of(arguments))
        embedder = pipeline(model=model, device=arguments.device, precision=arguments.precision)
        embedder.forward({"text": TEXTS, "img": make_images(8)})  # warm
        parts = parts_of(embedder, stack.enter_context(Batcher(embedder)), arguments)
        if "http" in wanted:
            server = HttpServer(model, arguments)
            stack.callback(server.close)
            callers, uploads = arguments.callers, arguments.uploads
            seconds = arguments.seconds
            parts["http"] = lambda: compare_http(embedder, server, callers, uploads, seconds)
        for name in wanted:
            rounds = [parts[name]() for _ in range(arguments.rounds)]
            for row in rounds[0]:
                values = [one[row] for one in rounds]
                spread = f"{min(values):.2f} to {max(values):.2f}"
                print(f"{row:36} {statistics.median(values):9.2f}   {spread}", flush=True)


def parts_of(
    embedder: MultiModalEmbeddingPipeline, batcher: Batcher, arguments: argparse.Namespace
) -> dict[str, Callable[[], dict[str, float]]]:
    """The measurements in this process, by name."""
    seconds = arguments.seconds
    return {
        "texts": lambda: compare_texts(embedder, batcher, arguments.callers, seconds),
        "latency": lambda: compare_latency(embedder, batcher, seconds),
        "images": lambda: compare_images(embedder, batcher, arguments.uploads, seconds),
    }


if __name__ == "__main__":
    main()
