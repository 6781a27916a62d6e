"""Target: requests to the server, to the application itself, without a socket."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

import numpy as np

from cnclip import pipeline
from cnclip.bulk import model_identity
from cnclip.search import Index
from cnclip.serve import Searchable
from cnclip.serve.application import build_app
from cnclip.serve.options import Keys, ServerOptions, limit_images
from cnclip.serve.served import Served
from tests.fuzz.fuzz_target import Finding, Target, split_choice
from tests.support.layouts import IMAGES

_BOUNDARY = b"multipart/form-data; boundary=b"
_PATHS = ("/v1/embeddings", "/v1/search", "/v1/classify", "/v1/tokenize", "/predict")
_KINDS = (b"application/json", _BOUNDARY, b"image/png", b"application/json; charset=utf-8")
# Queries of GET, which have no body: the input is what follows the question mark.
_QUERIES = ("/v1/sample", "/v1/thumbnail", "/v1/models", "/v1/collections")


@cache
def _application() -> tuple[Any, asyncio.AbstractEventLoop]:
    limit_images()  # as each server does
    embedder = pipeline(model="emoji-cn", device="cpu", num_threads=1)
    columns = embedder.model.info.embed_dim
    index = Index.create(columns, model=model_identity(embedder), temperature=0.01)
    index.add(np.eye(3, columns, dtype=np.float32), ["/none/1.png", "/none/2.png", "图"])
    served = Served(ServerOptions())
    served.add((embedder,), (Searchable("some", index, embedder),))
    return build_app(served, Keys([]), local=True, for_immich=True), asyncio.new_event_loop()


async def _answer(scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """The status and the body that the application answers."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []
    waiting = asyncio.Event()

    async def receive() -> Any:
        if not messages:
            await waiting.wait()
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await _application()[0](scope, receive, send)
    content = b"".join(one.get("body", b"") for one in sent)
    return sent[0]["status"], content


def _request(content: bytes) -> None:
    method, rest = split_choice(content, ("POST", "POST", "POST", "GET"))
    path, rest = split_choice(rest, _PATHS if method == "POST" else _QUERIES)
    kind, rest = split_choice(rest, _KINDS)
    query, body = (b"", rest) if method == "POST" else (rest, b"")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", kind)],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }
    status, answer = _application()[1].run_until_complete(_answer(scope, body))
    if status >= 500:
        raise Finding(f"{method} {path}: {status} {answer[:200]!r}")
    if status >= 400 and "message" not in json.loads(answer)["error"]:
        raise Finding(f"{method} {path}: {status} without a message")


def _form(*parts: tuple[bytes, bytes]) -> bytes:
    lines = [b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % part for part in parts]
    return b"".join(lines) + b"--b--\r\n"


def _requests() -> list[bytes]:
    image = IMAGES[100]
    file = (b'name="file"; filename="a.png"', image)
    return [
        b"\0\0\0" + b'{"input": ["a", {"text": "b"}], "encoding_format": "base64"}',
        b"\0\0\0" + b'{"input": "data:image/png;base64,AAAA", "modality": "image"}',
        b"\0\0\0" + b'{"messages": [{"content": [{"type": "text", "text": "a"}]}]}',
        b"\0\0\1" + _form(file, (b'name="on_error"', b"item")),
        b"\0\0\2" + image,
        b"\0\1\0" + b'{"text": "a", "k": 2, "offset": 1, "threshold": 0.5, "weight": 0.1}',
        b"\0\1\0" + '{"like": "图", "collection": "some"}'.encode(),
        b"\0\1\1" + _form(file, (b'name="text"', "猫".encode())),
        b"\0\2\0" + b'{"image": "AAAA", "labels": ["a", "b"], "templates": ["{} x"]}',
        b"\0\2\1" + _form(file, (b'name="labels"', b"a"), (b'name="labels[]"', b"b")),
        b"\0\3\3" + b'{"input": ["a", "b"], "normalize": true}',
        b"\0\4\1"
        + _form(
            (b'name="entries"', b'{"clip": {"textual": {"modelName": "x"}}}'),
            (b'name="text"', b"a"),
        ),
        b"\0\4\1"
        + _form(
            (b'name="entries"', b'{"clip": {"visual": {"modelName": "x"}}}'),
            (b'name="image"; filename="a"', image),
        ),
        b"\3\0\0count=3&collection=some&seed=1",
        b"\3\1\0id=%2Fnone%2F1.png&collection=some&size=32",
    ]


TARGETS = {"server": Target(_request, _requests)}
