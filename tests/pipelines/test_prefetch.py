"""Images in bulk: made on threads, ahead of the model, in order and within bounds."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

import cnclip
from cnclip import errors
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors import CLIPPreprocessor
from cnclip.preprocessors._prefetch import map_ahead
from tests.support.threads import no_threads_left, threads_since


@pytest.fixture(scope="module")
def preprocessor(archive: Path) -> CLIPPreprocessor:
    """One with threads, however few cores there are."""
    return CLIPPreprocessor(archive, num_threads=4)


@pytest.fixture
def threaded(
    vit: MultiModalEmbeddingPipeline, preprocessor: CLIPPreprocessor
) -> MultiModalEmbeddingPipeline:
    return MultiModalEmbeddingPipeline(vit.model, preprocessor)


def tiny(number: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (number % 256, number // 256 % 256, 77))


# map_ahead


@settings(deadline=None, max_examples=60)
@given(
    failing=st.sets(st.integers(0, 40), max_size=3),
    count=st.integers(0, 40),
    ends_badly=st.booleans(),
    threads=st.integers(1, 5),
    ahead=st.integers(1, 9),
)
def test_as_map_does(
    failing: set[int], count: int, ends_badly: bool, threads: int, ahead: int
) -> None:
    def work(item: int) -> int:
        time.sleep(item % 3 * 1e-4)  # later ones may be done sooner
        if item in failing:
            raise ValueError(item)
        return -item

    def items() -> Iterator[int]:
        yield from range(count)
        if ends_badly:
            raise LookupError

    def outcome(results: Iterator[int]) -> list[Any]:
        found: list[Any] = []
        try:
            for result in results:
                found.append(result)
        except (ValueError, LookupError) as error:
            found.append(repr(error))
        return found

    before = set(threading.enumerate())
    assert outcome(map_ahead(work, items(), threads, ahead)) == outcome(map(work, items()))
    assert not threads_since(before)


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_drawn_no_further_than_agreed(threads: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in itertools.count(1):
            drawn = number
            yield number

    results = map_ahead(lambda item: item, items(), threads, 5)
    for taken in range(1, 50):
        assert next(results) == taken
        assert drawn <= taken + 5


def test_a_closed_iteration_leaves_the_rest() -> None:
    before, begun = set(threading.enumerate()), []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.02)

    results = map_ahead(work, range(1000), 2, 500)
    next(results)
    results.close()
    assert no_threads_left(before)
    assert len(begun) < 20


# Images of lists and of iterators


Forms = list[tuple[list[Any], dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def some(texts: list[str]) -> list[str]:
    return texts[:50]


@pytest.fixture(scope="module")
def forms(vit: MultiModalEmbeddingPipeline, image_paths: list[Path], some: list[str]) -> Forms:
    """The images as paths, bytes and objects; each form with its embeddings and arrays."""
    return [
        (images, vit.forward({"img": images, "text": some}), vit.preprocess({"img": images}))
        for images in (
            list(image_paths),
            [path.read_bytes() for path in image_paths],
            [cnclip.load_image(path) for path in image_paths],
        )
    ]


@pytest.mark.parametrize("batch_size", [None, 1, 3, 8, 100, 10**30])
def test_iterators_answer_as_lists(
    threaded: MultiModalEmbeddingPipeline,
    vit: MultiModalEmbeddingPipeline,
    forms: Forms,
    some: list[str],
    batch_size: int | None,
) -> None:
    ids = vit.preprocess({"text": some})["text"]
    ways: list[Callable[[list[Any]], Any]] = [iter, lambda items: (i for i in items), tuple]
    for images, expected, arrays in forms:
        for way in ways:
            found = threaded.forward({"img": way(images), "text": way(some)}, batch_size)
            for key, rows in expected.items():
                np.testing.assert_allclose(found[key], rows, rtol=0, atol=2e-6)
            pixels = threaded.preprocess({"img": way(images), "text": way(some)})
            assert np.array_equal(pixels["img"], arrays["img"])
            assert np.array_equal(pixels["text"], ids)


def test_any_iterable(threaded: MultiModalEmbeddingPipeline, image_paths: list[Path]) -> None:
    paths = dict.fromkeys(map(str, image_paths[:4]))
    expected = threaded.forward({"img": list(paths)})["img_embedding"]
    for images in (paths.keys(), map(Path, paths), itertools.chain(paths)):
        found = threaded.forward({"img": images})["img_embedding"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_empty_iterators(threaded: MultiModalEmbeddingPipeline) -> None:
    answer = threaded.forward({"img": iter(()), "text": iter(())})
    assert [rows.shape for rows in answer.values()] == [(0, 64), (0, 64)]
    arrays = threaded.preprocess({"img": iter(()), "text": iter(())})
    assert arrays["img"].shape == (0, 3, 32, 32)
    assert arrays["text"].shape == (0, 52)


def test_iterators_in_a_list_of_inputs(
    threaded: MultiModalEmbeddingPipeline, image_paths: list[Path]
) -> None:
    words, paths = ["猫", "狗", "鸟"], image_paths[:9]
    as_lists: list[Any] = [
        {"img": paths[:4], "text": words[:1]},
        {},
        {"img": paths[4:], "text": words[1:]},
    ]
    given: list[Any] = [
        {"img": iter(paths[:4]), "text": words[:1]},
        {},
        {"img": paths[4:], "text": iter(words[1:])},
    ]
    for found, expected in zip(threaded(given), threaded(as_lists), strict=True):
        for key, rows in expected.items():
            if rows is None:
                assert found[key] is None
            else:
                np.testing.assert_allclose(found[key], rows, rtol=0, atol=2e-6)
    for bad, message in [(5, "expected PIL"), (Path("nowhere.jpg"), "nowhere")]:
        given = [{"img": [paths[0]]}, {"text": "猫"}, {"img": iter([paths[1], bad])}]
        with pytest.raises(cnclip.CnclipError, match=rf"^input\[2\]: img\[1\]: .*{message}"):
            threaded(given)


@pytest.mark.parametrize("make", [list, iter])
def test_the_first_that_fails_is_named(
    threaded: MultiModalEmbeddingPipeline, photo: Image.Image, make: Callable[[Any], Any]
) -> None:
    images: list[Any] = [photo] * 40
    images[13] = b"no image"
    images[14] = Path("nowhere.jpg")
    images[30] = np.zeros((2, 2), np.uint8)
    before = set(threading.enumerate())
    with pytest.raises(errors.ImageError, match=r"^img\[13\]: 8 bytes: cannot be read"):
        threaded.forward({"img": make(images)})
    images[12] = np.zeros((2, 2), np.uint8)
    with pytest.raises(errors.InvalidInputError, match=r"^img\[12\]: expected a uint8 array"):
        threaded.preprocess({"img": make(images)})
    assert not threads_since(before)


def test_items_of_iterators_are_checked_as_they_come(threaded: MultiModalEmbeddingPipeline) -> None:
    with pytest.raises(errors.InputTypeError, match=r"^img\[20\]: expected PIL.*got int"):
        threaded.forward({"img": itertools.chain(map(tiny, range(20)), [5])})
    # A worse one behind a bad one is not reached.
    with pytest.raises(errors.ImageError, match=r"^img\[2\]"):
        threaded.forward({"img": iter([tiny(0), tiny(1), b"", None])})
    with pytest.raises(errors.InputTypeError, match=r"^text\[1\]: expected str, got NoneType"):
        threaded.forward({"text": iter(["a", None])})
    with pytest.raises(ZeroDivisionError):
        threaded.forward({"img": (tiny(1 // (5 - i)) for i in range(9))})


# Bounds


@pytest.mark.parametrize("kind", ["open", "bytes"])
def test_iterators_are_drawn_batch_by_batch(
    threaded: MultiModalEmbeddingPipeline,
    monkeypatch: pytest.MonkeyPatch,
    golden: Path,
    kind: str,
) -> None:
    file = (golden / "cases" / "images" / "jpeg_q90.jpg").read_bytes()
    drawn = embedded = 0
    encode = threaded.model.encoder.encode_pixels

    def images() -> Iterator[Any]:
        nonlocal drawn
        for drawn in range(1, 65):
            yield tiny(drawn) if kind == "open" else file

    class Recording:
        def encode_pixels(self, pixels: Any) -> Any:
            nonlocal embedded
            embedded += len(pixels)
            assert len(pixels) == 8
            assert drawn <= embedded + 8 + 1
            return encode(pixels)

    monkeypatch.setattr(threaded.model, "encoder", Recording())
    assert len(threaded.forward({"img": images()})["img_embedding"]) == 64
    assert embedded == drawn == 64


@pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="a sanitizer keeps what is freed")
def test_memory_does_not_grow_with_the_number(threaded: MultiModalEmbeddingPipeline) -> None:
    def images(count: int) -> Iterator[Image.Image]:
        for number in range(count):
            yield Image.new("RGB", (600, 600), (number % 256, 0, 0))  # 1.4 MB

    def words(count: int) -> Iterator[str]:
        return (f"{number}" + "猫" * (number % 60) for number in range(count))

    threaded.forward({"img": images(64), "text": words(10_000)})
    process = psutil.Process()
    before = process.memory_info().rss
    highest = 0

    def watched() -> Iterator[Image.Image]:
        nonlocal highest
        for image in images(200):
            highest = max(highest, process.memory_info().rss)
            yield image

    threaded.forward({"img": watched(), "text": words(10_000)})
    highest = max(highest, process.memory_info().rss)
    assert highest - before < 48 << 20  # all images together are 280 MB


def test_long_texts_of_an_iterator_are_taken_a_few_at_a_time(
    threaded: MultiModalEmbeddingPipeline,
) -> None:
    alive = 0

    class Counted(str):
        def __init__(self, _: str) -> None:
            nonlocal alive
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def words() -> Iterator[str]:
        for _ in range(30):
            assert alive <= 11  # two chunks of them
            yield Counted("a" * 1_000_000)

    assert threaded.forward({"text": words()})["text_embedding"].shape == (30, 64)


# What an iterator may do with its images, and a list with its own


def test_an_iterator_may_use_its_memory_again(
    threaded: MultiModalEmbeddingPipeline, photo: Image.Image, tmp_path: Path
) -> None:
    buffer = np.zeros((9, 9, 3), np.uint8)

    def frames() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(30):
            buffer[:] = number
            yield buffer

    expected = [np.full((9, 9, 3), number, np.uint8) for number in range(30)]
    found = threaded.preprocess({"img": frames()})["img"]
    assert np.array_equal(found, threaded.preprocess({"img": expected})["img"])

    def files() -> Iterator[bytearray]:
        content = bytearray()
        for number in range(20):
            content[:] = (tmp_path / f"{number}.png").read_bytes()
            yield content

    for number in range(20):
        Image.new("RGB", (5, 5), (number, 0, 0)).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    found = threaded.preprocess({"img": files()})["img"]
    assert np.array_equal(found, threaded.preprocess({"img": paths})["img"])

    movie = tmp_path / "movie.gif"
    turned = [photo.rotate(10 * number) for number in range(12)]
    turned[0].save(movie, save_all=True, append_images=turned[1:])
    with Image.open(movie) as image:
        copies = [frame.copy() for frame in ImageSequence.Iterator(image)]
        found = threaded.preprocess({"img": ImageSequence.Iterator(image)})["img"]
    assert len(copies) == 12
    assert np.array_equal(found, threaded.preprocess({"img": copies})["img"])


@pytest.mark.parametrize("name", ["jpeg_q90.jpg", "palette"])
def test_one_unread_image_many_times(
    threaded: MultiModalEmbeddingPipeline, golden: Path, tmp_path: Path, name: str
) -> None:
    path = golden / "cases" / "images" / name
    if name == "palette":
        path = tmp_path / "palette.png"
        Image.open(golden / "cases" / "images" / "jpeg_q90.jpg").quantize(50).save(path)
    for _ in range(10):
        with Image.open(path) as image, Image.open(path) as alone:
            found = threaded.preprocess({"img": [image] * 16})["img"]
            assert (found == threaded.preprocess({"img": alone})["img"]).all()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no such signals")
def test_ctrl_c_does_not_wait_for_what_is_queued(
    threaded: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, begun = set(threading.enumerate()), []

    def slow(source: Any, options: object) -> Image.Image:
        begun.append(source)
        time.sleep(0.3)
        return tiny(0)

    monkeypatch.setattr("cnclip.preprocessors.multi_modal.load_image", slow)
    # A shell's background jobs ignore the signal, and their children with them.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            threaded.forward({"img": ["slow.jpg"] * 100}, batch_size=50)
    finally:
        timer.cancel()  # the signal would end the whole run of the tests
        timer.join()
        signal.signal(signal.SIGINT, ignored)
    assert time.monotonic() - start < 3  # all of a batch would take seven seconds
    assert no_threads_left(before)
    assert len(begun) <= 4
