"""Rows of models that the cache of prepared models opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnclip import pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline

Rows = list[NDArray[np.float32]]


def rows(opened: MultiModalEmbeddingPipeline) -> Rows:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)
    found = opened.forward({"img": list(images), "text": ["猫", "一只狗在跑", ""]})
    return [found["img_embedding"], found["text_embedding"]]


def open_and_check(archive: Path, folder: Path, expected: Rows) -> Path:
    """Open the archive, check its rows, and return its file, the only one."""
    opened = pipeline(model=archive, device="cpu")
    for row, wanted in zip(rows(opened), expected, strict=True):
        np.testing.assert_array_equal(row, wanted)
    (file,) = folder.iterdir()
    return file
