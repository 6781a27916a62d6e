"""The arguments of a call: checks them, and splits the input dict into images and texts."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import CnclipError, InputTypeError, InvalidInputError
from .image import ImageSource

ImageInput: TypeAlias = Image.Image | NDArray[np.uint8] | ImageSource
# float32 [n, 3, r, r], normalized, or uint8 [n, r, r, 4]: red, green, blue and 0, not normalized.
Tensor: TypeAlias = NDArray[np.float32 | np.uint8]


class Preprocessed(NamedTuple):
    """An image that is a tensor already.

    Attributes:
        tensor: float32 [1, 3, r, r], or uint8 [1, r, r, 4].
    """

    tensor: Tensor


class InputImage(NamedTuple):
    """An image of a call.

    Attributes:
        name: Its name in messages, such as `img[3]`.
        image: The image as the caller passed it, or its tensor.
        lock: Held while the image is opened. Items that are the same object share one, since two
            threads must not load one Pillow image at the same time.
        out: The memory for its tensor, an array of the tensor's shape; by default a new one.
    """

    name: str
    image: ImageInput | Preprocessed
    lock: threading.Lock
    out: NDArray[Any] | None = None


# A list has been checked as a whole; an iterator checks each item as it comes.
InputImages: TypeAlias = list[InputImage] | Iterator[InputImage]
InputTexts: TypeAlias = list[str] | Iterator[str]

_IMAGE_TYPES = (
    Image.Image,
    np.ndarray,
    str,
    os.PathLike,
    bytes,
    bytearray,
    memoryview,
)
# Iterable, but not sequences of items: without order, a single item of the other kind, or an open
# file, whose lines are not images.
_NO_ITEMS = (Mapping, set, frozenset, str, bytes, bytearray, memoryview, np.ndarray, io.IOBase)
_IMAGE = "PIL.Image.Image, a path, a URL, bytes, a uint8 array [height, width, 3]"


def split_input(
    input: Mapping[str, Any], name: str | None = None
) -> tuple[InputImages | None, InputTexts | None]:
    """The images and texts of an input dict, None where it has none.

    Lists, tuples, arrays of items and single items become lists, and all their items are checked
    before any work is done; other iterables become iterators that check each item as it comes.

    Args:
        input: As for the pipeline's `forward`.
        name: The input's name in messages, such as `input[1]`.

    Raises:
        InputTypeError: not a dict, or an item of a type that cannot be embedded.
        InvalidInputError: the dict has a key other than 'img' and 'text'.
    """
    if not isinstance(input, Mapping):
        found = type(input).__name__
        raise InputTypeError(
            f"expected a dict with 'img' or 'text' (or both), got {found}", item=name
        )
    if unknown := [key for key in input if key not in ("img", "text")]:
        keys = ", ".join(repr(key) for key in unknown)
        raise InvalidInputError(
            f"expected a dict with 'img' or 'text', got one with {keys}", item=name
        )
    img, text = ("img", "text") if name is None else (f"{name}: img", f"{name}: text")
    images = _items_of(input.get("img"), img, _IMAGE_TYPES, _IMAGE)
    texts = _items_of(input.get("text"), text, (str,), "str")
    return None if images is None else _named(images, img), texts


def mixed_items(items: Iterable[Any], name: str = "items") -> list[InputImage | str | CnclipError]:
    """The images and texts of a mixed list, in its order.

    Args:
        items: Each is a dict with one key, 'img' with one image or 'text' with one text, or a
            CnclipError for an item that has failed already.
        name: The name of the list in messages.

    Returns:
        For an item that cannot be embedded, its error.

    Raises:
        InputTypeError: not an iterable of items.
    """
    if isinstance(items, _NO_ITEMS) or not isinstance(items, Iterable):
        found = type(items).__name__
        raise InputTypeError(
            f"expected a list of {{'img': ...}} and {{'text': ...}}, got {found}", item=name
        )
    locks: dict[int, threading.Lock] = {}
    return [_mixed_item(item, f"{name}[{index}]", locks) for index, item in enumerate(items)]


def _mixed_item(
    item: Any, name: str, locks: dict[int, threading.Lock]
) -> InputImage | str | CnclipError:
    if isinstance(item, CnclipError):
        return item
    if not isinstance(item, Mapping) or len(item) != 1 or not item.keys() <= {"img", "text"}:
        shown = list(item) if isinstance(item, Mapping) else type(item).__name__
        return InputTypeError(
            f"expected a dict with one key, 'img' or 'text', got {shown!r:.60}", item=name
        )
    key, value = next(iter(item.items()))
    types, expected = ((str,), "str") if key == "text" else (_IMAGE_TYPES, _IMAGE)
    if not isinstance(value, types):
        found = type(value).__name__
        return InputTypeError(f"expected {expected}, got {found}", item=name)
    if key == "text":
        return cast("str", value)
    return InputImage(name, value, locks.setdefault(id(value), threading.Lock()))


def _named(images: list[ImageInput] | Iterator[ImageInput], name: str) -> InputImages:
    if not isinstance(images, list):
        return (
            InputImage(f"{name}[{index}]", image, threading.Lock())
            for index, image in enumerate(images)
        )
    locks = {id(image): threading.Lock() for image in images}
    return [
        InputImage(f"{name}[{index}]", image, locks[id(image)])
        for index, image in enumerate(images)
    ]


def _items_of(
    value: Any, name: str, types: tuple[type[Any], ...], expected: str
) -> list[Any] | Iterator[Any] | None:
    if value is None:
        return None
    value = _as_list(value, name)
    if isinstance(value, types):
        return [value]
    if isinstance(value, list | tuple):
        return list(_checked(list(value), name, types, expected))
    if isinstance(value, _NO_ITEMS) or not isinstance(value, Iterable):
        found = type(value).__name__
        raise InputTypeError(f"expected {expected}, or an iterable of them, got {found}", item=name)
    return _checked(value, name, types, expected)


def _as_list(value: Any, name: str) -> Any:
    """Arrays that hold items as lists of Python's objects; other values unchanged.

    These are NumPy arrays of str or objects, uint8 arrays [n, height, width, 3], and pyarrow's.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUT":
            if value.ndim > 1:
                reason = f"expected one dimension of items, got an array {list(value.shape)}"
                raise InputTypeError(reason, item=name)
            return value.tolist()
        return list(value) if value.dtype == np.uint8 and value.ndim == 4 else value
    if callable(to_list := getattr(value, "to_pylist", None)):
        return to_list()
    return value


def _checked(
    items: Iterable[Any], name: str, types: tuple[type[Any], ...], expected: str
) -> Iterator[Any]:
    for index, item in enumerate(items):
        if not isinstance(item, types):
            found = type(item).__name__
            raise InputTypeError(f"expected {expected}, got {found}", item=f"{name}[{index}]")
        yield item
