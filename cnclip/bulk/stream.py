"""Items through the model, with those that earlier runs have embedded in their places."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

from PIL import Image

from ..pipelines import Batch, MultiModalEmbeddingPipeline, embed_images, embed_texts
from .items import Item, Kind, Outcome

# Texts of a list that is yielded: some seconds' work, after which a run commits.
TEXTS_AT_ONCE = 512

Take = Callable[[Outcome], None]


def embed_items(
    pipeline: MultiModalEmbeddingPipeline,
    items: Iterable[Item] | Iterable[Outcome],
    kind: Kind,
    *,
    batch_size: int,
    cut_every: int,
    take: Take | None = None,
    turned: bool = True,
) -> Generator[list[Outcome], None, None]:
    """Embed items, and yield them in order.

    A batch ends when it is full, and after every `cut_every`-th item. So a run that continues
    after the end of a list, with all items before it known, has the same batches from there on,
    and the same bits.

    Args:
        pipeline: The model.
        items: Items to embed; drawn about a batch ahead of the list that is yielded.
        kind: "images" or "texts".
        batch_size: Images that go through the model together.
        cut_every: The length of a list, at most.
        take: Called with each outcome without an error. It sets the vector or the error of an item
            that is known.
        turned: Turn images as their EXIF orientation says.

    Yields:
        Lists of outcomes. Each has a vector, float32 [d] unless it was known, or an error.
    """

    def open_image(outcome: Outcome) -> Image.Image | None:
        try:
            return None if outcome.done else outcome.open(turned=turned)
        finally:
            outcome.release_image()

    found = taken(items, take)
    batches: Generator[Batch[Outcome], None, None]
    if kind == "texts":
        batches = embed_texts(pipeline, found, _text, max_texts=TEXTS_AT_ONCE, cut_every=cut_every)
    else:
        batches = embed_images(
            pipeline, found, open_image, batch_size=batch_size, cut_every=cut_every
        )
    with closing(batches):
        for batch in batches:
            for outcome, vector in zip(batch.embedded, batch.vectors, strict=True):
                outcome.vector = vector
            for outcome, error in batch.failed:
                outcome.error = error.reason
            yield batch.items


def _text(outcome: Outcome) -> str | None:
    return None if outcome.done else outcome.item.text


def taken(items: Iterable[Item] | Iterable[Outcome], take: Take | None) -> Iterator[Outcome]:
    """The items' outcomes. `take` is called with each one that has no error."""
    for item in items:
        outcome = item if isinstance(item, Outcome) else Outcome.of(item)
        if take is not None and outcome.error is None:
            take(outcome)
        yield outcome
