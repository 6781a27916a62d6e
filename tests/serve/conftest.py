"""Fixtures of the tests of serve."""

from __future__ import annotations

from collections.abc import Iterator

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
