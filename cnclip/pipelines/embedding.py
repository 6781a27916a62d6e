"""The pipeline of `Tasks.multi_modal_embedding`."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..archive import ArchiveInfo
from ..errors import InputTypeError, InvalidInputError
from ..outputs import OutputKeys
from ..preprocessors.multi_modal import (
    TEXTS_AT_ONCE,
    CLIPPreprocessor,
    ImageInput,
    chunks_of_texts,
    split_input,
)

if TYPE_CHECKING:
    import torch

# Measured on two cores: larger batches cost memory and gain nothing there.
IMAGE_BATCH = 8
# Nothing gains from more. Memory is taken for a whole batch before its images are counted, and
# on a CPU, Ctrl-C waits for one.
MAX_IMAGE_BATCH = {"cpu": 32, "cuda": 256}


T = TypeVar("T")


class EmbeddingModel:
    """An open model.

    Attributes:
        info: What its archive says about it.
        device: Where it runs: `'cpu'` or `'cuda:N'`.
        precision: What it computes in, such as `'fp32'`.
        encoder: The C core's encoder.
    """

    def __init__(
        self,
        info: ArchiveInfo,
        encoder: _core.Encoder,
        device: str,
        precision: str,
        return_tensors: Literal["np", "pt"],
    ) -> None:
        self.info = info
        self.device = device
        self.precision = precision
        self.encoder = encoder
        self._return_tensors = return_tensors

    @property
    def temperature(self) -> Any:
        """What similarities are divided by before a softmax: 0-d float32, array or tensor."""
        return _as_returned(np.array(self.info.temperature, np.float32), self._return_tensors)


class MultiModalEmbeddingPipeline:
    """Embeds images and Chinese texts in one space.

    Made by `cnclip.pipelines.pipeline`. Threads may call one pipeline at the same time.

    Attributes:
        model: The open model.
        preprocessor: Images and texts to the model's input.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        preprocessor: CLIPPreprocessor,
        return_tensors: Literal["np", "pt"] = "np",
    ) -> None:
        self.model = model
        self.preprocessor = preprocessor
        self._return_tensors = return_tensors

    def preprocess(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors that ModelScope's `preprocess` gives for the same input.

        Args:
            input: As for `forward`; of an iterator, too, the tensors of all items.

        Returns:
            {'img': float32 [n, 3, r, r], 'text': int64 [n, 52]}, the keys that were given.
        """
        arrays = self.preprocessor(input)
        return {key: _as_returned(array, self._return_tensors) for key, array in arrays.items()}

    def forward(self, input: Mapping[str, Any], batch_size: int | None = None) -> dict[str, Any]:
        """Embed images, texts, or both.

        Args:
            input: 'img': PIL.Image.Image, path, http(s), file or data URL, bytes of an image file,
                uint8 array [height, width, 3] (red, green, blue), or an iterable of any of them.
                'text': str or an iterable of them. A key that is missing or None is left out.
                Paths, URLs and bytes are opened as `load_image` does; images given open are not
                turned by their EXIF orientation.
                All items of a list or tuple are checked before work begins. Other iterables are
                consumed while the model runs, about a batch ahead of it, and never held as a
                whole; what an iterator gives open may change once the next is asked for.
            batch_size: Items that go through the model together at most. By default 8 images,
                and as many texts as have 2,048 tokens; never more than that of texts, 32 images
                on a CPU and 256 on a GPU.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None}:
            both keys always, rows of unit length in the order of the items.

        Raises:
            InputTypeError: an item of a type that cannot be embedded; also a TypeError.
            InvalidInputError: an unusable value; also a ValueError.
            ImageError: an image cannot be read; also an OSError. Messages name the item.
            KeyboardInterrupt: Ctrl-C, seen between batches.
        """
        _check_batch_size(batch_size)
        images, texts = split_input(input)
        return self._answer(
            None if images is None else self._embed_images(images, batch_size),
            None if texts is None else self._embed_texts(texts, batch_size),
        )

    @overload
    def __call__(
        self, input: Mapping[str, Any], batch_size: int | None = None
    ) -> dict[str, Any]: ...
    @overload
    def __call__(
        self, input: list[Mapping[str, Any]], batch_size: int | None = None
    ) -> list[dict[str, Any]]: ...
    def __call__(
        self, input: Mapping[str, Any] | list[Mapping[str, Any]], batch_size: int | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Embed one input, or each of a list of them.

        Args:
            input: A dict as for `forward`, or a list of such dicts.
            batch_size: As for `forward`; batches go across the dicts of a list.

        Returns:
            As `forward`; for a list, a list with an answer for each dict.
        """
        if not isinstance(input, list):
            return self.forward(input, batch_size)
        _check_batch_size(batch_size)
        parts = [split_input(item, f"input[{index}]: ") for index, item in enumerate(input)]
        image_counts, text_counts = [0] * len(parts), [0] * len(parts)
        images = self._embed_images(
            _chain([some for some, _ in parts], image_counts), batch_size, _names_in(image_counts)
        )
        texts = self._embed_texts(_chain([some for _, some in parts], text_counts), batch_size)
        image_ends, text_ends = (
            list(itertools.accumulate(counts)) for counts in (image_counts, text_counts)
        )
        return [
            self._answer(
                None if of[0] is None else images[image_end - image_count : image_end],
                None if of[1] is None else texts[text_end - text_count : text_end],
            )
            for of, image_end, image_count, text_end, text_count in zip(
                parts, image_ends, image_counts, text_ends, text_counts, strict=True
            )
        ]

    def _embed_images(
        self,
        images: list[ImageInput] | Iterator[ImageInput],
        batch_size: int | None,
        name_of: Callable[[int], str] = "img[{}]".format,
    ) -> NDArray[np.float32]:
        most = MAX_IMAGE_BATCH[self.model.device.partition(":")[0]]
        size = min(int(batch_size or IMAGE_BATCH), most)
        if isinstance(images, list):
            size = min(size, len(images) or 1)
        encode = self.model.encoder.encode_pixels
        with closing(self.preprocessor.batches(images, size, name_of)) as batches:
            return self._collect(images, map(encode, batches))

    def _embed_texts(
        self, texts: list[str] | Iterator[str], batch_size: int | None
    ) -> NDArray[np.float32]:
        size = min(int(batch_size or 0), TEXTS_AT_ONCE)
        encode = self.model.encoder.encode_texts
        return self._collect(texts, (encode(chunk, size) for chunk in chunks_of_texts(texts)))

    def _collect(
        self, items: list[Any] | Iterator[Any], parts: Iterator[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The embeddings of items, float32 [n, d], from those of a few of them at a time."""
        shape = (len(items) if isinstance(items, list) else 0, self.model.info.embed_dim)
        first = next(parts, None)
        if first is None or len(first) == shape[0]:
            return np.empty(shape, np.float32) if first is None else first
        if not isinstance(items, list):
            return np.concatenate([first, *parts])
        rows = np.empty(shape, np.float32)
        end = 0
        for part in itertools.chain([first], parts):
            rows[end : end + len(part)] = part
            end += len(part)
        return rows

    def _answer(
        self, images: NDArray[np.float32] | None, texts: NDArray[np.float32] | None
    ) -> dict[str, Any]:
        return {
            OutputKeys.IMG_EMBEDDING: _as_returned(images, self._return_tensors),
            OutputKeys.TEXT_EMBEDDING: _as_returned(texts, self._return_tensors),
        }


def _chain(parts: list[list[T] | Iterator[T] | None], counts: list[int]) -> list[T] | Iterator[T]:
    """All items one after the other: a list if all parts are lists.

    `counts` gets the number of each part's items, of iterators while they are consumed.
    """

    def draw() -> Iterator[T]:
        for index, part in enumerate(parts):
            for item in part or ():
                counts[index] += 1
                yield item

    return draw() if any(isinstance(part, Iterator) for part in parts) else list(draw())


def _names_in(counts: list[int]) -> Callable[[int], str]:
    """Names images by their dict and their place in it; `counts` of them stand in each dict."""

    def name_of(row: int) -> str:
        ends = list(itertools.accumulate(counts))
        index = bisect_right(ends, row)
        return f"input[{index}]: img[{row - ends[index] + counts[index]}]"

    return name_of


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is None:
        return
    if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool):
        raise InputTypeError(f"batch_size: expected int, got {type(batch_size).__name__}")
    if batch_size < 1:
        raise InvalidInputError(f"batch_size: expected 1 or more, got {batch_size}")


def _as_returned(
    array: NDArray[Any] | None, return_tensors: Literal["np", "pt"]
) -> NDArray[Any] | torch.Tensor | None:
    if array is None or return_tensors == "np":
        return array
    import torch

    return torch.from_numpy(array)
