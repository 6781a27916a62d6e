"""Fixtures that the tests of checkpoints share."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.small_vit import TEXT, VISION, Make, Weights, random_weights, write_directory


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a model directory of the small ViT; see `write_directory`."""
    return functools.partial(write_directory, tmp_path)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(VISION, TEXT)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    return Image.fromarray(noise)
