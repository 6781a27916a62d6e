"""Items through the model: images decoded on threads while it runs, texts many at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CnclipError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.prefetch import map_ahead
from .batches import as_generator
from .items import Item, Kind, reason

# Texts that are embedded at a time, some seconds' work, and characters of theirs.
TEXTS_AT_ONCE = 512
CHARACTERS_AT_ONCE = 1 << 20

Take = Callable[[Item], None]


def embed_items(
    pipeline: MultiModalEmbeddingPipeline,
    items: Iterable[Item],
    kind: Kind,
    *,
    batch_size: int,
    cut_every: int,
    take: Take | None = None,
) -> Generator[list[Item], None, None]:
    """Embed items, and give them out in their order.

    Which items go through the model together depends on nothing but which have to: a batch ends
    when it is full, and behind every `cut_every`-th item. So one who was told a list, and comes
    again with all up to its end known, gets the same batches from there on, and the same bits.

    Args:
        pipeline: The model.
        items: What to embed; drawn about two batches ahead of what is given out.
        kind: What they are.
        batch_size: Images that go through the model together.
        cut_every: The longest list.
        take: Looks whether an item is known: it has a vector or an error then.

    Yields:
        Lists of items, one after the other; each item has its vector, float32 [d] where it was
        not known before, or its error.
    """
    batch: _Batch = _Texts(pipeline) if kind == "texts" else _Images(pipeline, batch_size)
    waiting: list[Item] = []
    with closing(as_generator(batch.prepared(items, take))) as prepared:
        for number, (item, value) in enumerate(prepared, 1):
            waiting.append(item)
            if value is not None:
                batch.add(item, value)
            if batch.full or number % cut_every == 0:
                batch.run()
                yield waiting
                waiting = []
    batch.run()
    if waiting:
        yield waiting


class _Batch(ABC):
    """Items that wait for the model."""

    def __init__(self, pipeline: MultiModalEmbeddingPipeline) -> None:
        self._pipeline = pipeline
        self._items: list[Item] = []

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether it is time to run."""

    @abstractmethod
    def prepared(self, items: Iterable[Item], take: Take | None) -> Iterator[tuple[Item, Any]]:
        """The items, each with what the model takes of it, or None where it needs no model."""

    def add(self, item: Item, value: Any) -> None:
        """Put an item in."""
        self._items.append(item)

    def run(self) -> None:
        """Embed what is in it, and empty it."""
        if self._items:
            for item, row in zip(self._items, self._encode(), strict=True):
                item.vector = row
            self._items = []

    @abstractmethod
    def _encode(self) -> NDArray[np.float32]: ...


class _Images(_Batch):
    def __init__(self, pipeline: MultiModalEmbeddingPipeline, size: int) -> None:
        super().__init__(pipeline)
        side = pipeline.preprocessor.image_resolution
        self._size = size
        self._pixels = np.empty((size, 3, side, side), np.float32)

    @property
    def full(self) -> bool:
        return len(self._items) == self._size

    def prepared(self, items: Iterable[Item], take: Take | None) -> Iterator[tuple[Item, Any]]:
        preprocessor = self._pipeline.preprocessor

        def work(item: Item) -> tuple[Item, NDArray[np.float32] | None]:
            if item.error is not None or item.vector is not None:
                return item, None
            try:
                return item, preprocessor.process_image(item.open())
            except CnclipError as error:
                item.error = reason(error)
                return item, None
            finally:
                item.read = None  # it may hold the file's bytes

        return map_ahead(work, taken(items, take), preprocessor.num_threads, 2 * self._size)

    def add(self, item: Item, value: NDArray[np.float32]) -> None:
        self._pixels[len(self._items)] = value[0]
        super().add(item, value)

    def _encode(self) -> NDArray[np.float32]:
        return self._pipeline.model.encoder.encode_pixels(self._pixels[: len(self._items)])


class _Texts(_Batch):
    _characters = 0

    @property
    def full(self) -> bool:
        return len(self._items) == TEXTS_AT_ONCE or self._characters >= CHARACTERS_AT_ONCE

    def prepared(self, items: Iterable[Item], take: Take | None) -> Iterator[tuple[Item, Any]]:
        for item in taken(items, take):
            done = item.error is not None or item.vector is not None
            yield item, None if done else item.text

    def add(self, item: Item, value: str) -> None:
        self._characters += len(value)
        super().add(item, value)

    def _encode(self) -> NDArray[np.float32]:
        self._characters = 0
        texts = [item.text or "" for item in self._items]
        return self._pipeline.model.encoder.encode_texts(texts)


def taken(items: Iterable[Item], take: Take | None) -> Iterator[Item]:
    """The items, each once it was looked whether it is known."""
    for item in items:
        if take is not None and item.error is None:
            take(item)
        yield item
