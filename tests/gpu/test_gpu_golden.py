"""The numbers of ModelScope on a GPU, on both golden models, in each precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from tests.support.answers import MIN_COSINE, Rows, cosines

TOLERANCE = 2e-5
MODELS = ["tiny-vit", "tiny-rn"]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, golden: Path) -> Path:
    return golden / str(request.param)


@pytest.fixture(scope="module")
def answers(model: Path) -> dict[str, Any]:
    return dict(np.load(model.with_name(f"{model.name}.npz")))


@pytest.fixture(scope="module")
def images(image_paths: list[Path]) -> list[Image.Image]:
    """Open images: they are not turned by their EXIF orientation, as in the recorded results."""
    opened = []
    for path in image_paths:
        with Image.open(path) as image:
            image.load()
            opened.append(image)
    return opened


@pytest.fixture(scope="module", params=MIN_COSINE)
def on_gpu(request: pytest.FixtureRequest, model: Path) -> MultiModalEmbeddingPipeline:
    return pipeline(model=model, device="cuda:0", precision=request.param)


def check(found: Rows, expected: Rows, precision: str) -> None:
    least, difference = cosines(found, expected).min(), np.abs(found - expected).max()
    print(f"{precision}: least cosine {least:.7f}, largest difference {difference:.1e}")
    assert found.dtype == np.float32
    assert least >= MIN_COSINE[precision]
    if precision == "fp32":
        assert difference <= TOLERANCE


def test_towers(
    on_gpu: MultiModalEmbeddingPipeline, answers: dict[str, Any], texts: list[str]
) -> None:
    """From the recorded pixels, whatever this machine's decoders make of the files."""
    precision = on_gpu.model.precision
    pixels = on_gpu.model.encoder.encode_pixels(answers["pixels"])
    check(pixels, answers["img_embedding"], precision)
    check(on_gpu.forward({"text": texts})["text_embedding"], answers["text_embedding"], precision)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
def test_open_images(
    on_gpu: MultiModalEmbeddingPipeline,
    answers: dict[str, Any],
    images: list[Image.Image],
    texts: list[str],
    batch_size: int | None,
) -> None:
    found = on_gpu.forward({"img": images, "text": texts}, batch_size=batch_size)
    precision = on_gpu.model.precision
    check(found["img_embedding"], answers["img_embedding"], precision)
    check(found["text_embedding"], answers["text_embedding"], precision)
    for rows in found.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=1e-6)


def test_files(on_gpu: MultiModalEmbeddingPipeline, model: Path, image_paths: list[Path]) -> None:
    """Files are opened as ModelScope's `load_image` does, on a GPU as on the CPU."""
    expected = pipeline(model=model, device="cpu").forward({"img": image_paths})["img_embedding"]
    found = on_gpu.forward({"img": image_paths})["img_embedding"]
    check(found, expected, on_gpu.model.precision)


def test_pixels_are_equal_to_the_bit(
    on_gpu: MultiModalEmbeddingPipeline, images: list[Image.Image]
) -> None:
    """The rows are those of the pixels that the CPU prepares: 8-bit values that a GPU normalises
    have the same bits."""
    side = on_gpu.model.info.resolution
    values = np.arange(side * side * 3, dtype=np.uint32).reshape(side, side, 3)
    every_byte = Image.fromarray(((values * 7 + values // 256) % 256).astype(np.uint8))
    assert all(set(np.asarray(every_byte)[..., c].ravel()) == set(range(256)) for c in range(3))
    given = [*images, every_byte]
    pixels = on_gpu.preprocess({"img": given})["img"]
    for size in (1, 5, len(given)):
        found = on_gpu.forward({"img": given}, batch_size=size)["img_embedding"]
        parts = [pixels[start : start + size] for start in range(0, len(given), size)]
        expected = np.concatenate([on_gpu.model.encoder.encode_pixels(part) for part in parts])
        assert np.array_equal(found, expected), size
