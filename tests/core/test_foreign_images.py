"""Objects that look like Pillow's images, and keep their promises or not."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cnclip import errors
from cnclip._core import ImageProcessor

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 4, 4), np.uint8)
WANT = ImageProcessor(3).process([PIXELS[..., :3]])


def arrow(values: np.ndarray, width: int, kind: pa.DataType | None = None) -> Any:
    """Lists of `width` numbers, as Arrow lends them."""
    flat = pa.array(values.reshape(-1), kind or pa.uint8())
    return pa.FixedSizeListArray.from_arrays(flat, width)


class Lent:
    """An image of `size` whose pixels are what `lend` returns."""

    mode: Any = "RGB"

    def __init__(self, lend: Any, size: Any = (4, 6), crops: Any = None) -> None:
        self.lend, self.size, self.crops = lend, size, crops

    def __arrow_c_array__(self, requested_schema: object = None) -> Any:
        return self.lend()

    def crop(self, box: tuple[int, int, int, int]) -> Any:
        return self.crops(box)


def process(image: Any) -> np.ndarray:
    return ImageProcessor(3).process([image])


def test_pixels_that_arrow_lends() -> None:
    whole = arrow(PIXELS, 4)
    assert np.array_equal(process(Lent(whole.__arrow_c_array__)), WANT)
    more = arrow(np.concatenate([PIXELS[:1], PIXELS, PIXELS[:1]]), 4)
    part = more.slice(4, 24)  # its offset is that of a list
    assert np.array_equal(process(Lent(part.__arrow_c_array__)), WANT)
    flat = pa.array(more.flatten().to_numpy(), pa.uint8()).slice(16)  # and this one of a byte
    part = pa.FixedSizeListArray.from_arrays(flat, 4).slice(0, 24)
    assert np.array_equal(process(Lent(part.__arrow_c_array__)), WANT)


OTHER_TYPES = {
    "bytes": pa.array(PIXELS.reshape(-1), pa.uint8()),
    "three bytes": arrow(PIXELS[..., :3], 3),
    "signed": arrow(PIXELS.view(np.int8), 4, pa.int8()),
    "fewer": arrow(PIXELS[:5], 4),
    "more": arrow(np.concatenate([PIXELS, PIXELS]), 4),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_other_arrow_types_are_not_read(name: str) -> None:
    """The image is processed by its crops, which Pillow makes."""
    image = Image.fromarray(PIXELS[..., :3])
    lent = Lent(OTHER_TYPES[name].__arrow_c_array__, crops=image.crop)
    assert np.array_equal(process(lent), WANT)


class ArrowArray(ctypes.Structure):
    pass


ArrowArray._fields_ = [
    *[(name, ctypes.c_int64) for name in ("length", "nulls", "offset", "buffer_count", "count")],
    ("buffers", ctypes.c_void_p),
    ("children", ctypes.POINTER(ctypes.POINTER(ArrowArray))),
]


def test_lists_without_all_of_their_bytes_are_not_read() -> None:
    schema, array = arrow(PIXELS, 4).__arrow_c_array__()
    ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
    ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer(array, b"arrow_array")
    ArrowArray.from_address(pointer).children[0].contents.length -= 1
    image = Image.fromarray(PIXELS[..., :3])
    assert np.array_equal(process(Lent(lambda: (schema, array), crops=image.crop)), WANT)


def test_what_is_lent_is_checked() -> None:
    schema, array = arrow(PIXELS, 4).__arrow_c_array__()
    for lent in (None, (schema,), [schema, array]):
        with pytest.raises(TypeError, match="did not return a pair"):
            process(Lent(lambda lent=lent: lent))
    for pair in ((array, array), (schema, schema), (None, array)):
        with pytest.raises(ValueError, match="PyCapsule"):
            process(Lent(lambda pair=pair: pair))


@pytest.mark.parametrize("kind", [MemoryError, OSError, KeyboardInterrupt, AttributeError])
def test_the_error_of_lending_is_kept(kind: type[BaseException]) -> None:
    def lend() -> None:
        raise kind("the image's own")

    with pytest.raises(kind, match="^the image's own$"):
        process(Lent(lend))


def refuse() -> None:
    raise ValueError("Image is in multiple array blocks")


@pytest.mark.parametrize("number", [1, 2])
def test_the_error_of_finding_the_interface_is_kept(number: int) -> None:
    """Whichever look-up fails: an attribute that cannot be read is not one that is missing."""
    looked = []

    class Looked(Lent):
        def __getattribute__(self, name: str) -> Any:
            if name == "__arrow_c_array__":
                looked.append(name)
                if len(looked) == number:
                    raise MemoryError("the look-up's")
            return super().__getattribute__(name)

    with pytest.raises(MemoryError, match="^the look-up's$"):
        process(Looked(refuse))


def test_sizes_are_checked() -> None:
    whole = arrow(PIXELS, 4)
    for size in ([4, 6], 24, (4,), (4, 6, 1), ("4", 6), (2**40, 6)):
        with pytest.raises((TypeError, OverflowError)):
            process(Lent(whole.__arrow_c_array__, size=size))
        with pytest.raises((TypeError, OverflowError)):
            process(Lent(refuse, size=size))
    lent = Lent(whole.__arrow_c_array__)
    del lent.size
    with pytest.raises(AttributeError, match="size"):
        process(lent)


@pytest.mark.parametrize("size", [(0, 6), (4, 0), (0, 0)])
def test_images_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no pixels|expected a uint8 array"):
        process(Lent(refuse, size=size))
    with pytest.raises(ValueError, match="no pixels"):
        process(Image.new("RGB", size))


@pytest.mark.parametrize("change", [(1, 0), (0, 1), (-1, 0)])
def test_crops_of_another_size_are_not_read(change: tuple[int, int]) -> None:
    def crop(box: tuple[int, int, int, int]) -> Image.Image:
        return image.crop((0, 0, box[2] - box[0] + change[0], box[3] - box[1] + change[1]))

    image = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="expected a uint8 array"):
        process(Lent(refuse, crops=crop))


def test_columns_and_rows_longer_than_a_part() -> None:
    """Parts are cropped of two million pixels: such a row or column is a part alone."""
    for size in ((2_100_000, 3), (3, 2_100_000)):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[::2, ::3] = 77
        image = Image.fromarray(pixels)
        want = ImageProcessor(4).process([pixels])
        assert np.array_equal(ImageProcessor(4).process([Lent(refuse, size, image.crop)]), want)


class Copied:
    """An image without Arrow's interface, which NumPy copies."""

    mode: Any = "RGB"

    def __init__(self, make: Any) -> None:
        self.make = make

    def __array__(self, dtype: object = None, copy: object = None) -> Any:
        return self.make()


def test_images_that_numpy_copies() -> None:
    assert np.array_equal(process(Copied(PIXELS[..., :3].copy)), WANT)
    with pytest.raises(errors.InvalidInputError, match=r"img\[0\]: expected a uint8 array"):
        process(Copied(PIXELS[..., 0].copy))

    def fail() -> None:
        raise OSError("truncated")

    with pytest.raises(OSError, match="^truncated$"):
        process(Copied(fail))


def test_modes() -> None:
    image = Copied(PIXELS.copy)
    for mode in (5, None, b"RGB"):
        image.mode = mode
        with pytest.raises(errors.InputTypeError, match="expected PIL.Image.Image"):
            process(image)
    image.mode = "RGBA"
    with pytest.raises(errors.InvalidInputError, match="mode RGB, got 'RGBA'"):
        process(image)


def test_arrays_larger_than_an_image_may_be() -> None:
    pixel = np.zeros((1, 1, 3), np.uint8)
    for shape in ((2**31, 1, 3), (1, 2**31, 3)):
        with pytest.raises(errors.InvalidInputError, match=r"img\[0\]: too large"):
            process(np.broadcast_to(pixel, shape))
