"""Fixtures of the tests of search."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cnclip import bulk, pipeline
from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.pipelines import MultiModalEmbeddingPipeline

GALLERY = asset_path("gallery")


@pytest.fixture(scope="session")
def embedder() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the gallery, as the command makes it."""
    path = tmp_path_factory.mktemp("gallery") / "gallery.index"
    assert main(["index", str(GALLERY), "-o", str(path), "--device", "cpu"]) == 0
    return path


@pytest.fixture
def embeddings(tmp_path: Path, embedder: MultiModalEmbeddingPipeline) -> Path:
    """Embeddings of forty images in three shards."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(GALLERY.glob("*.png"))[:40]:
        shutil.copy(path, photos)
    bulk.embed(photos, embedder, tmp_path / "out", bulk.EmbedOptions(shard_items=15))
    return tmp_path / "out"
