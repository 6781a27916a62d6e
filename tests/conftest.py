"""Fixtures of all tests: a cache, the golden models, images, a server, processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.one_engine import use_one_engine

# Processes inherit both. Of the user's cache, tests use the engine only.
use_one_engine()
_CACHE = tempfile.mkdtemp(prefix="cnclip-tests-")
os.environ["CNCLIP_CACHE"] = _CACHE
# The language of reports and pages.
os.environ["LC_ALL"] = "C.UTF-8"
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
# On a busy machine, threads that spin while they wait take the cores from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The default number of threads depends on what else runs, and the last bits of some results on it.
if hasattr(os, "sched_getaffinity"):
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

from cnclip.pipelines import MultiModalEmbeddingPipeline, builder, pipeline  # noqa: E402
from tests.support.fork_server import ForkServer  # noqa: E402
from tests.support.http_server import LocalServer  # noqa: E402
from tests.support.opened_once import SharedEncoders  # noqa: E402

GOLDEN = Path(__file__).parent / "data" / "golden"
RUN_COMMANDS = {"bulk", "cli", "demo", "docs", "evaluate", "integrations", "search"}  # folders

Respond = Callable[[BaseHTTPRequestHandler], None]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes that are no short text after the argument: some, such as gzip's, contain the time.

    Processes that share the tests need the same names.
    """
    if not isinstance(val, bytes):
        return None
    is_short_text = len(val) <= 40 and val.isascii() and val.decode().isprintable()
    return None if is_short_text else argname


def pytest_unconfigure() -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the recorded results of ModelScope."""
    return GOLDEN


@pytest.fixture(scope="session")
def vit_directory() -> Path:
    """The checkpoint of a ViT with random weights."""
    return GOLDEN / "tiny-vit"


@pytest.fixture(scope="session")
def vit(vit_directory: Path) -> MultiModalEmbeddingPipeline:
    """A pipeline of that checkpoint, which is converted once for all tests."""
    return pipeline(model=vit_directory, device="cpu")


@pytest.fixture(scope="session")
def _shared_encoders() -> SharedEncoders:
    return SharedEncoders()


@pytest.fixture(autouse=True)
def _opened_once(
    request: pytest.FixtureRequest, _shared_encoders: SharedEncoders
) -> Iterator[None]:
    """Where most tests run commands, which open their model each, one encoder serves a file."""
    if request.path.parent.name not in RUN_COMMANDS:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_core", _shared_encoders)
        yield


@pytest.fixture(scope="session")
def archive(vit: MultiModalEmbeddingPipeline) -> Path:
    """The archive of tiny-vit. Read-only: copy it before changing it."""
    return vit.model.info.path


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """The golden texts, in the order of the rows of the recorded results."""
    loaded: list[str] = json.loads((GOLDEN / "cases" / "texts.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="session")
def image_paths() -> list[Path]:
    """The golden images, in the order of the rows of the recorded results."""
    names = np.load(GOLDEN / "tiny-vit.npz")["image_names"]
    return [GOLDEN / "cases" / "images" / str(name) for name in names]


@pytest.fixture
def photo() -> Image.Image:
    """An image of mode RGB, 223 x 225: larger than the input of the golden models."""
    with Image.open(GOLDEN / "cases" / "images" / "rgb_223x225.png") as image:
        image.load()
        return image


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new interpreter; its exit status must be 0 unless `check` is False."""

    def run(
        code: str,
        *arguments: object,
        check: bool = True,
        timeout: float = 120,
        flags: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *flags, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Runs code in new processes that need not import torch again."""
    server = ForkServer()
    yield server
    server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[[Respond], str]]:
    """Starts a local server that passes every GET request to a function; returns its URL."""
    servers: list[LocalServer] = []

    def start(respond: Respond) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = LocalServer(Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
