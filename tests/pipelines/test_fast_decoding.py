"""decode='fast': which scale is chosen, what stays exact, and that faults are those of 'exact'."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import errors, load_image, pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors import CLIPPreprocessor
from cnclip.preprocessors.decoding import REDUCED, ImageOptions, decode_image
from cnclip.serve import Batcher
from tests.support.photos import jpeg
from tests.support.twins.fast_decoding import decode_fast

RESOLUTION = 32
FAST = ImageOptions(decode="fast", resolution=RESOLUTION)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize(
    ("short", "scale"),
    [(64, 1), (127, 1), (128, 2), (129, 2), (255, 2), (256, 4), (511, 4), (512, 8), (1023, 8)],
)
def test_twice_the_resolution_remains_in_both_sides(short: int, scale: int, side: str) -> None:
    long = 1025  # odd: the last column is a part of a pixel
    size = (short, long) if side == "width" else (long, short)
    content = jpeg(*size)
    found = decode_image(content, options=FAST)
    assert found.size == tuple(-(-one // scale) for one in size)
    assert min(found.size) >= 2 * RESOLUTION
    assert same(found, decode_fast(content, RESOLUTION))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_scale_is_chosen_before_the_image_is_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(300, 140, exif=exif)
    found = decode_image(content, options=FAST)
    assert found.size == ((150, 70) if orientation < 5 else (70, 150))
    assert same(found, decode_fast(content, RESOLUTION))


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gray": ("L", {}),
    "CMYK": ("CMYK", {}),
    "progressive": ("RGB", {"progressive": True}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "restart markers": ("RGB", {"restart_marker_rows": 1}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_jpeg(kind: str) -> None:
    mode, options = KINDS[kind]
    content = jpeg(300, 141, mode, **options)
    found = decode_image(content, options=FAST)
    assert (found.size, found.mode) == ((150, 71), "RGB")
    assert same(found, decode_fast(content, RESOLUTION))
    # Chinese-CLIP's files are not turned, and keep their mode.
    assert decode_image(content, options=FAST, turned=False).size == (150, 71)


def test_the_first_image_of_an_mpo() -> None:
    first, second = (Image.open(io.BytesIO(jpeg(300, 140 + more))) for more in (0, 1))
    stream = io.BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second])
    assert Image.open(stream).format == "MPO"
    found = decode_image(stream.getvalue(), options=FAST)
    assert found.size == (150, 70) and same(found, decode_fast(stream.getvalue(), RESOLUTION))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "PNG of 16 bits"])
def test_other_formats_are_exact(format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if format == "PNG of 16 bits":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    stream = io.BytesIO()
    image.save(stream, format.split()[0])
    content = stream.getvalue()
    assert same(decode_image(content, options=FAST), decode_image(content))
    assert decode_image(content, options=FAST).size == (300, 300)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("progressive", [False, True])
def test_faults_are_those_of_exact(share: float, progressive: bool) -> None:
    content = jpeg(300, 300, progressive=progressive)
    cut = content[: int(len(content) * share)]
    reasons = []
    for options in (ImageOptions(), FAST):
        with pytest.raises(errors.ImageError) as caught:
            decode_image(cut, options=options)
        reasons.append(caught.value.reason)
    assert reasons[0] == reasons[1]


def test_faults_that_are_repaired() -> None:
    content = jpeg(300, 300)
    for faulty in (content[:-2], b"\r\n" + content):
        assert same(decode_image(faulty, options=FAST), decode_fast(content, RESOLUTION))


def test_images_above_the_limit_of_pixels() -> None:
    content = jpeg(1400, 1400)
    notes: list[str] = []
    options = ImageOptions(max_pixels=1_000_000)
    assert decode_image(content, options=options, notes=notes).size == (700, 700)
    fast = ImageOptions(max_pixels=1_000_000, decode="fast", resolution=RESOLUTION)
    # The scale of 'fast' where it is the larger one, else that of the limit.
    assert decode_image(content, options=fast, notes=notes).size == (175, 175)
    large = ImageOptions(max_pixels=1_000_000, decode="fast", resolution=700)
    assert decode_image(content, options=large, notes=notes).size == (700, 700)
    assert notes == [REDUCED] * 3
    # A progressive JPEG is in memory at its full size.
    with pytest.raises(errors.ImageError, match="decompression bomb"):
        decode_image(jpeg(1400, 1400, progressive=True), options=fast)


def test_what_is_exact_is_a_plain_image_without_a_copy() -> None:
    content = jpeg(300, 200)
    with Image.open(io.BytesIO(content)) as image:
        want = image.convert("RGB")
    found = load_image(content)
    assert same(found, want) and type(found) is Image.Image and found.info == want.info
    assert found.format is None
    found.putpixel((0, 0), (1, 2, 3))  # it is not read-only


def test_pipeline_preprocessor_and_batcher(
    vit: MultiModalEmbeddingPipeline, archive: Path, tmp_path: Path
) -> None:
    side = 4 * vit.preprocessor.image_resolution
    content = jpeg(side, side + 1)
    (tmp_path / "photo.jpg").write_bytes(content)
    fast = pipeline(model=archive, device="cpu", decode="fast")
    pixels = decode_fast(content, side // 4)
    assert pixels.size == (side // 2, side // 2 + 1)
    want = vit.forward({"img": pixels})["img_embedding"]
    assert not np.array_equal(want, vit.forward({"img": content})["img_embedding"])
    for image in (content, bytearray(content), str(tmp_path / "photo.jpg"), tmp_path / "photo.jpg"):
        np.testing.assert_array_equal(fast.forward({"img": image})["img_embedding"], want)
        np.testing.assert_array_equal(
            fast.preprocess({"img": image})["img"], vit.preprocess({"img": pixels})["img"]
        )
    # Open images and arrays are taken as they are.
    exact = decode_image(content)
    for image in (exact, np.asarray(exact)):
        np.testing.assert_array_equal(
            fast.forward({"img": image})["img_embedding"],
            vit.forward({"img": content})["img_embedding"],
        )
    np.testing.assert_array_equal(
        CLIPPreprocessor(archive, decode="fast")({"img": content})["img"],
        vit.preprocess({"img": pixels})["img"],
    )
    with Batcher(fast) as batcher:
        np.testing.assert_allclose(
            batcher.forward({"img": content})["img_embedding"], want, atol=2e-6
        )


def test_wrong_values_are_named(archive: Path) -> None:
    with pytest.raises(errors.InvalidInputError, match=r"decode: expected 'exact' or 'fast'"):
        pipeline(model=archive, device="cpu", decode="quick")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInputError, match=r"decode: expected one of exact, fast"):
        ImageOptions(decode="quick")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInputError, match="resolution: decode='fast' requires"):
        decode_image(jpeg(64, 64), options=ImageOptions(decode="fast"))


def test_options_are_recorded_and_read() -> None:
    options = ImageOptions(background="white", decode="fast", max_pixels=5, resolution=224)
    assert options.record() == {"background": "white", "decode": "fast"}
    assert ImageOptions().record() == {}
    read = ImageOptions.of_record(options.record(), 224)
    assert (read.background, read.decode, read.resolution) == ("white", "fast", 224)
    for record in ({"sharpen": "yes"}, {"decode": "faster"}, {"depth": "log"}):
        with pytest.raises(errors.InvalidInputError):
            ImageOptions.of_record(record)
