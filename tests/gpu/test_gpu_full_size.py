"""A ViT-B-16 with random weights on a GPU, compared with the CPU in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from tests.support.answers import MIN_COSINE, Rows, cosines

BATCHES = [1, 2, 3, 16, 17, 200]
# Differences of a row in batches of different sizes, for which the GPU's library chooses other
# kernels: the order of sums differs, and with it roundings to the precision.
BATCH_TOLERANCE = {"fp32": 2e-6, "bf16": 5e-3, "fp16": 5e-4}


@pytest.fixture(scope="module", params=MIN_COSINE)
def on_gpu(request: pytest.FixtureRequest, large_archive: Path) -> MultiModalEmbeddingPipeline:
    return pipeline(model=large_archive, device="cuda:0", precision=request.param)


@pytest.fixture(scope="module")
def image_rows(
    large_on_cpu: MultiModalEmbeddingPipeline, different_images: list[Image.Image]
) -> Rows:
    rows: Rows = large_on_cpu.forward({"img": different_images}, batch_size=32)["img_embedding"]
    return rows


@pytest.fixture(scope="module")
def text_rows(large_on_cpu: MultiModalEmbeddingPipeline, different_texts: list[str]) -> Rows:
    rows: Rows = large_on_cpu.forward({"text": different_texts})["text_embedding"]
    return rows


def check(found: Rows, expected: Rows, precision: str) -> None:
    """Rows are near the CPU's, and each is nearest to that of the same item.

    Rows of random weights are similar; so each is compared after the mean is subtracted, too.
    """
    middle = expected.mean(0) if len(expected) > 3 else 0
    least = cosines(found, expected).min()
    centred = cosines(found - middle, expected - middle).min()
    difference = np.abs(found - expected).max()
    print(
        f"{precision}: least cosine {least:.7f}, of centred rows {centred:.7f}, "
        f"largest difference {difference:.1e}"
    )
    assert least >= MIN_COSINE[precision]
    nearest = (found.astype(np.float64) @ expected.T).argmax(1)
    assert np.array_equal(nearest, np.arange(len(found)))


def test_images(
    on_gpu: MultiModalEmbeddingPipeline, different_images: list[Image.Image], image_rows: Rows
) -> None:
    precision = on_gpu.model.precision
    found = {
        size: on_gpu.forward({"img": different_images}, batch_size=size)["img_embedding"]
        for size in BATCHES
    }
    for rows in found.values():
        check(rows, image_rows, precision)
    spread = max(np.abs(rows - found[200]).max() for rows in found.values())
    print(f"{precision}: images, largest difference between batch sizes {spread:.1e}")
    assert spread <= BATCH_TOLERANCE[precision]


@pytest.mark.parametrize("count", BATCHES)
def test_so_many_images(
    on_gpu: MultiModalEmbeddingPipeline,
    different_images: list[Image.Image],
    image_rows: Rows,
    count: int,
) -> None:
    found = on_gpu.forward({"img": different_images[:count]}, batch_size=256)["img_embedding"]
    check(found, image_rows[:count], on_gpu.model.precision)
    again = on_gpu.forward({"img": different_images[:count]}, batch_size=256)["img_embedding"]
    assert np.array_equal(found, again)


def test_texts(
    on_gpu: MultiModalEmbeddingPipeline, different_texts: list[str], text_rows: Rows
) -> None:
    """Texts of all lengths, in calls of 1 to 300 and in batches of several sizes."""
    precision = on_gpu.model.precision
    lengths = (on_gpu.preprocess({"text": different_texts})["text"] != 0).sum(1)
    assert set(lengths) == set(range(3, 53))
    whole = on_gpu.forward({"text": different_texts})["text_embedding"]
    check(whole, text_rows, precision)
    spread = 0.0
    for size in (1, 2, 3, 16, 17, 64, 300):
        rows = on_gpu.forward({"text": different_texts}, batch_size=size)["text_embedding"]
        check(rows, text_rows, precision)
        spread = max(spread, float(np.abs(rows - whole).max()))
    for count in (1, 2, 3, 17, 64, 120, 299):
        rows = on_gpu.forward({"text": different_texts[:count]})["text_embedding"]
        check(rows, text_rows[:count], precision)
        spread = max(spread, float(np.abs(rows - whole[:count]).max()))
    print(f"{precision}: texts, largest difference between batches {spread:.1e}")
    assert spread <= BATCH_TOLERANCE[precision]


def test_the_shortest_and_the_longest_texts(
    on_gpu: MultiModalEmbeddingPipeline, large_on_cpu: MultiModalEmbeddingPipeline
) -> None:
    for texts in ([""], ["", "猫"], ["猫" * 50] * 70, ["", "猫" * 500, "狗"] * 40):
        expected = large_on_cpu.forward({"text": texts})["text_embedding"]
        found = on_gpu.forward({"text": texts})["text_embedding"]
        assert cosines(found, expected).min() >= MIN_COSINE[on_gpu.model.precision]


def test_no_items(on_gpu: MultiModalEmbeddingPipeline) -> None:
    found = on_gpu.forward({"img": [], "text": []})
    assert [rows.shape for rows in found.values()] == [(0, 512), (0, 512)]
