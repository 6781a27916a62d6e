"""Images of any number through a pipeline: decoded on threads while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CnclipError
from ..pipelines import MultiModalEmbeddingPipeline
from ..pipelines.embedding import IMAGE_BATCH
from ..preprocessors.multi_modal import ImageInput
from ..preprocessors.prefetch import map_ahead

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """Items that went through the model together.

    Attributes:
        items: Those that were embedded.
        rows: Their embeddings, float32 [n, d], of unit length.
        failed: Those that could not be read among them, and why.
    """

    items: list[Item]
    rows: NDArray[np.float32]
    failed: list[tuple[Item, CnclipError]]


def embed_images(
    pipeline: MultiModalEmbeddingPipeline,
    items: Iterable[Item],
    open_item: Callable[[Item], ImageInput],
    batch_size: int = IMAGE_BATCH,
) -> Iterator[Batch[Item]]:
    """Embed images, a batch at a time.

    Args:
        pipeline: The model.
        items: What stands for images; drawn about two batches ahead of what is given out.
        open_item: The image of an item, as `pipeline.forward` takes it. Called on threads.
        batch_size: Images that go through the model together.

    Yields:
        Batches in the order of the items. An image that cannot be read is told, and no more.
    """
    preprocessor = pipeline.preprocessor
    side = preprocessor.image_resolution

    def work(item: Item) -> tuple[Item, NDArray[np.float32] | CnclipError]:
        try:
            return item, preprocessor.process_image(open_item(item))
        except CnclipError as error:
            return item, error

    pixels = np.empty((batch_size, 3, side, side), np.float32)
    good: list[Item] = []
    failed: list[tuple[Item, CnclipError]] = []
    threads = preprocessor.num_threads
    with closing(as_generator(map_ahead(work, items, threads, 2 * batch_size))) as results:
        for item, result in results:
            if isinstance(result, CnclipError):
                failed.append((item, result))
            else:
                pixels[len(good)] = result[0]
                good.append(item)
            if len(good) == batch_size:
                yield Batch(good, pipeline.model.encoder.encode_pixels(pixels), failed)
                good, failed = [], []
    if good or failed:
        rows = pipeline.model.encoder.encode_pixels(pixels[: len(good)])
        yield Batch(good, rows, failed)


def as_generator(iterator: Iterator[Item]) -> Generator[Item, None, None]:
    """Closing it ends the threads."""
    yield from iterator
