"""Images of a call: every mode, arrays, damaged files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import errors
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors import CLIPPreprocessor
from tests.support.answers import rows
from tests.support.twins.image import pillow_tensor

ODD_MODES = "1 L LA La P PA RGBA RGBa RGBX CMYK YCbCr HSV LAB I I;16 I;16L I;16B F".split()


def image_of_mode(mode: str, photo: Image.Image) -> Image.Image:
    """The photograph in a mode, with an alpha channel that is not everywhere full."""
    gray = photo.convert("L")
    if mode.startswith("I;16"):
        values = np.asarray(gray).astype(np.uint16) * 257
        content = values.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
        return Image.frombytes(mode, photo.size, content)
    if mode == "LA":
        return Image.merge("LA", [gray, gray])
    if mode == "La":
        return image_of_mode("LA", photo).convert("La")
    if mode == "PA":
        return photo.quantize(17).convert("PA")
    if mode in ("RGBA", "RGBa"):
        return Image.merge("RGBA", [*photo.split(), gray]).convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", photo.split())
    return photo.convert(mode)


@pytest.mark.parametrize("mode", ODD_MODES)
def test_images_of_every_mode(
    vit: MultiModalEmbeddingPipeline, photo: Image.Image, mode: str
) -> None:
    try:
        image = image_of_mode(mode, photo)
        expected = pillow_tensor(image, 32)
    except ValueError as error:
        # Pillow cannot make or convert it: then we say so.
        with pytest.raises(errors.ImageError, match=r"img\[0\]: cannot be read as an image"):
            vit.preprocess({"img": Image.new(mode, (9, 9))})
        assert mode in ("LAB", "La"), error
        return
    assert image.mode == mode
    assert np.array_equal(vit.preprocess({"img": image})["img"][0], expected)
    assert np.isfinite(rows(vit.forward({"img": [photo, image]}))).all()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_images_without_pixels(
    vit: MultiModalEmbeddingPipeline, size: tuple[int, int], mode: str
) -> None:
    with pytest.raises(errors.InvalidInputError, match=r"img\[1\]: an image without pixels"):
        vit.forward({"img": [Image.new("RGB", (3, 3)), Image.new(mode, size)]})


def test_a_image_over_several_blocks_of_memory(vit: MultiModalEmbeddingPipeline) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2300, 2000, 3), np.uint8)
    image = Image.fromarray(noise)
    expected = pillow_tensor(image, 32)
    assert np.array_equal(vit.preprocess({"img": image})["img"][0], expected)
    assert np.array_equal(vit.preprocess({"img": noise})["img"][0], expected)


def test_arrays_of_any_stride(vit: MultiModalEmbeddingPipeline) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (91, 70, 6), np.uint8)
    read_only = noise[..., :3].copy()
    read_only.flags.writeable = False
    views = {
        "every second channel": noise[..., ::2],
        "upside down": noise[::-1, ::-1, 2::-1],
        "transposed": noise[..., :3].transpose(1, 0, 2),
        "channels first": noise[..., :3].transpose(2, 0, 1).copy().transpose(1, 2, 0),
        "broadcast": np.broadcast_to(noise[:1, :, :3], (40, 70, 3)),
        "read-only": read_only,
        "one pixel": noise[:1, :1, :3],
    }
    for name, view in views.items():
        expected = pillow_tensor(Image.fromarray(np.ascontiguousarray(view)), 32)
        assert np.array_equal(vit.preprocess({"img": view})["img"][0], expected), name


@pytest.mark.parametrize("threads", [1, 3])
def test_the_tensors_of_a_list_are_in_memory_once(archive: Path, threads: int) -> None:
    preprocessor = CLIPPreprocessor(archive, num_threads=threads)
    noise = np.random.default_rng(0).integers(0, 256, (200, 40, 40, 3), np.uint8)
    images = [*noise[:100], *map(Image.fromarray, noise[100:])]
    tracemalloc.start()
    try:
        pixels = preprocessor({"img": images})["img"]
        assert tracemalloc.get_traced_memory()[1] < 1.5 * pixels.nbytes
    finally:
        tracemalloc.stop()
    # An iterator's tensors are made one by one.
    assert np.array_equal(pixels, preprocessor({"img": iter(images)})["img"])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.int8), "int8"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"\[4, 4\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\[2, 4, 4, 3\]"),
        (np.zeros((), np.uint8), r"\[\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (np.zeros((4, 0, 3), np.uint8), r"\[4, 0, 3\]"),
        (np.broadcast_to(np.zeros(3, np.uint8), (2**31, 1, 3)), "2147483648"),
        (np.array(["a"], object), "object"),
    ],
    ids=str,
)
def test_arrays_that_are_no_images(
    vit: MultiModalEmbeddingPipeline, array: Any, message: str
) -> None:
    # Behind so many that it is not in the first batch.
    images = [Image.new("RGB", (3, 3))] * 20 + [array]
    for method in (vit.forward, vit.preprocess):
        with pytest.raises(errors.InvalidInputError, match=rf"img\[20\]: .*{message}"):
            method({"img": images})


def test_a_damaged_image_is_named(
    vit: MultiModalEmbeddingPipeline, golden: Path, tmp_path: Path, photo: Image.Image
) -> None:
    damaged = tmp_path / "damaged.jpg"
    content = (golden / "cases" / "images" / "jpeg_q90.jpg").read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    images = [photo] * 9
    with pytest.raises(errors.ImageError, match=r"img\[9\]: .*damaged\.jpg.*truncated"):
        vit.forward({"img": [*images, damaged]})
    with pytest.raises(errors.ImageError, match=r"img\[9\]: .*truncated"):
        vit.preprocess({"img": [*images, damaged.read_bytes()]})
    with (
        Image.open(damaged) as image,
        pytest.raises(errors.ImageError, match=r"img\[9\]: .*truncated"),
    ):
        vit.forward({"img": [*images, image]})
    with pytest.raises(errors.ImageNotFoundError, match=r"img\[1\]: .*nowhere\.jpg") as raised:
        vit.forward({"img": [photo, tmp_path / "nowhere.jpg"]})
    assert isinstance(raised.value, FileNotFoundError)


def test_a_closed_image(vit: MultiModalEmbeddingPipeline, golden: Path) -> None:
    image = Image.open(golden / "cases" / "images" / "jpeg_q90.jpg")
    image.close()
    with pytest.raises(errors.ImageError, match=r"img\[0\]: cannot be read"):
        vit.forward({"img": image})


def test_a_image_whose_plugin_trips(vit: MultiModalEmbeddingPipeline) -> None:
    class Tripping(Image.Image):
        def load(self) -> None:  # type: ignore[override]
            raise IndexError("index out of range")

    image = Tripping()
    image._mode, image._size = "RGB", (4, 4)
    with pytest.raises(errors.ImageError, match=r"img\[0\]: .*index out of range"):
        vit.forward({"img": image})
