"""`Encoder.resize`: what the core gives an engine that resizes, and its errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import _core, errors
from cnclip.archive import read_archive
from cnclip.engine.build import SOURCES
from cnclip.pipelines import MultiModalEmbeddingPipeline


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> _core.Engine:
    library = tmp_path_factory.mktemp("engine") / "resizing_engine.so"
    source = Path(__file__).with_name("resizing_engine.c")
    command = [os.environ.get("CC", "cc"), "-std=c11", "-shared", "-fPIC", f"-I{SOURCES}"]
    subprocess.run([*command, source, "-o", library], check=True)
    return _core.Engine(library)


def encoder_of(engine: _core.Engine, archive: Path, **options: Any) -> _core.Encoder:
    tokenizer = _core.Tokenizer(read_archive(archive).vocabulary)
    return _core.Encoder(engine, archive, tokenizer, 64, 52, **options)


@pytest.fixture
def encoder(engine: _core.Engine, archive: Path) -> _core.Encoder:
    processor = _core.ImageProcessor(32)  # which the encoder keeps
    return encoder_of(engine, archive, device="cuda:0", image_processor=processor, resizes=True)


# Width, height; the last is in several blocks of Pillow's.
SIZES = [
    (1, 1),
    (200, 1),
    (1, 200),
    (32, 32),
    (32, 90),
    (90, 32),
    (52, 73),
    (640, 480),
    (2100, 2100),
]


def test_an_encoder_resizes_as_an_image_processor(encoder: _core.Encoder) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SIZES]
    images = [*arrays, *map(Image.fromarray, arrays), *(array[::-1, ::-1] for array in arrays)]
    expected = _core.ImageProcessor(32).resize(images)
    assert np.array_equal(encoder.resize(images), expected)
    out = np.empty_like(expected)
    assert encoder.resize(images, out=out) is out
    assert np.array_equal(out, expected)
    assert encoder.resize([]).shape == (0, 32, 32, 4)


def test_errors_of_an_encoder_that_resizes(encoder: _core.Encoder) -> None:
    good = np.zeros((5, 5, 3), np.uint8)
    with pytest.raises(MemoryError, match=r"^img\[1\]: out of memory for it$"):
        encoder.resize([good, np.zeros((5, 13, 3), np.uint8)])
    with pytest.raises(errors.InvalidInputError, match=r"^img\[2\]: an image of 5 x 0 has no pix"):
        encoder.resize([good, good, np.zeros((0, 5, 3), np.uint8)])
    with pytest.raises(errors.InvalidInputError, match="out: expected a contiguous uint8 array"):
        encoder.resize([good], out=np.zeros((1, 3, 32, 32), np.uint8))


def test_an_encoder_that_cannot_resize(
    engine: _core.Engine, archive: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    processor = _core.ImageProcessor(32)
    with pytest.raises(errors.InvalidInputError, match="^resizes: requires a GPU and an image_pro"):
        encoder_of(engine, archive, image_processor=processor, resizes=True)
    with pytest.raises(errors.InvalidInputError, match="^resizes: requires a GPU and an image_pro"):
        encoder_of(engine, archive, device="cuda:0", resizes=True)
    with pytest.raises(errors.InvalidInputError, match="^resize: requires an encoder with resizes"):
        vit.model.encoder.resize([np.zeros((5, 5, 3), np.uint8)])
    with pytest.raises(errors.DeviceError, match="^it only resizes$"):
        encoder_of(engine, archive, device="cuda:0", image_processor=processor)
