"""Items to embeddings, batch by batch: bad items, items that are known, where batches end."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.errors import ImageError, InvalidInputError, OutOfMemoryError
from cnclip.pipelines import MultiModalEmbeddingPipeline, embed_images, embed_texts
from cnclip.pipelines.scores import probabilities
from cnclip.preprocessors import CLIPPreprocessor
from tests.support.gpu import use_as_on_a_gpu

SIZES = [(4, 4), (9, 5), (40, 33)]


@pytest.fixture(
    params=[(1, "cpu"), (4, "cpu"), (4, "gpu")], ids=lambda param: f"{param[1]}{param[0]}"
)
def pipeline(
    vit: MultiModalEmbeddingPipeline,
    archive: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> MultiModalEmbeddingPipeline:
    """One without threads for images, one with some, and one that is used as on a GPU."""
    num_threads, kind = request.param
    if kind == "gpu":
        use_as_on_a_gpu(monkeypatch)
    preprocessor = CLIPPreprocessor(archive, num_threads=num_threads)
    return MultiModalEmbeddingPipeline(vit.model, preprocessor)


def image_of(number: int) -> Image.Image:
    return Image.new("RGB", SIZES[number % 3], (number % 256, 7, 77))


def open_most(number: int) -> Image.Image | bytes | None:
    """Every seventh image is damaged, every fifth is known."""
    if number % 7 == 3:
        return b"no image"
    return None if number % 5 == 0 else image_of(number)


def test_items_come_in_order_with_their_embeddings(pipeline: MultiModalEmbeddingPipeline) -> None:
    batches = list(embed_images(pipeline, range(60), open_most, batch_size=4))
    assert [item for batch in batches for item in batch.items] == list(range(60))
    damaged = [item for batch in batches for item, _ in batch.failed]
    assert damaged == [number for number in range(60) if number % 7 == 3]
    embedded = [item for batch in batches for item in batch.embedded]
    assert embedded == [number for number in range(60) if number % 7 != 3 and number % 5]
    vectors = np.concatenate([batch.vectors for batch in batches])
    expected = pipeline.forward({"img": [image_of(number) for number in embedded]})
    np.testing.assert_allclose(vectors, expected["img_embedding"], rtol=0, atol=2e-6)
    assert all(len(batch.embedded) == 4 for batch in batches[:-1])
    for batch in batches:
        assert len(batch.vectors) == len(batch.embedded)
        for _, error in batch.failed:
            assert isinstance(error, ImageError)
            assert error.reason == "cannot be read as an image: of no format that Pillow knows"


def test_batches_end_where_they_are_cut(pipeline: MultiModalEmbeddingPipeline) -> None:
    batches = list(embed_images(pipeline, range(60), open_most, batch_size=4, cut_every=10))
    ends = list(itertools.accumulate(len(batch.items) for batch in batches))
    assert set(range(10, 61, 10)) <= set(ends)
    assert all(len(batch.embedded) <= 4 for batch in batches)
    texts = list(embed_texts(pipeline, range(25), str, max_texts=4, cut_every=10))
    assert [len(batch.items) for batch in texts] == [4, 4, 2, 4, 4, 2, 4, 1]


def test_a_run_that_continues_has_the_same_bits(pipeline: MultiModalEmbeddingPipeline) -> None:
    def vectors(known: int) -> dict[int, Any]:
        found: dict[int, Any] = {}
        open_unknown = lambda number: None if number < known else image_of(number)  # noqa: E731
        for batch in embed_images(pipeline, range(40), open_unknown, batch_size=8, cut_every=10):
            found.update(zip(batch.embedded, batch.vectors, strict=True))
        return found

    whole = vectors(0)
    ends = [8, 10, 18, 20, 28, 30, 38]  # of the whole run's batches
    for known in ends:
        for number, vector in vectors(known).items():
            assert np.array_equal(vector, whole[number])


def test_a_batch_that_has_only_bad_items(pipeline: MultiModalEmbeddingPipeline) -> None:
    (batch,) = embed_images(pipeline, [1, 2], lambda number: b"")
    assert (batch.items, batch.embedded, len(batch.failed)) == ([1, 2], [], 2)
    assert batch.vectors.shape == (0, 64)
    assert list(embed_images(pipeline, [], lambda number: b"")) == []


def test_strict_raises_the_first_error(pipeline: MultiModalEmbeddingPipeline) -> None:
    def open_item(number: int) -> Any:
        if number == 9:
            raise InvalidInputError("the first")
        return b"" if number > 9 else image_of(number)

    items = []
    with pytest.raises(InvalidInputError, match="the first"):
        for batch in embed_images(pipeline, range(20), open_item, batch_size=4, strict=True):
            items += batch.items
    assert items == list(range(8))


def test_other_exceptions_are_raised(pipeline: MultiModalEmbeddingPipeline) -> None:
    with pytest.raises(ZeroDivisionError):
        list(embed_images(pipeline, range(-3, 3), lambda number: image_of(1 // number)))


def test_texts(pipeline: MultiModalEmbeddingPipeline) -> None:
    words = [f"第{number}句" * (number % 4 + 1) for number in range(30)]
    text_of = lambda number: None if number % 5 == 0 else words[number]  # noqa: E731
    batches = list(embed_texts(pipeline, range(30), text_of, max_texts=7, batch_size=3))
    assert [item for batch in batches for item in batch.items] == list(range(30))
    for batch in batches:
        assert batch.failed == []
        rows = pipeline.forward({"text": [words[number] for number in batch.embedded]})
        np.testing.assert_allclose(batch.vectors, rows["text_embedding"], rtol=0, atol=2e-6)


def test_batches_are_no_larger_than_the_device_takes(pipeline: MultiModalEmbeddingPipeline) -> None:
    batches = list(embed_images(pipeline, iter(range(100)), image_of, batch_size=10**6))
    assert [len(batch.items) for batch in batches] == [32, 32, 32, 4]


def test_probabilities() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    powers = np.exp(scores.astype(np.float64) / 0.05)
    expected = powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(scores, 0.05), expected)
    np.testing.assert_allclose(probabilities(scores[0], 0.05), expected[0])
    assert probabilities([1.0, -1.0], 1e-6).tolist() == [1, 0]
    assert probabilities([], 0.05).shape == (0,)
    assert probabilities(np.empty((0, 4)), 0.05).shape == (0, 4)


class EmptyMemory:
    """An encoder on a device whose memory suffices for two items."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def encode_pixels(self, pixels: Any) -> Any:
        if len(pixels) > 2:
            raise MemoryError("out of memory for running the model")
        return self.encoder.encode_pixels(pixels)

    def encode_texts(self, texts: list[str], batch_size: int) -> Any:
        if not 0 < batch_size <= 2:
            raise MemoryError("out of memory for running the model")
        return self.encoder.encode_texts(texts, batch_size)


def test_memory_that_is_too_small_for_a_batch(vit: MultiModalEmbeddingPipeline) -> None:
    """The error names the batch; smaller batches run, with the same pipeline."""
    model = dataclasses.replace(vit.model, encoder=EmptyMemory(vit.model.encoder))
    small = MultiModalEmbeddingPipeline(model, vit.preprocessor)
    images, texts = [image_of(number) for number in range(5)], ["猫", "狗", "花"]
    advice = "at once: choose a smaller batch_size, or end other programs that use the memory"
    for given, batch_size, batch in (
        ({"img": images}, 4, "4 images"),
        ({"img": images[:3]}, None, "3 images"),
        ({"text": texts}, None, "3 texts"),
    ):
        with pytest.raises(OutOfMemoryError) as raised:
            small.forward(given, batch_size=batch_size)
        assert isinstance(raised.value, MemoryError)
        assert str(raised.value) == f"no memory on cpu for {batch} {advice}"
        found = small.forward(given, batch_size=2)
        for key, rows in vit.forward(given, batch_size=2).items():
            assert found[key] is rows is None or np.array_equal(found[key], rows)
