"""Image preprocessing: equal to the bit to Pillow and NumPy, whatever the size and the layout."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cnclip._core import ImageProcessor
from tests.support.twins import image as twin

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ISAS = ("serial", "avx2", "avx512")

# Before 13, Pillow resampled rows before columns in every image; that shows in the rounding.
pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="another order of passes before Pillow 13"
)


def make_processor(isa: str | None, resolution: int) -> ImageProcessor:
    """A processor of that instruction set; skips the test where the machine lacks it."""
    with pytest.MonkeyPatch.context() as patch:
        if isa is None:
            patch.delenv("CNCLIP_FORCE_ISA", raising=False)
        else:
            patch.setenv("CNCLIP_FORCE_ISA", isa)
        try:
            processor = ImageProcessor(resolution)
        except ValueError as error:
            if "does not have it" not in str(error):
                raise
            pytest.skip(str(error))
    assert isa is None or processor.isa == isa
    return processor


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random_pixels(height: int, width: int, seed: int = 0) -> twin.Pixels:
    """Noise, with enough black and white in it to drive sums out of 0..255."""
    generator = np.random.default_rng((seed, height, width))
    noise = generator.integers(0, 256, (height, width, 3), np.uint8)
    harsh = generator.random((height, width, 1)) < 0.3
    return np.where(harsh, np.where(noise < 128, 0, 255), noise).astype(np.uint8)


def assert_same_bits(got: NDArray[np.float32], want: NDArray[np.float32]) -> None:
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def check_bytes(
    processor: ImageProcessor,
    images: Sequence[twin.Pixels | Image.Image],
    want: NDArray[np.float32],
) -> None:
    """Check the bytes of images whose tensors are known."""
    side = processor.resolution
    pixels = processor.resize(images)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(images), side, side, 4)
    assert not pixels[..., 3].any()
    for one, tensor in zip(pixels, want, strict=True):
        assert_same_bits(twin.normalize(one[..., :3]), tensor)


def check_against_pillow(
    processor: ImageProcessor, images: list[twin.Pixels | Image.Image]
) -> None:
    got = processor.process(images)
    want = np.stack([twin.pillow_tensor(image, processor.resolution) for image in images])
    assert_same_bits(got, want)
    check_bytes(processor, images, want)


# --- sizes ---


@cache
def all_small_images() -> list[twin.Pixels]:
    """Every size from 1 x 1 to 64 x 64."""
    return [random_pixels(height, width) for height in range(1, 65) for width in range(1, 65)]


@cache
def small_images_by_pillow(resolution: int, step: int) -> NDArray[np.float32]:
    images = all_small_images()[::step]
    return np.stack([twin.pillow_tensor(image, resolution) for image in images])


@pytest.mark.slow
@pillow_13
@pytest.mark.parametrize(
    ("resolution", "step"),
    [(1, 1), (2, 1), (7, 1), (31, 1), (32, 1), (64, 1), (100, 13), (224, 41), (336, 97)],
)
def test_all_small_sizes(isa: str, resolution: int, step: int) -> None:
    processor = make_processor(isa, resolution)
    images = all_small_images()[::step]
    got = processor.process(images)
    assert_same_bits(got, small_images_by_pillow(resolution, step))
    check_bytes(processor, images, got)


@pillow_13
@pytest.mark.parametrize("resolution", [1, 3, 32, 224])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 5000), (5000, 1), (3, 20000), (20000, 3), (1, 65535), (65535, 1), (224, 1), (1, 224)],
)
def test_extreme_ratios(isa: str, height: int, width: int, resolution: int) -> None:
    pixels = random_pixels(height, width)
    check_against_pillow(make_processor(isa, resolution), [pixels, Image.fromarray(pixels)])


@pillow_13
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (480, 640), (640, 480), (600, 400), (225, 223), (224, 500), (500, 224),
        # Either side of the line where Pillow does columns first.
        (424, 324), (425, 324), (426, 325), (225, 224), (226, 224), (225, 225),
    ],
)  # fmt: skip
def test_common_sizes(isa: str, height: int, width: int) -> None:
    pixels = random_pixels(height, width)
    check_against_pillow(make_processor(isa, 224), [pixels, Image.fromarray(pixels)])


@pillow_13
@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    resolution=st.integers(1, 300),
    forced=st.sampled_from([None, *ISAS]),
    seed=st.integers(0, 1000),
)
def test_any_size(height: int, width: int, resolution: int, forced: str | None, seed: int) -> None:
    pixels = random_pixels(height, width, seed)
    check_against_pillow(make_processor(forced, resolution), [pixels, Image.fromarray(pixels)])


@pytest.mark.parametrize("resolution", [1, 5, 16])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (4, 9), (16, 16), (16, 40), (40, 16), (50, 20), (1, 300)]
)
def test_twin(isa: str, height: int, width: int, resolution: int) -> None:
    pixels = random_pixels(height, width)
    got = make_processor(isa, resolution).process([pixels])[0]
    assert_same_bits(got, twin.tensor(pixels, resolution))


@pillow_13
def test_twin_is_pillow() -> None:
    for height, width, resolution in [(9, 70, 12), (70, 9, 12), (3, 2, 20), (64, 64, 63)]:
        pixels = random_pixels(height, width)
        assert_same_bits(twin.tensor(pixels, resolution), twin.pillow_tensor(pixels, resolution))


# --- layouts ---


def layouts() -> dict[str, twin.Pixels]:
    """Arrays that NumPy makes without a copy, none of them plain."""
    whole = random_pixels(123, 158)
    rgba = np.random.default_rng(1).integers(0, 256, (90, 61, 4), np.uint8)
    offset = np.empty(1 + whole.size, np.uint8)[1:].reshape(whole.shape)
    offset[...] = whole
    return {
        "every other row": whole[::2],
        "every third column": whole[:, ::3],
        "crop": whole[10:100, 7:77],
        "upside down": whole[::-1],
        "mirrored": whole[:, ::-1],
        "bgr": whole[..., ::-1],
        "everything reversed": whole[::-1, ::-1, ::-1],
        "transposed": whole.swapaxes(0, 1),
        "fortran": np.asfortranarray(whole),
        "planar": np.ascontiguousarray(whole.transpose(2, 0, 1)).transpose(1, 2, 0),
        "rgba sliced": rgba[..., :3],
        "argb sliced": rgba[..., 1:],
        "bgra flipped": rgba[..., 2::-1],
        "one pixel": np.broadcast_to(np.array([1, 2, 3], np.uint8), (50, 60, 3)),
        "one row": np.broadcast_to(whole[:1], whole.shape),
        "one column": np.broadcast_to(whole[:, :1], whole.shape),
        "grey": np.broadcast_to(whole[..., :1], whole.shape),
        "odd address": offset,
    }


@pillow_13
@pytest.mark.parametrize("resolution", [32, 61, 123])
@pytest.mark.parametrize("name", layouts())
def test_layouts(isa: str, name: str, resolution: int) -> None:
    check_against_pillow(make_processor(isa, resolution), [layouts()[name]])


def test_read_only_array() -> None:
    pixels = random_pixels(20, 30)
    want = ImageProcessor(16).process([pixels])
    pixels.flags.writeable = False
    assert_same_bits(ImageProcessor(16).process([pixels]), want)


@pillow_13
@pytest.mark.parametrize(("height", "width"), [(2100, 2100), (5000, 1000), (700, 6001)])
def test_over_16_mib(isa: str, height: int, width: int) -> None:
    """Pillow keeps such an image in several blocks, and lends none of them."""
    assert height * width * 4 > 16 << 20
    pixels = random_pixels(height, width)
    check_against_pillow(make_processor(isa, 224), [Image.fromarray(pixels), pixels])


@pillow_13
def test_lazy_and_cropped_pillow_images(isa: str) -> None:
    image = Image.fromarray(random_pixels(300, 200))
    check_against_pillow(
        make_processor(isa, 64),
        [image.crop((10, 20, 90, 280)), image.rotate(90, expand=True), image.copy()],
    )


# --- photographs ---

PHOTOGRAPHS = (  # those that scikit-image's wheel carries, so that nothing is downloaded
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)


@pillow_13
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs(isa: str, name: str) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photographs")
    pixels = getattr(data, name)()
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    rotated = np.rot90(pixels)
    for resolution in (32, 224):
        check_against_pillow(
            make_processor(isa, resolution), [pixels, Image.fromarray(pixels), rotated]
        )


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-rn"])
def test_golden_pixels(isa: str, model: str) -> None:
    with np.load(GOLDEN / f"{model}.npz") as answers:
        names, pixels = [str(name) for name in answers["image_names"]], answers["pixels"]
    processor = make_processor(isa, pixels.shape[2])
    checked = 0
    for name, want in zip(names, pixels, strict=True):
        with Image.open(GOLDEN / "cases" / "images" / name) as image:
            if image.mode != "RGB":
                continue  # other modes are resized before they become RGB, in Python
            image.load()
            assert_same_bits(processor.process([image])[0], want)
            checked += 1
    assert checked >= 15


# --- the object ---


def test_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_FORCE_ISA", "serial")
    processor = ImageProcessor(224)
    monkeypatch.setenv("CNCLIP_FORCE_ISA", "")
    assert processor.resolution == 224
    assert processor.isa == "serial"
    best = ImageProcessor(resolution=1).isa
    assert best in ISAS or best.startswith("avx512_")  # those sets use the kernels of avx512


@pytest.mark.parametrize("name", ["AVX2", "avx1024", "none", " "])
def test_unknown_isa(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("CNCLIP_FORCE_ISA", name)
    with pytest.raises(ValueError, match="CNCLIP_FORCE_ISA"):
        ImageProcessor(224)


class InBlocks:
    """An image that Pillow lends only in crops, of which the last may fail."""

    mode = "RGB"

    def __init__(self, image: Image.Image, fails: bool) -> None:
        self.size, self.image, self.fails = image.size, image, fails

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        raise ValueError("Image is in multiple array blocks")

    def crop(self, box: tuple[int, int, int, int]) -> object:
        if self.fails and box[3] == self.size[1]:
            raise MemoryError("no room for it")
        return self.image.crop(box)


@pytest.mark.parametrize("size", [(1000, 700), (3000, 400), (300, 4000), (224, 3000), (3000, 224)])
def test_images_in_blocks(size: tuple[int, int], isa: str) -> None:
    processor = make_processor(isa, 224)
    image = Image.fromarray(random_pixels(size[1], size[0]))
    want = processor.process([image])
    in_blocks = InBlocks(image, fails=False)
    assert_same_bits(processor.process([in_blocks]), want)  # type: ignore[list-item]
    check_bytes(processor, [in_blocks], want)  # type: ignore[list-item]
    out = np.empty_like(want)
    with pytest.raises(MemoryError, match="no room"):
        processor.process([image, InBlocks(image, fails=True)])  # type: ignore[list-item]
    assert_same_bits(processor.process([image], out=out), want)


def test_large_images_on_threads() -> None:
    image = Image.fromarray(random_pixels(2300, 2000))
    processor = ImageProcessor(64)
    want = processor.process([np.asarray(image)])
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(processor.process, [[image]] * 12):
            assert_same_bits(got, want)


def test_given_memory() -> None:
    processor = ImageProcessor(8)
    images = [random_pixels(9, 9), random_pixels(30, 20)]
    block = np.zeros((4, 3, 8, 8), np.float32)
    assert processor.process(images, out=block[1:3]).base is block
    assert_same_bits(block[1:3], processor.process(images))
    assert not block[0].any()
    assert not block[3].any()
    read_only = np.zeros((2, 3, 8, 8), np.float32)
    read_only.flags.writeable = False
    for out in (block, block[::2, :, ::-1], block[:2].astype(np.float64), read_only, block[0], 5):
        with pytest.raises(ValueError, match=r"out: expected .* float32 array \[2, 3, 8, 8\]"):
            processor.process(images, out=out)  # type: ignore[arg-type]


def test_given_memory_for_bytes() -> None:
    processor = ImageProcessor(8)
    images = [random_pixels(9, 9), random_pixels(30, 20)]
    block = np.full((4, 8, 8, 4), 7, np.uint8)
    assert processor.resize(images, out=block[1:3]).base is block
    assert np.array_equal(block[1:3], processor.resize(images))
    assert (block[::3] == 7).all()
    read_only = block[:2].copy()
    read_only.flags.writeable = False
    floats = np.zeros((2, 3, 8, 8), np.float32)
    for out in (block, block[::2], block[:2].view(np.int8), block[:2, ..., :3], read_only, floats):
        with pytest.raises(ValueError, match=r"out: expected .* uint8 array \[2, 8, 8, 4\]"):
            processor.resize(images, out=out)  # type: ignore[arg-type]


def test_mean_and_std(isa: str) -> None:
    mean, std = (0.0, 0.5, 0.485), (1.0, 0.25, 0.229)
    pixels = random_pixels(16, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNCLIP_FORCE_ISA", make_processor(isa, 16).isa)
        processor = ImageProcessor(16, mean=mean, std=std)
    assert_same_bits(processor.process([pixels])[0], twin.normalize(pixels, mean, std))


@pytest.mark.parametrize("resolution", [0, -1, 4097])
def test_bad_resolution(resolution: int) -> None:
    with pytest.raises(ValueError, match="resolution"):
        ImageProcessor(resolution)


@pytest.mark.parametrize(
    "std", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan")), (1.0, float("inf"), 1.0)]
)
def test_bad_std(std: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"std\["):
        ImageProcessor(224, std=std)


def test_bad_mean() -> None:
    with pytest.raises(ValueError, match=r"mean\[1\]"):
        ImageProcessor(224, mean=(0.0, float("inf"), 0.0))
    with pytest.raises(ValueError, match="mean"):
        ImageProcessor(224, mean=(0.0, 0.0))


def test_no_images() -> None:
    assert ImageProcessor(8).process([]).shape == (0, 3, 8, 8)
    assert ImageProcessor(8).resize([]).shape == (0, 8, 8, 4)


def test_many_images_keep_their_order() -> None:
    images = [np.full((3 + i, 40 - i, 3), i, np.uint8) for i in range(32)]
    got = ImageProcessor(4).process(images)
    for i, tensor in enumerate(got):
        assert_same_bits(tensor, twin.normalize(np.full((4, 4, 3), i, np.uint8)))


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 3)])
def test_empty_image(shape: tuple[int, ...]) -> None:
    good = random_pixels(4, 4)
    with pytest.raises(ValueError, match=r"\[2\].*no pixels"):
        ImageProcessor(8).process([good, good, np.empty(shape, np.uint8)])
    with pytest.raises(ValueError, match=r"\[2\].*no pixels"):
        ImageProcessor(8).resize([good, good, np.empty(shape, np.uint8)])


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        Image.new("L", (4, 4)),
        Image.new("RGBA", (4, 4)),
        Image.new("P", (4, 4)),
        "image.jpg",
        b"bytes",
        7,
        None,
        [[[1, 2, 3]]],
    ],
    ids=lambda bad: getattr(bad, "mode", None) or f"{type(bad).__name__}",
)
def test_unusable_image(bad: object) -> None:
    images = [random_pixels(4, 4), bad]
    with pytest.raises((TypeError, ValueError), match=r"\[1\]"):
        ImageProcessor(8).process(images)  # type: ignore[list-item]
    with pytest.raises((TypeError, ValueError), match=r"\[1\]"):
        ImageProcessor(8).resize(images)  # type: ignore[list-item]


def test_not_a_sequence() -> None:
    with pytest.raises(TypeError):
        ImageProcessor(8).process(3)  # type: ignore[arg-type]


def test_threads_share_a_processor(isa: str) -> None:
    processor = make_processor(isa, 48)
    images = [random_pixels(20 + 11 * i, 300 - 13 * i) for i in range(20)]
    want = processor.process(images)

    def process_backwards(_: int) -> NDArray[np.float32]:
        return processor.process(images[::-1])[::-1]

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(process_backwards, range(16)):
            assert_same_bits(np.ascontiguousarray(got), want)
