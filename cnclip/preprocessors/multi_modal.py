"""Images and texts to arrays, as `modelscope.preprocessors.multi_modal.CLIPPreprocessor` does."""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import _core
from ..archive import ArchiveInfo, read_archive
from ..errors import CnclipError, ImageError, InputTypeError, InvalidInputError
from .image import ImageSource, load_image
from .prefetch import map_ahead

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
# Iterable, but no sequence of items: without order, a single item that stands in the wrong place,
# or an open file, whose lines are no images.
_NO_ITEMS = (Mapping, set, frozenset, str, bytes, bytearray, memoryview, np.ndarray, io.IOBase)
# Images of an iterator that `preprocess` makes in one go.
_AT_ONCE = 16
# Texts of an iterator, and characters of theirs, that are held in memory at a time.
TEXTS_AT_ONCE = 4096
CHARACTERS_AT_ONCE = 1 << 22
# An image given open may be loaded by one thread at a time; two of that many seldom share a lock.
_LOCKS = 64
# Of an array: what the core counts pixels with.
MAX_SIDE = 2**31 - 1


T = TypeVar("T")


class CLIPPreprocessor:
    """A model's tokenizer and image preprocessing, without its weights.

    Threads may share one.

    Attributes:
        tokenizer: WordPiece over the model's vocabulary.
        image_processor: Resampling and normalising to the model's resolution.
        context_length: Columns of the token ids, 52 for the published models.
        image_resolution: Pixels a side of the tensors.
        num_threads: Threads that open and resample several images.
    """

    def __init__(self, model: str | Path | ArchiveInfo, num_threads: int | None = None) -> None:
        """Take the preprocessing of a model.

        Args:
            model: An archive, opened or by its path; `cnclip.models.open_archive` opens other
                models.
            num_threads: For several images; by default one a core that this process may use.
        """
        info = model if isinstance(model, ArchiveInfo) else read_archive(Path(model))
        self.tokenizer = _core.Tokenizer(info.vocabulary)
        self.image_processor = _core.ImageProcessor(info.resolution, info.mean, info.std)
        self.context_length = info.context_length
        self.image_resolution = info.resolution
        self.num_threads = num_threads or _usable_cores()

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
            some = [self.tokenize(chunk) for chunk in chunks_of_texts(texts)]
            output["text"] = some[0] if len(some) == 1 else np.concatenate(some)
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

    def process_images(
        self, images: list[ImageInput] | Iterator[ImageInput]
    ) -> NDArray[np.float32]:
        """Images to float32 [n, 3, r, r]."""
        side = self.image_resolution
        if not isinstance(images, list):
            batches = list(self.batches(images, _AT_ONCE))
            return np.concatenate([np.empty((0, 3, side, side), np.float32), *batches])
        tensors = np.empty((len(images), 3, side, side), np.float32)
        deque(self._fill(images, lambda index: tensors[index : index + 1], _AT_ONCE), maxlen=0)
        return tensors

    def batches(
        self,
        images: list[ImageInput] | Iterator[ImageInput],
        size: int,
        name_of: Callable[[int], str] = "img[{}]".format,
    ) -> Generator[NDArray[np.float32], None, None]:
        """Tensors of images, `size` at a time, the last ones perhaps fewer: float32 [m, 3, r, r].

        While the caller works on a batch, threads make the next one. Nothing beyond that is taken
        from an iterator. An image that was opened here is let go once its tensor is made.

        Images that an iterator gives open are read before it is asked for the next, since it may
        use their memory again; threads do the rest: files, URLs, bytes, and all of a list.

        Args:
            images: As `split_input` gives them.
            size: Images of a batch.
            name_of: Names the image of an index in messages.

        Raises:
            InputTypeError, InvalidInputError, ImageError: of the first image that fails.
        """
        shape = (size, 3, self.image_resolution, self.image_resolution)
        begun: deque[NDArray[np.float32]] = deque()

        def row_of(index: int) -> NDArray[np.float32]:
            place = index % size
            if place == 0:
                begun.append(np.empty(shape, np.float32))
            return begun[-1][place : place + 1]

        done = 0
        for done, _ in enumerate(self._fill(images, row_of, size, name_of), 1):
            if done % size == 0:
                yield begun.popleft()
        if done % size != 0:
            yield begun.popleft()[: done % size]

    def _fill(
        self,
        images: list[ImageInput] | Iterator[ImageInput],
        row_of: Callable[[int], NDArray[np.float32]],
        ahead: int,
        name_of: Callable[[int], str] = "img[{}]".format,
    ) -> Iterator[None]:
        """Write image i to `row_of(i)`, float32 [1, 3, r, r]; answers once for each, in order."""
        locks = [threading.Lock() for _ in range(_LOCKS)]
        reused = not isinstance(images, list)

        def draw() -> Iterator[Callable[[], None]]:
            for index, image in enumerate(images):
                row = row_of(index)
                if reused and isinstance(image, bytearray | memoryview):
                    image = bytes(image)

                def work(
                    index: int = index,
                    image: ImageInput = image,
                    row: NDArray[np.float32] = row,
                ) -> None:
                    lock = locks[(id(image) >> 4) % _LOCKS]
                    try:
                        opened = self._open(image, lock)
                    except CnclipError as error:
                        raise type(error)(f"{name_of(index)}: {error}") from error
                    self.image_processor.process([opened], out=row)

                if reused and isinstance(image, Image.Image | np.ndarray):
                    work()
                    yield lambda: None
                else:
                    yield work

        count = len(images) if isinstance(images, list) else self.num_threads
        threads = min(self.num_threads, count, ahead + 1)
        return map_ahead(lambda work: work(), draw(), threads, ahead)

    def process_image(self, image: ImageInput) -> NDArray[np.float32]:
        """One image to float32 [1, 3, r, r], on the caller's thread; errors name no item."""
        return self.image_processor.process([self._open(image, threading.Lock())])

    def _open(self, image: ImageInput, lock: threading.Lock) -> Pixels:
        """An image of mode RGB, or an array.

        What is not RGB is resized here, by Pillow, before it becomes RGB: the order of ModelScope,
        whose numbers for palettes, transparency and 16 bits depend on it.
        """
        try:
            if isinstance(image, np.ndarray):
                return _check_array(image)
            if isinstance(image, Image.Image):
                with lock:
                    return to_rgb(image, self.image_resolution)
            return to_rgb(load_image(image), self.image_resolution)
        except (CnclipError, MemoryError):
            raise
        except Exception as error:  # Pillow's plugins raise whatever a damaged file leads to
            raise ImageError(f"cannot be read as an image: {error}") from error


