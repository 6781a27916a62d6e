"""Fixtures of the tests of plug-ins."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cnclip import pipeline
from cnclip.assets import asset_path
from cnclip.pipelines import MultiModalEmbeddingPipeline

TEXTS = ["猫", "狗", "汽车"]
Rows = NDArray[np.float32]


@pytest.fixture(scope="session")
def model() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture(scope="session")
def images() -> list[str]:
    """Images of the texts."""
    return [str(asset_path("gallery") / f"{code}.png") for code in ("1f408", "1f415", "1f697")]


@pytest.fixture(scope="session")
def image_rows(model: MultiModalEmbeddingPipeline, images: list[str]) -> Rows:
    rows: Rows = model.forward({"img": images})["img_embedding"]
    return rows


@pytest.fixture(scope="session")
def text_rows(model: MultiModalEmbeddingPipeline) -> Rows:
    rows: Rows = model.forward({"text": TEXTS})["text_embedding"]
    return rows


@pytest.fixture(params=["open", "name"])
def named(request: pytest.FixtureRequest, model: MultiModalEmbeddingPipeline) -> object:
    """The model, open or by its name."""
    return model if request.param == "open" else "emoji-cn"


@pytest.fixture
def copied_model(tmp_path: Path) -> Path:
    """A copy of the model's directory, which a test may change."""
    return Path(shutil.copytree(asset_path("emoji-cn"), tmp_path / "copied"))
