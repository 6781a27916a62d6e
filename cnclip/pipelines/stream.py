"""The one loop from items to embeddings: opens, preprocesses, batches, embeds, in order.

Items that cannot be read are reported with their batch; the others are embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import closing
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._core import unusable_rows
from .._text import counted
from ..errors import CnclipError, ModelRunError, OutOfMemoryError
from ..preprocessors._prefetch import map_ahead
from ..preprocessors.inputs import ImageInput, Preprocessed, Tensor
from ..preprocessors.multi_modal import CLIPPreprocessor
from .model import EmbeddingModel

# Limits of a batch of texts. The core sorts a batch by length and runs it in pieces of at most
# 2,048 tokens on a CPU and 16,384 on a GPU. MAX_TEXTS is TEXTS_AT_ONCE of csrc/text/text_encoder.c.
MAX_TEXTS = 4096
MAX_CHARACTERS = 1 << 22
# Of the squared length of a row from 1; float16 on a GPU stays far below it.
MAX_DEVIATION = 0.01

T = TypeVar("T")
Value = TypeVar("Value")

_NO_VECTORS = np.empty((0, 0), np.float32)


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

    def with_vectors(self, vectors: NDArray[np.float32]) -> Batch[T]:
        """The batch with embeddings of its embedded items."""
        return Batch(self.items, self.embedded, vectors, self.failed)


def embed_images(
    pipeline: Embedder,
    items: Iterable[T],
    open_image: Callable[[T], ImageInput | Preprocessed | None],
    *,
    batch_size: int | None = None,
    cut_every: int | None = None,
    strict: bool = False,
) -> Generator[Batch[T], None, None]:
    """Embed images. Threads open and preprocess the next ones while the model runs.

    On a GPU, two batches are under way: while one goes through the model, the next is handed over.

    Which images go through the model together depends on the items alone: a batch ends when
    `batch_size` images have been opened, and after every `cut_every`-th item. With other threads or
    another speed the batches, and with them the bits of the embeddings, are the same.

    Args:
        pipeline: An open pipeline.
        items: Drawn on the caller's thread, about a batch ahead of the batch that is yielded; on a
            GPU, about two.
        open_image: The image of an item, as `pipeline.forward` takes it, or None for an item that
            needs no embedding: it keeps its place in `Batch.items`. Called on several threads at
            once. A CnclipError that it raises is the item's error.
        batch_size: Images that go through the model together, at most `model.max_image_batch`; by
            default `model.image_batch`, 8 on a CPU and 256 on a GPU.
        cut_every: A batch ends after every so many items, counted from the first.
        strict: Raise the error of the first item that fails instead of going on without it.

    Yields:
        Batches in the order of the items. Closing the generator ends the threads.
    """
    model, preprocessor = pipeline.model, pipeline.preprocessor
    size = min(batch_size or model.image_batch, model.max_image_batch)
    under_way = _batches_under_way(model, items, size)
    if isinstance(items, Sized):
        size = min(size, max(1, len(items)))
    encode = image_encoder(pipeline, size, under_way)
    tensors = preprocessor.tensors(
        items, open_image, size, as_bytes=model.takes_bytes, strict=strict
    )
    with closing(tensors):
        groups = _groups(tensors, size, lambda tensor: 0, cut_every)
        yield from _embed(model, "images", groups, encode, under_way, strict=strict)


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
        items: Drawn no further than the batch that is yielded; on a GPU, one batch further.
        text_of: The text of an item, or None for an item that needs no embedding: it keeps its
            place in `Batch.items`.
        max_texts: Texts of a batch.
        batch_size: Texts that go through the model together, at most; by default as many as have
            2,048 tokens on a CPU and 16,384 on a GPU.
        cut_every: A batch ends after every so many items, counted from the first.
        strict: Raise an error if the model returns a row that cannot be used.

    Returns:
        Batches in the order of the items. Failed items are those of such rows.
    """
    model = pipeline.model
    size, max_texts = min(batch_size or 0, MAX_TEXTS), min(max_texts, MAX_TEXTS)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return model.encoder.encode_texts(texts, size)

    under_way = _batches_under_way(model, items, max_texts)
    texts = ((item, text_of(item)) for item in items)
    groups = _groups(texts, max_texts, len, cut_every)
    return _embed(model, "texts", groups, encode, under_way, strict=strict)


