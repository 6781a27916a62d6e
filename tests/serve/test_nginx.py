"""The configuration for nginx in the documentation: under a path, with a host name."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.pipelines import MultiModalEmbeddingPipeline

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `serve`")
pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("uvicorn", reason="uvicorn is not installed, cnclip's extra `serve`")
pytest.importorskip("httpx", reason="httpx is not installed, cnclip's extra `serve`")
import httpx

from tests.support.api import CAT

# Users' PATH often lacks the first two.
NGINX = shutil.which("nginx", path=f"/usr/sbin:/usr/local/sbin:{os.environ.get('PATH', '')}")
pytestmark = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed: apt-get install nginx-light"
)
PAGE = Path(__file__).parents[2] / "docs" / "en" / "howto" / "serve.md"
HOST = "search.example.com"
CLIENT = "127.0.0.5"  # not the address by which nginx asks the server
# What an installation of nginx has around the documented block.
AROUND = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{block}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Any]:
    """Starts nginx before a server; returns its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str) -> int:
        blocks = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert len(blocks) == 1
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        block = replaced(blocks[0], "http://127.0.0.1:7860", url)
        block = replaced(block, "listen 80;", f"listen 127.0.0.1:{port};")
        file = tmp_path / "nginx.conf"
        file.write_text(AROUND.format(folder=tmp_path, block=block), encoding="utf-8")
        assert NGINX is not None
        process = subprocess.Popen([NGINX, "-p", tmp_path, "-c", file], stderr=subprocess.PIPE)
        started.append(process)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return port
            except ConnectionRefusedError:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def test_under_a_path_with_a_host_name(
    start: Any, nginx: Any, embedder: MultiModalEmbeddingPipeline
) -> None:
    process, url = start(
        *("serve", "--device", "cpu", "--threads", "1", "--access-log"),
        *("--allow-host", HOST, "--root-path", "/search"),
    )
    port = nginx(url)
    want = embedder.forward({"text": ["猫"], "img": [CAT.read_bytes()]})
    transport = httpx.HTTPTransport(local_address=CLIENT)
    headers = {"Host": HOST, "X-Forwarded-For": "203.0.113.9"}  # forged
    base = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=base, transport=transport, headers=headers, timeout=60) as client:
        # The application: the first page leads to one in a language, whose files are all there.
        assert client.get("/search").headers["location"].endswith("/search/")
        first = client.get("/search/", headers={"Accept-Language": "en"})
        assert first.status_code == 307
        page = client.get(httpx.URL(f"{base}/search/").join(first.headers["location"]))
        assert page.status_code == 200 and page.url.path == "/search/en/"
        files = files_of(client, page.url, page.text)
        assert {"app.js", "words.js", "style.css"} <= {file.rsplit("/")[-1] for file in files}
        assert all(file.startswith("/search/static/") for file in files)
        # The API.
        answer = client.post("/search/v1/embeddings", json={"input": "猫"})
        assert np.abs(row_of(answer) - want["text_embedding"][0]).max() < 2e-6
        answer = client.post("/search/v1/embeddings", files={"file": CAT.read_bytes()})
        assert np.abs(row_of(answer) - want["img_embedding"][0]).max() < 2e-6
        assert client.get("/search/v1/collections").json()["data"]
        large = client.post("/search/v1/embeddings", content=bytes(70 << 20))
        assert large.status_code == 413
        # Under another name, nothing is served; nor outside of the path.
        other = client.get("/search/v1/models", headers={"Host": "elsewhere.example"})
        assert other.status_code == 403 and other.json()["error"]["code"] == "unknown_host"
        assert client.get("/v1/models").status_code == 404
    process.send_signal(signal.SIGINT)
    lines = [line for line in process.communicate(timeout=60)[1].splitlines() if line[:1] == "{"]
    passed = [line for line in map(json.loads, lines) if line["path"] != "/readyz"]
    assert len(passed) > 8 and {line["client"] for line in passed} == {CLIENT}


def row_of(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"])


def files_of(client: Any, url: Any, text: str) -> set[str]:
    """The paths of the files that a page, and the scripts among them, refer to; each is there."""
    found: set[str] = set()
    waiting = [(url, text)]
    while waiting:
        url, text = waiting.pop()
        for name in re.findall(r"""(?:src=|href=|from )["']([\w./]+\.(?:js|css|svg))["']""", text):
            one = url.join(name)
            if one.path not in found:
                found.add(one.path)
                answer = client.get(one)
                assert answer.status_code == 200, one
                waiting.append((one, answer.text))
    return found
