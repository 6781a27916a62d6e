"""Fixtures of the tests of serve."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from cnclip import pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable, open_gallery


@pytest.fixture(scope="session")
def embedder() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture(scope="session")
def gallery(embedder: MultiModalEmbeddingPipeline) -> Searchable:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `serve`")
    return open_gallery(embedder)


@pytest.fixture(scope="session")
def api(embedder: MultiModalEmbeddingPipeline, gallery: Searchable) -> Iterator[object]:
    """A client of an application with the model and the gallery that ship."""
    for package in ("fastapi", "httpx", "python_multipart", "orjson", "prometheus_client"):
        pytest.importorskip(package, reason=f"{package} is not installed, cnclip's extra `serve`")
    from tests.support.api import served_by

    with served_by(embedder, collections=(gallery,)) as (client, _):
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts a server; returns the process and its URL."""
    httpx = pytest.importorskip("httpx")
    started = []

    def start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "cnclip", *map(str, arguments), "--port", "0"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        started.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        deadline = time.monotonic() + 100
        while httpx.get(f"{url}/readyz", timeout=60).status_code != 200:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        return process, url

    yield start
    for process in started:
        process.kill()
        process.communicate()
