"""Pictures and texts to arrays, as `modelscope.preprocessors.multi_modal.CLIPPreprocessor` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import _core
from ..archive import ArchiveInfo
from ..convert import open_archive
from ..errors import CnclipError, ImageError, InputTypeError, InvalidInputError
from .image import ImageSource, load_image

ImageInput: TypeAlias = Image.Image | NDArray[np.uint8] | ImageSource
Pixels: TypeAlias = Image.Image | NDArray[np.uint8]

_IMAGE_TYPES = (
    Image.Image,
    np.ndarray,
    str,
    os.PathLike,
    bytes,
    bytearray,
    memoryview,
)
# Pictures in one go: those that are not yet arrays are held open in memory.
_AT_ONCE = 16
# Of an array: what the core counts pixels with.
LARGEST_SIDE = 2**31 - 1


class CLIPPreprocessor:
    """A model's tokenizer and picture preprocessing, without its weights.

    Threads may share one.

    Attributes:
        tokenizer: WordPiece over the model's vocabulary.
        image_processor: Resampling and normalising to the model's resolution.
        context_length: Columns of the token ids, 52 for the published models.
        image_resolution: Pixels a side of the tensors.
    """

    def __init__(self, model: str | Path | ArchiveInfo) -> None:
        """Take the preprocessing of a model: an archive, a model directory, or a shipped name."""
        info = model if isinstance(model, ArchiveInfo) else open_archive(model)
        self.tokenizer = _core.Tokenizer(info.vocabulary)
        self.image_processor = _core.ImageProcessor(info.resolution, info.mean, info.std)
        self.context_length = info.context_length
        self.image_resolution = info.resolution

    def __call__(self, input: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Make the arrays for what `input` has under 'img' and 'text'.

        Returns:
            {'img': float32 [n, 3, r, r], 'text': int64 [n, context_length]}: the keys that were
            given and are not None, with the values that ModelScope's preprocessor gives.

        Raises:
            InputTypeError, InvalidInputError, ImageError: name the item.
        """
        images, texts = split_input(input)
        output: dict[str, NDArray[Any]] = {}
        if images is not None:
            output["img"] = self.process_images(images)
        if texts is not None:
            output["text"] = self.tokenize(texts)
        return output

    @overload
    def tokenize(
        self, texts: str | Sequence[str], context_length: int | None = None
    ) -> NDArray[np.int64]: ...
    @overload
    def tokenize(
        self, texts: str | Sequence[str], context_length: int | None = None, *, return_lengths: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    def tokenize(
        self,
        texts: str | Sequence[str],
        context_length: int | None = None,
        *,
        return_lengths: bool = False,
    ) -> NDArray[np.int64] | tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids of texts: [CLS], WordPiece, [SEP], cut to the context length, filled with 0.

        Args:
            texts: One text or several.
            context_length: Columns of the result, by default the model's.
            return_lengths: Also tell how many ids each text had before the cut.

        Returns:
            int64 [n, context_length]; with `return_lengths` also int64 [n], [CLS] and [SEP]
            counted: texts with a larger number than context_length were cut.
        """
        length = self.context_length if context_length is None else context_length
        sequence = [texts] if isinstance(texts, str) else texts
        ids, lengths = self.tokenizer.encode(sequence, length)
        return (ids, lengths) if return_lengths else ids

    def process_images(self, images: list[ImageInput]) -> NDArray[np.float32]:
        """Pictures to float32 [n, 3, r, r]."""
        side = self.image_resolution
        tensors = np.empty((len(images), 3, side, side), np.float32)
        for start in range(0, len(images), _AT_ONCE):
            some = list(self.open_images(images, start, start + _AT_ONCE))
            tensors[start : start + len(some)] = self.image_processor.process(some)
        return tensors

    def open_images(
        self,
        images: list[ImageInput],
        start: int,
        stop: int,
        name_of: Callable[[int], str] = "img[{}]".format,
    ) -> Iterator[Pixels]:
        """Pictures of mode RGB, or arrays, for the items from `start` to before `stop`.

        What is not RGB is resized here, by Pillow, before it becomes RGB: the order of ModelScope,
        whose numbers for palettes, transparency and 16 bits depend on it. Messages name an item as
        `name_of` its index does.
        """
        for index in range(start, min(stop, len(images))):
            try:
                yield _to_rgb(_open(images[index]), self.image_resolution)
            except CnclipError as error:
                raise type(error)(f"{name_of(index)}: {error}") from error
            except MemoryError:
                raise
            except Exception as error:  # Pillow's plugins raise whatever a damaged file leads to
                raise ImageError(
                    f"{name_of(index)}: cannot be read as a picture: {error}"
                ) from error


def split_input(input: Mapping[str, Any]) -> tuple[list[ImageInput] | None, list[str] | None]:
    """The pictures and texts of an input dict, each as a list, None where there are none to embed.

    Raises:
        InputTypeError: not a dict, or an item of a type that cannot be embedded; checked for all
            items before any work is done.
        InvalidInputError: keys, but neither 'img' nor 'text' among them.
    """
    if not isinstance(input, Mapping):
        raise InputTypeError(
            f"expected a dict with 'img' or 'text' (or both), got {type(input).__name__}"
        )
    if input and "img" not in input and "text" not in input:
        keys = ", ".join(repr(key) for key in input)
        raise InvalidInputError(f"expected a dict with 'img' or 'text', got one with {keys}")
    return _list_of(input.get("img"), "img", _IMAGE_TYPES), _list_of(input.get("text"), "text", str)


def _list_of(value: Any, key: str, types: Any) -> list[Any] | None:
    expected = (
        "str"
        if key == "text"
        else "PIL.Image.Image, a path, a URL, bytes, a uint8 array [height, width, 3]"
    )
    if value is None:
        return None
    if isinstance(value, types):
        return [value]
    if not isinstance(value, list | tuple):
        raise InputTypeError(
            f"{key}: expected {expected}, or a list of them, got {type(value).__name__}"
        )
    items = list(value)  # our own: another thread may change the caller's
    for index, item in enumerate(items):
        if not isinstance(item, types):
            raise InputTypeError(f"{key}[{index}]: expected {expected}, got {type(item).__name__}")
    return items


def _open(item: ImageInput) -> Pixels:
    if isinstance(item, Image.Image | np.ndarray):
        return item
    return load_image(item)


def _to_rgb(image: Pixels, resolution: int) -> Pixels:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InvalidInputError(
                f"expected a uint8 array [height, width, 3], got {image.dtype} {list(image.shape)}"
            )
        if image.size == 0 or max(image.shape) > LARGEST_SIDE:
            raise InvalidInputError(
                f"expected 1 to {LARGEST_SIDE} pixels a side, got {list(image.shape)}"
            )
        return image
    if image.width == 0 or image.height == 0:
        raise InvalidInputError(f"a picture without pixels, {image.width} x {image.height}")
    if image.mode == "RGB":
        image.load()
        return image
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC).convert("RGB")
