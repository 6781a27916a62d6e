"""Servers for the tests of the HTTP interface: in this process, or on a port."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from starlette.testclient import TestClient

from cnclip.assets import asset_path
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable
from cnclip.serve.application import build_app
from cnclip.serve.options import Keys, ServerOptions
from cnclip.serve.served import Served

CAT = asset_path("gallery") / "1f408.png"


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


@contextlib.contextmanager
def callers(
    url: str, *acts: Callable[[Any], None], timeout: float
) -> Iterator[list[BaseException]]:
    """Threads that call `act(client)` again and again, one for each act, until the context ends.

    An error ends its thread, is in the list, and fails the test at the end. So does a thread that
    does not end.
    """
    ended, failures = threading.Event(), list[BaseException]()

    def repeat(act: Callable[[Any], None]) -> None:
        try:
            with httpx.Client(base_url=url, timeout=timeout) as client:
                while not ended.is_set():
                    act(client)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        ended.set()
        for thread in threads:
            thread.join(2 * timeout)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures


@contextlib.contextmanager
def served_by(
    *pipelines: MultiModalEmbeddingPipeline,
    collections: tuple[Searchable, ...] = (),
    keys: tuple[str, ...] = (),
    is_open: bool = True,
    local: bool = True,
    immich: bool = False,
    root_path: str = "",
    tracing: Any = None,
    **options: Any,
) -> Iterator[tuple[TestClient, Served]]:
    """A client of an application in this process, and what it serves."""
    served = Served(ServerOptions(**options))
    if is_open:
        served.add(pipelines, collections)
    app = build_app(
        served,
        Keys(list(keys)),
        local=local,
        for_immich=immich,
        root_path=root_path,
        tracing=tracing,
    )
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        try:
            yield client, served
        finally:
            served.close()


@contextlib.contextmanager
def listening(
    *pipelines: MultiModalEmbeddingPipeline,
    collections: tuple[Searchable, ...] = (),
    keys: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[tuple[str, Served]]:
    """The URL of a server on a thread of this process, and what it serves."""
    import uvicorn

    served = Served(ServerOptions(**options))
    served.add(pipelines, collections)
    app = build_app(served, Keys(list(keys)), local=True)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", served
    finally:
        server.should_exit = True
        thread.join(20)
        served.close()
        listener.close()
