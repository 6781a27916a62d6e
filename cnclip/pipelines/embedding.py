"""The pipeline of `Tasks.multi_modal_embedding`."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..archive import ArchiveInfo
from ..errors import InputTypeError, InvalidInputError
from ..outputs import OutputKeys
from ..preprocessors.multi_modal import CLIPPreprocessor, ImageInput, split_input

if TYPE_CHECKING:
    import torch

# Measured on two cores: larger batches cost memory and gain nothing there.
IMAGE_BATCH = 8
TEXT_BATCH = 32


class EmbeddingModel:
    """An open model.

    Attributes:
        info: What its archive says about it.
        device: Where it runs: `'cpu'` or `'cuda:N'`.
        encoder: The C core's encoder.
    """

    def __init__(
        self,
        info: ArchiveInfo,
        encoder: _core.Encoder,
        device: str,
        return_tensors: Literal["np", "pt"],
    ) -> None:
        self.info = info
        self.device = device
        self.encoder = encoder
        self._return_tensors = return_tensors

    @property
    def temperature(self) -> Any:
        """What similarities are divided by before a softmax: 0-d float32, array or tensor."""
        return _as_returned(np.array(self.info.temperature, np.float32), self._return_tensors)


class MultiModalEmbeddingPipeline:
    """Embeds pictures and Chinese texts in one space.

    Made by `cnclip.pipelines.pipeline`. Threads may call one pipeline at the same time.

    Attributes:
        model: The open model.
        preprocessor: Pictures and texts to the model's input.
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
            input: As for `forward`.

        Returns:
            {'img': float32 [n, 3, r, r], 'text': int64 [n, 52]}, the keys that were given.
        """
        arrays = self.preprocessor(input)
        return {key: _as_returned(array, self._return_tensors) for key, array in arrays.items()}

    def forward(self, input: Mapping[str, Any], batch_size: int | None = None) -> dict[str, Any]:
        """Embed pictures, texts, or both.

        Args:
            input: 'img': PIL.Image.Image, path, http(s), file or data URL, bytes of a picture file,
                uint8 array [height, width, 3] (red, green, blue), or a list of any of them.
                'text': str or a list of them. A key that is missing or None is left out.
                Paths, URLs and bytes are opened as `load_image` does; pictures given open are not
                turned by their EXIF orientation.
            batch_size: Items that go through the model together; bounds the memory.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None}:
            both keys always, rows of unit length in the order of the items.

        Raises:
            InputTypeError: an item of a type that cannot be embedded; also a TypeError.
            InvalidInputError: an unusable value; also a ValueError.
            ImageError: a picture cannot be read; also an OSError. Messages name the item.
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
            batch_size: Items that go through the model together, across the dicts of a list.

        Returns:
            As `forward`; for a list, a list with an answer for each dict.
        """
        if not isinstance(input, list):
            return self.forward(input, batch_size)
        _check_batch_size(batch_size)
        parts = [_split_numbered(index, item) for index, item in enumerate(input)]
        images = self._embed_images(
            [i for some, _ in parts for i in some or ()],
            batch_size,
            _names_in([len(some or ()) for some, _ in parts]),
        )
        texts = self._embed_texts([t for _, some in parts for t in some or ()], batch_size)
        answers = []
        image_row = text_row = 0
        for some_images, some_texts in parts:
            image_end = image_row + len(some_images or ())
            text_end = text_row + len(some_texts or ())
            answers.append(
                self._answer(
                    None if some_images is None else images[image_row:image_end],
                    None if some_texts is None else texts[text_row:text_end],
                )
            )
            image_row, text_row = image_end, text_end
        return answers

    def _embed_images(
        self,
        images: list[ImageInput],
        batch_size: int | None,
        name_of: Callable[[int], str] = "img[{}]".format,
    ) -> NDArray[np.float32]:
        size = min(batch_size or IMAGE_BATCH, len(images) or 1)
        rows = np.empty((len(images), self.model.info.embed_dim), np.float32)
        # Pictures are opened a batch at a time: a list of paths may be longer than memory.
        for start in range(0, len(images), size):
            batch = list(self.preprocessor.open_images(images, start, start + size, name_of))
            rows[start : start + len(batch)] = self.model.encoder.encode_images(batch, size)
        return rows

    def _embed_texts(self, texts: list[str], batch_size: int | None) -> NDArray[np.float32]:
        return self.model.encoder.encode_texts(
            texts, min(batch_size or TEXT_BATCH, len(texts) or 1)
        )

    def _answer(
        self, images: NDArray[np.float32] | None, texts: NDArray[np.float32] | None
    ) -> dict[str, Any]:
        return {
            OutputKeys.IMG_EMBEDDING: _as_returned(images, self._return_tensors),
            OutputKeys.TEXT_EMBEDDING: _as_returned(texts, self._return_tensors),
        }


def _split_numbered(
    index: int, item: Mapping[str, Any]
) -> tuple[list[ImageInput] | None, list[str] | None]:
    try:
        return split_input(item)
    except (InputTypeError, InvalidInputError) as error:
        raise type(error)(f"input[{index}]: {error}") from error


def _names_in(counts: list[int]) -> Callable[[int], str]:
    """Names pictures by their dict and their place in it; `counts` of them stand in each dict."""
    ends = list(itertools.accumulate(counts))

    def name_of(row: int) -> str:
        index = bisect_right(ends, row)
        return f"input[{index}]: img[{row - ends[index] + counts[index]}]"

    return name_of


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is None:
        return
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
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