def split_input(
    input: Mapping[str, Any], prefix: str = ""
) -> tuple[list[ImageInput] | Iterator[ImageInput] | None, list[str] | Iterator[str] | None]:
    """The images and texts of an input dict, None where there are none to embed.

    Lists, tuples and single items become lists, whose items are all checked before any work is
    done; other iterables become iterators that check each item as it comes.

    Args:
        input: As for the pipeline's `forward`.
        prefix: What messages begin with.

    Raises:
        InputTypeError: not a dict, or an item of a type that cannot be embedded.
        InvalidInputError: keys, but neither 'img' nor 'text' among them.
    """
    if not isinstance(input, Mapping):
        raise InputTypeError(
            f"{prefix}expected a dict with 'img' or 'text' (or both), got {type(input).__name__}"
        )
    if input and "img" not in input and "text" not in input:
        keys = ", ".join(repr(key) for key in input)
        raise InvalidInputError(
            f"{prefix}expected a dict with 'img' or 'text', got one with {keys}"
        )
    return (
        _items_of(input.get("img"), f"{prefix}img", _IMAGE_TYPES, _IMAGE),
        _items_of(input.get("text"), f"{prefix}text", (str,), "str"),
    )


def chunks_of_texts(texts: list[str] | Iterator[str]) -> Iterator[list[str]]:
    """Texts as lists: a list is one, an iterator is cut so that little of it is in memory.

    At least one list, which may be empty.
    """
    if isinstance(texts, list):
        yield texts
        return
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == TEXTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, characters = [], 0
    yield chunk


_IMAGE = "PIL.Image.Image, a path, a URL, bytes, a uint8 array [height, width, 3]"


def _items_of(
    value: Any, name: str, types: tuple[type[Any], ...], expected: str
) -> list[Any] | Iterator[Any] | None:
    if value is None:
        return None
    if isinstance(value, types):
        return [value]
    if isinstance(value, list | tuple):
        return list(_checked(list(value), name, types, expected))
    if isinstance(value, _NO_ITEMS) or not isinstance(value, Iterable):
        raise InputTypeError(
            f"{name}: expected {expected}, or an iterable of them, got {type(value).__name__}"
        )
    return _checked(value, name, types, expected)


def _checked(
    items: Iterable[T], name: str, types: tuple[type[Any], ...], expected: str
) -> Iterator[T]:
    for index, item in enumerate(items):
        if not isinstance(item, types):
            raise InputTypeError(f"{name}[{index}]: expected {expected}, got {type(item).__name__}")
        yield item


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InvalidInputError(
            f"expected a uint8 array [height, width, 3], got {array.dtype} {list(array.shape)}"
        )
    if array.size == 0 or max(array.shape) > MAX_SIDE:
        raise InvalidInputError(f"expected 1 to {MAX_SIDE} pixels a side, got {list(array.shape)}")
    return array


def to_rgb(image: Image.Image, resolution: int) -> Image.Image:
    """An image of mode RGB; one of another mode is first resized, as ModelScope does.

    Raises:
        InvalidInputError: it has no pixels.
    """
    if image.width == 0 or image.height == 0:
        raise InvalidInputError(f"an image without pixels, {image.width} x {image.height}")
    if image.mode == "RGB":
        image.load()
        return image
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC).convert("RGB")
