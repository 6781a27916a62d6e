"""resize='gpu': the pixels and rows of a GPU that resizes are those of the CPU, to the bit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def resizing(large_archive: Path, request: pytest.FixtureRequest) -> MultiModalEmbeddingPipeline:
    return pipeline(model=large_archive, device="cuda:0", precision=request.param, resize="gpu")


def noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_pixels_equal(opened: MultiModalEmbeddingPipeline, images: list[Any]) -> None:
    expected = opened.preprocessor.image_processor.resize(images)
    np.testing.assert_array_equal(opened.model.encoder.resize(images), expected)


# Height, width: one pixel, rows and columns of one pixel, sides that are right already, twice as
# many rows lost as columns, enlarged.
SIZES = [(1, 1), (1, 4000), (4000, 1), (224, 224), (224, 900), (900, 224), (223, 225), (225, 223)]
SIZES += [(264, 244), (265, 244), (500, 7), (7, 500), (640, 480), (480, 640), (3, 2), (5000, 333)]


def test_pixels_of_odd_sizes(resizing: MultiModalEmbeddingPipeline) -> None:
    arrays = [noise(seed, *size) for seed, size in enumerate(SIZES)]
    assert_pixels_equal(resizing, arrays)
    assert_pixels_equal(resizing, [Image.fromarray(array) for array in arrays])
    assert_pixels_equal(resizing, [array[::-1, ::-1] for array in arrays])


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (4000, 3000), (9000, 1000), (9, 4**9)])
def test_an_image_larger_than_a_piece(
    resizing: MultiModalEmbeddingPipeline, height: int, width: int
) -> None:
    """Also where Pillow has it in several blocks."""
    array = noise(1, height, width)
    assert_pixels_equal(resizing, [array, Image.fromarray(array), noise(2, 30, 40)])


def test_rows_of_batches_of_all_sizes(
    resizing: MultiModalEmbeddingPipeline, large_archive: Path, different_images: list[Image.Image]
) -> None:
    model = resizing.model
    on_cpu = pipeline(model=large_archive, device="cuda:0", precision=model.precision)
    gray = [image.convert("L") for image in different_images[:7]]
    images = [*different_images, *gray, noise(3, 2000, 2500), np.zeros((1, 1, 3), np.uint8)]
    for batch_size in (1, 5, 256):
        expected = on_cpu.forward({"img": images}, batch_size)["img_embedding"]
        found = resizing.forward({"img": images}, batch_size)["img_embedding"]
        np.testing.assert_array_equal(found, expected)


def test_threads_that_resize(resizing: MultiModalEmbeddingPipeline) -> None:
    processor, encoder = resizing.preprocessor.image_processor, resizing.model.encoder
    random = np.random.default_rng(4)
    sizes = np.exp(random.uniform(0, 7.2, (300, 2))).astype(int)
    arrays = [noise(seed, *size) for seed, size in enumerate(sizes)]
    with ThreadPoolExecutor(16) as pool:
        results = pool.map(encoder.resize, [[array] for array in arrays])
        for array, found in zip(arrays, results, strict=True):
            np.testing.assert_array_equal(found, processor.resize([array]))


OUT_OF_MEMORY = """
import sys
import numpy as np, torch
from cnclip.errors import OutOfMemoryError
from cnclip.pipelines import pipeline

opened = pipeline(model=sys.argv[1], device="cuda:0", resize="gpu", num_threads=1)
images = [np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8)]
torch.cuda.empty_cache()
free = torch.cuda.mem_get_info()[0]
taken = [torch.empty(free - (24 << 20), dtype=torch.uint8, device="cuda")]
try:
    while True:
        taken.append(torch.empty(2 << 20, dtype=torch.uint8, device="cuda"))
except torch.OutOfMemoryError:
    pass
try:
    opened.forward({"img": images})
except OutOfMemoryError as error:
    print(error)
taken.clear()
torch.cuda.empty_cache()
found = opened.forward({"img": images})["img_embedding"]
expected = pipeline(model=sys.argv[1], device="cuda:0").forward({"img": images})["img_embedding"]
np.testing.assert_array_equal(found, expected)
print("recovered")
"""


def test_memory_that_ends_on_a_gpu_that_resizes(run_python: Run, archive: Path) -> None:
    lines = run_python(OUT_OF_MEMORY, archive).stdout.splitlines()
    assert lines[0].startswith("img[0]: no memory on cuda:0 to resize an image: end other programs")
    assert lines[-1] == "recovered"
