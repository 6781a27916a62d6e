"""Clients against a server on a port: ours, OpenAI's, LangChain's, LlamaIndex's, immich's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.errors import (
    BusyError,
    DeadlineError,
    ImageError,
    InputTypeError,
    InvalidInputError,
    ServerError,
)
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("uvicorn", reason="uvicorn is not installed, cnclip's extra `serve`")
from cnclip.serve.client import AsyncClient, Client
from tests.support.api import CAT, listening, served_by

TEXTS = ["一只猫", "生日蛋糕", "雨天"]


@pytest.fixture(scope="module")
def url(embedder: MultiModalEmbeddingPipeline, gallery: Searchable) -> Iterator[str]:
    with listening(embedder, collections=(gallery,)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def want(embedder: MultiModalEmbeddingPipeline) -> Any:
    return embedder.forward({"text": TEXTS})["text_embedding"]


# Ours


def test_forward_returns_the_pipelines_arrays(
    url: str, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    images = [str(CAT), CAT, CAT.read_bytes(), array, Image.fromarray(array)]
    for input in (
        {"img": images, "text": TEXTS},
        {"text": "猫"},
        {"img": str(CAT), "text": None},
        {"img": [], "text": []},
        {"text": ["猫"] * 600},  # several requests
    ):
        with Client(url) as client:
            found = client.forward(input)
        output = embedder.forward(input)
        assert found.keys() == output.keys()
        for key, rows in output.items():
            if rows is None:
                assert found[key] is None
            else:
                assert found[key].dtype == np.float32 and found[key].shape == rows.shape
                assert np.abs(found[key] - rows).max(initial=0) < 2e-6


def test_async_client(url: str, want: Any) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(url, model="emoji-cn") as client:
            return await asyncio.gather(*(client.forward({"text": one}) for one in TEXTS))

    async def empty() -> Any:
        async with AsyncClient(url) as client:
            return await client.forward({"text": []})

    assert asyncio.run(empty())["text_embedding"].shape == (0, 128)
    rows = [one["text_embedding"][0] for one in asyncio.run(run())]
    assert np.abs(np.array(rows) - want).max() < 2e-6


def test_search_and_classify(url: str) -> None:
    with Client(url) as client:
        assert client.search("猫", k=3)[0]["caption"] == "猫"
        assert client.search(image=CAT, k=1)[0]["caption"] == "猫"
        assert next(iter(client.classify(CAT, ["狗", "猫"]))) == "猫"
        assert client.models()[0]["id"] == "emoji-cn"


def test_errors_name_the_item(url: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with Client(url) as client:
        with pytest.raises(ImageError, match=r"^img\[1\]: .*cannot be read"):
            client.forward({"img": [CAT, bad], "text": ["猫"]})
        with pytest.raises(ImageError, match=r"^text\[300\]: expected a text"):
            client.forward({"text": ["猫"] * 300 + [""]})
        with pytest.raises(ImageError, match=r"img\[0\]: .*gone.png"):
            client.forward({"img": [tmp_path / "gone.png"]})
        with pytest.raises(InputTypeError):
            client.forward({"text": 3})
        with pytest.raises(InputTypeError, match=r"image: expected an image, .* got float"):
            client.classify(2.5, ["狗", "猫"])  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="k"):
            client.search("猫", k=100_000)
    with Client(url, model="nobody") as client, pytest.raises(InvalidInputError, match="no model"):
        client.forward({"text": "猫"})


def test_servers_that_cannot_be_used(embedder: MultiModalEmbeddingPipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServerError, match="reached"):
        client.forward({"text": "猫"})
    with listening(embedder, keys=("key",), max_bytes=1 << 16) as (address, _):
        with Client(address) as client, pytest.raises(InvalidInputError, match="key is missing"):
            client.forward({"text": "猫"})
        with Client(address, api_key="key") as client:
            assert client.forward({"text": "猫"})["text_embedding"].shape == (1, 128)
            with pytest.raises(BusyError) as caught:
                client.forward({"img": [b"x" * 100_000]})
            assert caught.value.retry_after >= 1


@pytest.mark.parametrize("content", [b"<html>Bad Gateway</html>", b"[]", b'{"error": "no"}'])
def test_answers_of_a_proxy(content: bytes, serve: Any) -> None:
    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(502)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    with (
        Client(serve(respond)) as client,
        pytest.raises(ServerError, match="the server answered with 502"),
    ):
        client.models()


def test_a_server_that_does_not_answer_in_time(serve: Any) -> None:
    with (
        Client(serve(lambda request: time.sleep(1)), timeout=0.1) as client,
        pytest.raises(DeadlineError, match="did not answer in time"),
    ):
        client.models()


# OpenAI's, and those that are built on it


def test_openai(url: str, want: Any) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for options in ({}, {"encoding_format": "float"}, {"dimensions": 128}):
            answer = client.embeddings.create(model="emoji-cn", input=TEXTS, **options)
            rows = np.array([one.embedding for one in answer.data])
            assert np.abs(rows - want).max() < 2e-6
        assert answer.usage.total_tokens > 0
        assert [one.id for one in client.models.list()] == ["emoji-cn"]
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="emoji-cn", input=["猫", ""])
        assert caught.value.param == "input[1]" and caught.value.code == "invalid_item"
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="text-embedding-3-small", input="猫")


def test_langchain(url: str, want: Any) -> None:
    module = pytest.importorskip("langchain_openai")
    settings = {"model": "emoji-cn", "base_url": f"{url}/v1", "api_key": "none"}
    embeddings = module.OpenAIEmbeddings(check_embedding_ctx_length=False, **settings)
    assert np.abs(np.array(embeddings.embed_documents(TEXTS)) - want).max() < 2e-6


def test_llama_index(url: str, want: Any) -> None:
    module = pytest.importorskip("llama_index.embeddings.openai_like")
    embeddings = module.OpenAILikeEmbedding("emoji-cn", api_base=f"{url}/v1", api_key="none")
    rows = np.array(embeddings.get_text_embedding_batch(TEXTS))
    assert np.abs(rows - want).max() < 2e-6


# immich's


def test_immich(embedder: MultiModalEmbeddingPipeline, want: Any) -> None:
    def entries(kind: str, task: str = "clip") -> str:
        return json.dumps(
            {task: {kind: {"modelName": "XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k"}}}
        )

    def predict(client: Any, image: bytes | None = None, **fields: str) -> Any:
        form: Any = {name: (None, value) for name, value in fields.items()}
        return client.post("/predict", files=form if image is None else {**form, "image": image})

    with served_by(embedder, immich=True) as (client, _):
        assert client.get("/ping").text == "pong"
        answer = predict(client, entries=entries("textual"), text=TEXTS[0]).json()
        assert np.abs(np.array(json.loads(answer["clip"])) - want[0]).max() < 2e-6
        answer = predict(client, CAT.read_bytes(), entries=entries("visual")).json()
        row = embedder.forward({"img": CAT.read_bytes()})["img_embedding"][0]
        assert np.abs(np.array(json.loads(answer["clip"])) - row).max() < 2e-6
        with Image.open(CAT) as image:
            assert (answer["imageWidth"], answer["imageHeight"]) == image.size
        for data, status in (
            ({"entries": entries("textual")}, 400),
            ({"entries": entries("recognition", "facial-recognition"), "text": "a"}, 400),
            ({"entries": "{", "text": "a"}, 422),
            ({"entries": "[]", "text": "a"}, 422),
            ({"text": "a"}, 422),
        ):
            assert predict(client, **data).status_code == status, data
        assert predict(client, b"x", entries=entries("visual")).status_code == 400
    with served_by(embedder) as (client, _):
        assert client.get("/ping").status_code == 404


# Connections


def test_clients_that_go_away(url: str) -> None:
    """Their requests are dropped, and the next one is answered."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"input": ["猫" * 50] * 2000}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    for sent in (b"", head[:20], head, head + body[:1000], head + body):
        for _ in range(4):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
    with Client(url) as client:
        assert client.forward({"text": "猫"})["text_embedding"].shape == (1, 128)


def test_announced_bodies_take_no_room(embedder: MultiModalEmbeddingPipeline) -> None:
    with listening(embedder, max_bytes=1 << 20) as (address, _), contextlib.ExitStack() as stack:
        host, port = address.removeprefix("http://").split(":")
        for _ in range(5):
            connection = socket.create_connection((host, int(port)))
            stack.enter_context(connection)
            connection.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
            )
        with Client(address) as client:
            assert client.forward({"text": "猫"})["text_embedding"].shape == (1, 128)


def test_many_callers_at_once(url: str, want: Any) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Client(url) as client:
                for _ in range(5):
                    rows = client.forward({"text": TEXTS})["text_embedding"]
                    assert np.abs(rows - want).max() < 2e-6
                    with pytest.raises(ImageError):
                        client.forward({"img": [b"no image"]})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(16)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and time.monotonic() - begun < 60
