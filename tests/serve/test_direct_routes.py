"""Routes that are called without FastAPI answer as they do through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cnclip.errors import OutOfMemoryError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
from fastapi import FastAPI

from tests.support.api import CAT, as_base64, served_by

PNG = as_base64(CAT.read_bytes())


@pytest.fixture(scope="module")
def through_fastapi(embedder: MultiModalEmbeddingPipeline, gallery: Searchable) -> Iterator[object]:
    """A client of an application that is traced: all of its requests go through FastAPI."""
    with served_by(embedder, collections=(gallery,), tracing=lambda app: None) as (client, _):
        yield client


@pytest.mark.parametrize(
    ("method", "path", "arguments"),
    [
        ("POST", "/v1/embeddings", {"json": {"input": ["猫", {"image": PNG}]}}),
        ("POST", "/v1/embeddings", {"json": {"input": ["猫", ""]}}),
        ("POST", "/v1/embeddings", {"json": {"input": 3}}),
        ("POST", "/v1/embeddings", {"content": "{"}),
        ("POST", "/v1/embeddings", {"content": "a", "headers": {"Content-Type": "text/plain"}}),
        ("POST", "/v1/search", {"json": {"text": "猫", "k": 2}}),
        ("POST", "/v1/search", {"json": {"like": "nothing"}}),
        ("POST", "/v1/classify", {"json": {"image": PNG, "labels": ["猫", "狗"]}}),
        ("POST", "/v1/tokenize", {"json": {"input": "猫"}}),
        ("GET", "/v1/collections", {}),
        ("HEAD", "/v1/collections", {}),
        ("GET", "/readyz", {}),
        ("GET", "/v1/embeddings", {}),
        ("PUT", "/v1/search", {}),
        ("POST", "/v1/nothing", {}),
    ],
)
def test_answers_are_equal(
    api: Any, through_fastapi: Any, method: str, path: str, arguments: Any
) -> None:
    found, want = (client.request(method, path, **arguments) for client in (api, through_fastapi))
    assert (found.status_code, found.content) == (want.status_code, want.content)
    names = {"x-request-id"}
    assert {k: v for k, v in found.headers.items() if k not in names} == {
        k: v for k, v in want.headers.items() if k not in names
    }


@pytest.mark.parametrize(
    ("error", "status"), [(OutOfMemoryError("x"), 503), (MemoryError(), 503), (KeyError(), 500)]
)
def test_unexpected_errors(
    api: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("cnclip.serve.embeddings._answer", fail)
    assert api.post("/v1/embeddings", json={"input": "猫"}).status_code == status


def test_fastapi_is_not_called(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(FastAPI, "__call__", fail)
    assert api.post("/v1/embeddings", json={"input": "猫"}).status_code == 200
    assert api.get("/v1/sample").status_code == 500
