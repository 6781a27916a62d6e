"""The one loop from items to embeddings: opens, preprocesses, batches, embeds, in order.

Items that cannot be read are reported with their batch; the others are embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import closing
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CnclipError, ModelRunError
from ..preprocessors.inputs import ImageInput, Preprocessed
from ..preprocessors.multi_modal import CLIPPreprocessor
from .model import EmbeddingModel

# Measured on two cores: larger batches cost memory and gain nothing there.
IMAGE_BATCH = 8
# Limits of a batch of texts. The core sorts a batch by length and runs it in pieces of at most
# 2,048 tokens. MAX_TEXTS is TEXTS_AT_ONCE of csrc/text/text_encoder.c.
MAX_TEXTS = 4096
MAX_CHARACTERS = 1 << 22
# Of the squared length of a row from 1; float16 on a GPU stays far below it.
MAX_DEVIATION = 0.01

T = TypeVar("T")
Value = TypeVar("Value")


class Embedder(Protocol):
    """An open pipeline."""

    model: EmbeddingModel
    preprocessor: CLIPPreprocessor


class Batch(NamedTuple, Generic[T]):
    """Consecutive items that went through the model together.

    Attributes:
        items: All of them, in order.
        embedded: Those that were embedded, in order.
        vectors: The embeddings of those, float32 [n, d], rows of unit length.
        failed: Those that could not be read or embedded, and why.
    """

    items: list[T]
    embedded: list[T]
    vectors: NDArray[np.float32]
    failed: list[tuple[T, CnclipError]]


def embed_images(
    pipeline: Embedder,
    items: Iterable[T],
    open_image: Callable[[T], ImageInput | Preprocessed | None],
    *,
    batch_size: int = IMAGE_BATCH,
    cut_every: int | None = None,
    strict: bool = False,
) -> Generator[Batch[T], None, None]:
    """Embed images. Threads open and preprocess the next ones while the model runs.

    Which images go through the model together depends on the items alone: a batch ends when
    `batch_size` images have been opened, and after every `cut_every`-th item. With other threads or
    another speed the batches, and with them the bits of the embeddings, are the same.

    Args:
        pipeline: An open pipeline.
        items: Drawn on the caller's thread, about a batch ahead of the batch that is yielded.
        open_image: The image of an item, as `pipeline.forward` takes it, or None for an item that
            needs no embedding: it keeps its place in `Batch.items`. Called on several threads at
            once. A CnclipError that it raises is the item's error.
        batch_size: Images that go through the model together, at most `model.max_image_batch`.
        cut_every: A batch ends after every so many items, counted from the first.
        strict: Raise the error of the first item that fails instead of going on without it.

    Yields:
        Batches in the order of the items. Closing the generator ends the threads.
    """
    preprocessor = pipeline.preprocessor
    side = preprocessor.image_resolution
    size = min(batch_size, pipeline.model.max_image_batch)
    if isinstance(items, Sized):
        size = min(size, max(1, len(items)))
    pixels = np.empty((size, 3, side, side), np.float32)

    def encode(tensors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if len(tensors) == 1:
            return pipeline.model.encoder.encode_pixels(tensors[0])
        batch = np.concatenate(tensors, out=pixels[: len(tensors)])
        return pipeline.model.encoder.encode_pixels(batch)

    with closing(preprocessor.tensors(items, open_image, size, strict=strict)) as tensors:
        yield from _batches(
            pipeline, tensors, encode, size, lambda tensor: 0, cut_every, strict=strict
        )


def embed_texts(
    pipeline: Embedder,
    items: Iterable[T],
    text_of: Callable[[T], str | None],
    *,
    max_texts: int = MAX_TEXTS,
    batch_size: int | None = None,
    cut_every: int | None = None,
    strict: bool = False,
) -> Generator[Batch[T], None, None]:
    """Embed texts. Batches depend on the items alone, as those of `embed_images`.

    Args:
        pipeline: An open pipeline.
        items: Drawn no further than the batch that is yielded.
        text_of: The text of an item, or None for an item that needs no embedding: it keeps its
            place in `Batch.items`.
        max_texts: Texts of a batch.
        batch_size: Texts that go through the model together, at most; by default as many as have
            2,048 tokens.
        cut_every: A batch ends after every so many items, counted from the first.
        strict: Raise an error if the model returns a row that cannot be used.

    Yields:
        Batches in the order of the items. Failed items are those of such rows.
    """
    size = min(batch_size or 0, MAX_TEXTS)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return pipeline.model.encoder.encode_texts(texts, size)

    texts = ((item, text_of(item)) for item in items)
    yield from _batches(
        pipeline, texts, encode, min(max_texts, MAX_TEXTS), len, cut_every, strict=strict
    )


def _batches(
    pipeline: Embedder,
    prepared: Iterable[tuple[T, Value | CnclipError | None]],
    encode: Callable[[list[Value]], NDArray[np.float32]],
    max_values: int,
    characters_of: Callable[[Value], int],
    cut_every: int | None,
    *,
    strict: bool,
) -> Generator[Batch[T], None, None]:
    """Batches of items, of which each has a value for the model, an error, or neither."""

    def batch() -> Batch[T]:
        width = pipeline.model.info.embed_dim
        vectors = encode(values) if values else np.empty((0, width), np.float32)
        good = _usable(vectors)
        if good.all():
            return Batch(items, embedded, vectors, failed)
        error = ModelRunError(
            "the model returned a row that is not finite or not of unit length; its weights are "
            "damaged, or too large for its precision",
            file=pipeline.model.info.path,
        )
        if strict:
            raise error
        failed.extend((item, error) for item, ok in zip(embedded, good, strict=True) if not ok)
        usable = [item for item, ok in zip(embedded, good, strict=True) if ok]
        return Batch(items, usable, vectors[good], failed)

    items: list[T] = []
    embedded: list[T] = []
    values: list[Value] = []
    failed: list[tuple[T, CnclipError]] = []
    characters = 0
    for number, (item, value) in enumerate(prepared, 1):
        items.append(item)
        if isinstance(value, CnclipError):
            failed.append((item, value))
        elif value is not None:
            embedded.append(item)
            values.append(value)
            characters += characters_of(value)
        full = len(values) == max_values or characters >= MAX_CHARACTERS
        if full or (cut_every is not None and number % cut_every == 0):
            yield batch()
            items, embedded, values, failed, characters = [], [], [], [], 0
    if items:
        yield batch()


def _usable(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row is finite and of unit length: bool [n]."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    usable: NDArray[np.bool_] = np.abs(squares - 1) < MAX_DEVIATION
    return usable
