"""A model as on a GPU: images reach it as bytes, and it has two batches at a time."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnclip.errors import InvalidInputError, ModelRunError
from cnclip.pipelines import EmbeddingModel, MultiModalEmbeddingPipeline, embed_images, embed_texts
from cnclip.preprocessors import CLIPPreprocessor
from cnclip.preprocessors.inputs import Preprocessed
from tests.support.gpu import use_as_on_a_gpu
from tests.support.threads import no_threads_left

Encode = Callable[[Any], NDArray[np.float32]]


class Encoder:
    """The model's encoder, with another `encode_pixels`."""

    def __init__(self, model: EmbeddingModel, encode: Encode) -> None:
        self.encode_pixels = encode
        self.encode_texts = model.encoder.encode_texts


@pytest.fixture(params=[1, 4])
def embedder(
    vit: MultiModalEmbeddingPipeline,
    archive: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> MultiModalEmbeddingPipeline:
    use_as_on_a_gpu(monkeypatch)
    model = dataclasses.replace(vit.model)
    return MultiModalEmbeddingPipeline(model, CLIPPreprocessor(archive, request.param))


def replace_encode(embedder: MultiModalEmbeddingPipeline, encode: Encode) -> None:
    embedder.model.encoder = Encoder(embedder.model, encode)  # type: ignore[assignment]


def image_of(number: int) -> Image.Image:
    return Image.new("RGB", (4 + number % 3, 5), (number % 256, 7, 77))


# Bytes


@pytest.mark.parametrize("way", [list, iter], ids=["list", "iterator"])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_bytes_have_the_bits_of_floats(
    vit: MultiModalEmbeddingPipeline,
    image_paths: list[Path],
    photo: Image.Image,
    way: Callable[[list[Any]], Any],
    batch_size: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [*image_paths, photo, photo.convert("P"), np.asarray(photo)[::-1, ::2]]
    encode = vit.model.encoder.encode_pixels
    seen = []

    def recording(pixels: Any) -> NDArray[np.float32]:
        seen.append((pixels.dtype, pixels.shape[1:]))
        return encode(pixels)

    want = vit.forward({"img": way(images)}, batch_size)["img_embedding"]
    opened = MultiModalEmbeddingPipeline(dataclasses.replace(vit.model), vit.preprocessor)
    replace_encode(opened, recording)
    use_as_on_a_gpu(monkeypatch)
    found = opened.forward({"img": way(images)}, batch_size)["img_embedding"]
    assert np.array_equal(found, want)
    assert set(seen) == {(np.dtype(np.uint8), (32, 32, 4))}


def test_preprocess_returns_floats(
    embedder: MultiModalEmbeddingPipeline, photo: Image.Image
) -> None:
    tensors = embedder.preprocess({"img": [photo, photo]})["img"]
    assert tensors.dtype == np.float32
    assert tensors.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_preprocessed_images_of_both_kinds(
    vit: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch, as_on_a_gpu: bool
) -> None:
    numbers = range(12)
    want = vit.forward({"img": [image_of(number) for number in numbers]}, 4)["img_embedding"]
    processor = vit.preprocessor.image_processor
    process, resize = processor.process, processor.resize
    if as_on_a_gpu:
        use_as_on_a_gpu(monkeypatch)
    ways: list[Callable[[int], Any]] = [
        image_of,
        lambda number: Preprocessed(process([image_of(number)])),
        lambda number: Preprocessed(resize([image_of(number)])),
    ]
    for open_image in (*ways, lambda number: ways[number % 3](number)):
        batches = list(embed_images(vit, numbers, open_image, batch_size=4))
        assert np.array_equal(np.concatenate([batch.vectors for batch in batches]), want)


# Two batches


def test_a_batch_is_handed_over_while_another_runs(embedder: MultiModalEmbeddingPipeline) -> None:
    encode = embedder.model.encoder.encode_pixels
    both = threading.Barrier(2)

    def waiting(pixels: Any) -> NDArray[np.float32]:
        both.wait(timeout=20)
        return encode(pixels)

    replace_encode(embedder, waiting)
    batches = list(embed_images(embedder, range(24), image_of, batch_size=4))
    assert [len(batch.items) for batch in batches] == [4] * 6


@pytest.mark.parametrize("slow", [0, 1])
def test_results_are_in_order_and_input_stays(
    embedder: MultiModalEmbeddingPipeline, slow: int
) -> None:
    encode = embedder.model.encoder.encode_pixels
    images = [image_of(number) for number in range(42)]
    want = embedder.forward({"img": images}, batch_size=4)["img_embedding"]
    lock, running, most, number = threading.Lock(), 0, 0, 0

    def uneven(pixels: Any) -> NDArray[np.float32]:
        nonlocal running, most, number
        with lock:
            running, number = running + 1, number + 1
            most, mine = max(most, running), number
        before = pixels.copy()
        time.sleep(0.05 if mine % 2 == slow else 0.001)
        assert np.array_equal(pixels, before)
        rows = encode(pixels)
        with lock:
            running -= 1
        return rows

    replace_encode(embedder, uneven)
    batches = list(embed_images(embedder, range(42), image_of, batch_size=4))
    assert [item for batch in batches for item in batch.items] == list(range(42))
    assert np.array_equal(np.concatenate([batch.vectors for batch in batches]), want)
    assert most == 2


def test_one_batch_needs_no_thread(embedder: MultiModalEmbeddingPipeline) -> None:
    encode = embedder.model.encoder.encode_pixels
    threads = []

    def recording(pixels: Any) -> NDArray[np.float32]:
        threads.append(threading.current_thread())
        return encode(pixels)

    replace_encode(embedder, recording)
    embedder.forward({"img": [image_of(0)] * 4}, batch_size=4)
    assert threads == [threading.current_thread()]
    embedder.forward({"img": [image_of(0)] * 5}, batch_size=4)
    assert threading.current_thread() not in threads[1:]


def test_items_are_drawn_two_batches_ahead(embedder: MultiModalEmbeddingPipeline) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(80):
            drawn += 1
            yield number

    received = 0
    for batch in embed_images(embedder, items(), image_of, batch_size=4):
        received += len(batch.items)
        assert drawn <= received + 2 * 4 + 1
    assert received == drawn == 80


def test_batches_are_larger_on_a_gpu(vit: MultiModalEmbeddingPipeline) -> None:
    model = dataclasses.replace(vit.model, device="cuda:1")
    assert (model.takes_bytes, model.batches_under_way) == (True, 2)
    opened = MultiModalEmbeddingPipeline(model, vit.preprocessor)
    image = image_of(0)
    for items, batch_size, lengths in [
        (range(300), None, [256, 44]),
        (iter(range(300)), None, [256, 44]),
        (range(300), 1000, [256, 44]),
        (range(300), 120, [120, 120, 60]),
        (range(20), None, [20]),
    ]:
        batches = embed_images(opened, items, lambda number: image, batch_size=batch_size)
        assert [len(batch.items) for batch in batches] == lengths
    batches = embed_images(vit, range(20), lambda number: image)
    assert [len(batch.items) for batch in batches] == [8, 8, 4]


def test_texts(embedder: MultiModalEmbeddingPipeline, texts: list[str]) -> None:
    some = [text for text in texts if text] * 3
    batches = list(embed_texts(embedder, iter(some), str, max_texts=5))
    assert [item for batch in batches for item in batch.items] == some
    want = np.concatenate(
        [
            embedder.model.encoder.encode_texts(some[start : start + 5])
            for start in range(0, len(some), 5)
        ]
    )
    assert np.array_equal(np.concatenate([batch.vectors for batch in batches]), want)


# Errors


def test_errors_come_after_the_batches_before_them(embedder: MultiModalEmbeddingPipeline) -> None:
    def open_item(number: int) -> Image.Image:
        if number == 9:
            raise InvalidInputError("bad")
        return image_of(number)

    items = []
    with pytest.raises(InvalidInputError, match="bad"):
        for batch in embed_images(embedder, range(40), open_item, batch_size=4, strict=True):
            items += batch.items
    assert items == list(range(8))


@pytest.mark.parametrize("strict", [False, True])
def test_an_error_of_the_model(embedder: MultiModalEmbeddingPipeline, strict: bool) -> None:
    encode = embedder.model.encoder.encode_pixels

    def failing(pixels: Any) -> NDArray[np.float32]:
        if pixels[0, 0, 0, 0] == 8:  # the first of the third batch
            raise ModelRunError("out of memory")
        return encode(pixels)

    replace_encode(embedder, failing)
    before, items = set(threading.enumerate()), []
    with pytest.raises(ModelRunError, match="out of memory"):
        for batch in embed_images(embedder, range(40), image_of, batch_size=4, strict=strict):
            items += batch.items
    assert items == list(range(8))
    assert no_threads_left(before)


def test_rows_that_cannot_be_used(embedder: MultiModalEmbeddingPipeline) -> None:
    encode = embedder.model.encoder.encode_pixels

    def damaging(pixels: Any) -> NDArray[np.float32]:
        rows = encode(pixels)
        rows[pixels[:, 0, 0, 0] % 10 == 3] = np.nan
        return rows

    replace_encode(embedder, damaging)
    batches = list(embed_images(embedder, range(40), image_of, batch_size=4))
    assert [item for batch in batches for item, _ in batch.failed] == [3, 13, 23, 33]
    assert all(len(batch.vectors) == len(batch.embedded) for batch in batches)
    with pytest.raises(ModelRunError, match="not finite"):
        list(embed_images(embedder, range(40), image_of, batch_size=4, strict=True))


def test_closing_ends_the_threads(embedder: MultiModalEmbeddingPipeline) -> None:
    before = set(threading.enumerate())
    batches = embed_images(embedder, range(1000), image_of, batch_size=4)
    next(batches)
    batches.close()
    assert no_threads_left(before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no such signals")
def test_ctrl_c_does_not_wait_for_the_model(embedder: MultiModalEmbeddingPipeline) -> None:
    encode = embedder.model.encoder.encode_pixels
    main, ended = threading.get_ident(), threading.Event()
    first = threading.Lock()  # a second batch may begin: it sends no second signal

    def interrupted(pixels: Any) -> NDArray[np.float32]:
        if first.acquire(blocking=False):
            signal.pthread_kill(main, signal.SIGINT)
        ended.wait(timeout=20)
        return encode(pixels)

    replace_encode(embedder, interrupted)
    # A shell's background jobs ignore the signal, and their children with them.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            embedder.forward({"img": [image_of(0)] * 40}, batch_size=4)
        assert not ended.is_set()
    finally:
        ended.set()
        time.sleep(0.05)
        signal.signal(signal.SIGINT, ignored)
