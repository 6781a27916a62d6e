"""Fixtures of the tests of bulk embedding."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cnclip import bulk, pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline
from tests.support.bulk import (
    GALLERY,
    Embed,
)


@pytest.fixture(scope="session")
def model() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture
def some() -> list[Path]:
    """A few images."""
    return sorted(GALLERY.glob("*.png"))[:20]


@pytest.fixture
def photos(tmp_path: Path, some: list[Path]) -> Path:
    """A folder with them, five in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for number, path in enumerate(some):
        shutil.copy2(path, folder / ("inner" if number < 5 else "") / path.name)
    return folder


@pytest.fixture
def embed(model: MultiModalEmbeddingPipeline, tmp_path: Path) -> Embed:
    """Embeds to `out`, in small shards."""

    def embed(sources: Any, **options: Any) -> bulk.EmbedReport:
        output = options.pop("output", tmp_path / "out")
        options = {"shard_items": 8, "batch_size": 4, **options}
        return bulk.embed(sources, model, output, bulk.EmbedOptions(**options))

    return embed