def _batches_under_way(model: EmbeddingModel, items: Iterable[T], size: int) -> int:
    """Batches to hand over to the model at a time: 1, without threads, if there is only one."""
    return 1 if isinstance(items, Sized) and len(items) <= size else model.batches_under_way


def image_encoder(
    pipeline: Embedder, size: int, buffers: int = 1
) -> Callable[[list[Tensor]], NDArray[np.float32]]:
    """A function from the tensors of up to `size` images to their embeddings.

    As many threads as there are buffers may call it at the same time.
    """
    preprocessor, encode_pixels = pipeline.preprocessor, pipeline.model.encoder.encode_pixels
    side, as_bytes = preprocessor.image_resolution, pipeline.model.takes_bytes
    shape = (size, side, side, 4) if as_bytes else (size, 3, side, side)
    dtype = np.uint8 if as_bytes else np.float32
    free: list[Tensor] = [np.empty(shape, dtype) for _ in range(buffers)]

    def encode(tensors: list[Tensor]) -> NDArray[np.float32]:
        if len(tensors) == 1:
            return encode_pixels(tensors[0])
        if any(tensor.dtype != dtype for tensor in tensors):
            # Some are of a caller that preprocesses images.
            floats = [preprocessor.normalized(tensor) for tensor in tensors]
            return encode_pixels(np.concatenate(floats))
        buffer = free.pop()
        try:
            return encode_pixels(np.concatenate(tensors, out=buffer[: len(tensors)]))
        finally:
            free.append(buffer)

    return encode


def _groups(
    prepared: Iterable[tuple[T, Value | CnclipError | None]],
    max_values: int,
    characters_of: Callable[[Value], int],
    cut_every: int | None,
) -> Generator[tuple[Batch[T], list[Value]], None, None]:
    """Batches without vectors, and the values of the embedded items of each.

    Each prepared item has a value for the model, an error, or neither.
    """
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
            yield Batch(items, embedded, _NO_VECTORS, failed), values
            items, embedded, values, failed, characters = [], [], [], [], 0
    if items:
        yield Batch(items, embedded, _NO_VECTORS, failed), values


def _embed(
    model: EmbeddingModel,
    kind: str,
    groups: Iterable[tuple[Batch[T], list[Value]]],
    encode: Callable[[list[Value]], NDArray[np.float32]],
    under_way: int,
    *,
    strict: bool,
) -> Generator[Batch[T], None, None]:
    """Batches with their vectors, in order.

    With several under way, threads call `encode`; groups are drawn on the caller's thread. `kind`,
    "images" or "texts", names the values in messages.

    Raises:
        OutOfMemoryError: the model has no memory for a batch.
    """

    def embed(group: tuple[Batch[T], list[Value]]) -> Batch[T]:
        batch, values = group
        if not values:
            return batch.with_vectors(np.empty((0, model.info.embed_dim), np.float32))
        vectors, bad = run_model(model, kind, values, encode)
        if not bad:
            return batch.with_vectors(vectors)
        unusable = unusable_row(model)
        if strict:
            raise unusable
        failed = batch.failed + [(batch.embedded[row], unusable) for row in bad]
        rows = [row for row in range(len(vectors)) if row not in set(bad)]
        return Batch(batch.items, [batch.embedded[row] for row in rows], vectors[rows], failed)

    return map_ahead(embed, groups, under_way, under_way - 1)


def run_model(
    model: EmbeddingModel,
    kind: str,
    values: list[Value],
    encode: Callable[[list[Value]], NDArray[np.float32]],
) -> tuple[NDArray[np.float32], list[int]]:
    """The embeddings of one batch, and which of them cannot be used.

    Args:
        model: The model.
        kind: "images" or "texts", the name of the values in messages.
        values: Texts, or tensors of images.
        encode: From the values to their embeddings.

    Returns:
        float32 [n, d], and the numbers of the rows that are not finite or not of unit length.

    Raises:
        OutOfMemoryError: the device has no memory for the batch.
    """
    try:
        vectors = encode(values)
    except MemoryError as failure:
        raise OutOfMemoryError(
            f"no memory on {model.device} for {counted(len(values), kind)} at once: "
            "choose a smaller batch_size, or end other programs that use the memory"
        ) from failure
    return vectors, unusable_rows(vectors, MAX_DEVIATION)


def unusable_row(model: EmbeddingModel) -> ModelRunError:
    """The error of an item whose row cannot be used."""
    return ModelRunError(
        "the model returned a row that is not finite or not of unit length; its weights are "
        "damaged, or too large for its precision",
        file=model.info.path,
    )
