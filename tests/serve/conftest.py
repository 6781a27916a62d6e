"""Fixtures of the tests of serve."""

from __future__ import annotations

import pytest

from cnclip import pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable, open_gallery


@pytest.fixture(scope="session")
def embedder() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture(scope="session")
def gallery(embedder: MultiModalEmbeddingPipeline) -> Searchable:
    return open_gallery(embedder)
