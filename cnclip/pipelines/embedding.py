"""The pipeline of `Tasks.multi_modal_embedding`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer
from ..outputs import OutputKeys
from ..preprocessors.inputs import InputImages, InputTexts, split_input
from ..preprocessors.multi_modal import CLIPPreprocessor
from .model import EmbeddingModel, as_returned
from .stream import Batch, embed_images, embed_texts

T = TypeVar("T")


class MultiModalEmbeddingPipeline:
    """Embeds images and Chinese texts in one space.

    Made by `cnclip.pipelines.pipeline`. Threads may call one pipeline at the same time.

    Attributes:
        model: The open model.
        preprocessor: Images and texts to the model's input.
    """

    def __init__(self, model: EmbeddingModel, preprocessor: CLIPPreprocessor) -> None:
        self.model = model
        self.preprocessor = preprocessor

    def __repr__(self) -> str:
        model = self.model
        info = model.info
        return (
            f"MultiModalEmbeddingPipeline({str(info.path)!r}: {info.embed_dim} columns, images of "
            f"{info.resolution} x {info.resolution} pixels, texts of up to {info.context_length} "
            f"ids, {model.precision} on {model.device})"
        )

    def preprocess(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """Make the tensors that ModelScope's `preprocess` returns for the same input.

        Args:
            input: As for `forward`. The tensors of all items are in memory, those of an iterator
                too.

        Returns:
            {'img': float32 [n, 3, r, r], 'text': int64 [n, 52]}, the keys of the input.
        """
        arrays = self.preprocessor(input)
        return {key: as_returned(array, self.model.return_tensors) for key, array in arrays.items()}

    def forward(self, input: Mapping[str, Any], batch_size: int | None = None) -> dict[str, Any]:
        """Embed images, texts, or both.

        Args:
            input: 'img': PIL.Image.Image, path, http(s), file or data URL, bytes of an image file,
                uint8 array [height, width, 3] (red, green, blue), or an iterable of any of them;
                also a uint8 array [n, height, width, 3].
                'text': str or an iterable of them. A key that is missing or None is left out.
                Arrays of NumPy with str or objects, and pyarrow's, are taken as lists.
                Paths, URLs and bytes are opened as `load_image` does. Open images are not turned
                by their EXIF orientation.
                All items of a list or tuple are checked before work begins. Other iterables are
                consumed while the model runs, about a batch ahead of it on a CPU and two on a
                GPU, and are never in memory as a whole; they may reuse the memory of an open image
                for the next one.
            batch_size: Items that go through the model together, at most. By default 8 images on a
                CPU and 256 on a GPU, and as many texts as have 2,048 tokens on a CPU and 16,384 on
                a GPU. Larger values are reduced to 32 images on a CPU and 256 on a GPU; texts never
                have more tokens together than by default.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None}:
            both keys always, rows of unit length in the order of the items.

        Raises:
            InputTypeError: an item of a type that cannot be embedded; also a TypeError.
            InvalidInputError: an unusable value; also a ValueError.
            ImageError: an image cannot be read; also an OSError. Messages name the item.
            ModelRunError: the model returned a row that is not finite or not of unit length.
            OutOfMemoryError: the device has no memory for a batch, or with `resize='gpu'` for an
                image; also a MemoryError.
            KeyboardInterrupt: Ctrl-C, seen between batches.
        """
        if batch_size is not None:
            check_integer(batch_size, "batch_size")
        images, texts = split_input(input)
        return self._output(
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
            batch_size: As for `forward`. A batch may have items of several dicts of a list.

        Returns:
            The dict that `forward` returns; for a list, a list of such dicts.
        """
        if not isinstance(input, list):
            return self.forward(input, batch_size)
        if batch_size is not None:
            check_integer(batch_size, "batch_size")
        parts = [split_input(item, f"input[{index}]") for index, item in enumerate(input)]
        image_counts, text_counts = [0] * len(parts), [0] * len(parts)
        images = self._embed_images(_chain([some for some, _ in parts], image_counts), batch_size)
        texts = self._embed_texts(_chain([some for _, some in parts], text_counts), batch_size)
        image_rows = np.split(images, list(itertools.accumulate(image_counts))[:-1])
        text_rows = np.split(texts, list(itertools.accumulate(text_counts))[:-1])
        return [
            self._output(
                None if some_images is None else image_rows[index],
                None if some_texts is None else text_rows[index],
            )
            for index, (some_images, some_texts) in enumerate(parts)
        ]

    def _embed_images(self, images: InputImages, batch_size: int | None) -> NDArray[np.float32]:
        as_bytes = self.model.takes_bytes
        batches = embed_images(
            self,
            self.preprocessor.settled(images, as_bytes=as_bytes),
            partial(self.preprocessor.prepare_input, as_bytes=as_bytes),
            batch_size=None if batch_size is None else int(batch_size),
            strict=True,
        )
        return self._rows(batches)

    def _embed_texts(self, texts: InputTexts, batch_size: int | None) -> NDArray[np.float32]:
        size = None if batch_size is None else int(batch_size)
        return self._rows(embed_texts(self, texts, lambda text: text, batch_size=size, strict=True))

    def _rows(self, batches: Iterable[Batch[Any]]) -> NDArray[np.float32]:
        """The embeddings of all batches, float32 [n, d]."""
        parts = [batch.vectors for batch in batches]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, self.model.info.embed_dim), np.float32), *parts])

    def _output(
        self, images: NDArray[np.float32] | None, texts: NDArray[np.float32] | None
    ) -> dict[str, Any]:
        return {
            OutputKeys.IMG_EMBEDDING: as_returned(images, self.model.return_tensors),
            OutputKeys.TEXT_EMBEDDING: as_returned(texts, self.model.return_tensors),
        }


def _chain(parts: list[list[T] | Iterator[T] | None], counts: list[int]) -> list[T] | Iterator[T]:
    """All items one after the other: a list if all parts are lists.

    `counts` gets the number of items of each part; of iterators, while they are consumed.
    """

    def draw() -> Iterator[T]:
        for index, part in enumerate(parts):
            for item in part or ():
                counts[index] += 1
                yield item

    return draw() if any(isinstance(part, Iterator) for part in parts) else list(draw())
