"""A model that fails, hangs or is slow: what a batcher does for the other requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnclip.errors import ClosedError, DeadlineError, ModelRunError, OutOfMemoryError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Batcher, BatchOptions
from cnclip.serve.batching.dispatch import Dispatcher
from tests.support.batcher import Embedder, Gate, eventually, watched

GOOD = [f"第{n}只猫" for n in range(12)]


@pytest.fixture
def model(embedder: MultiModalEmbeddingPipeline) -> Embedder:
    return watched(embedder)


@pytest.fixture(scope="module")
def rows(embedder: MultiModalEmbeddingPipeline) -> Any:
    return embedder.forward({"text": GOOD})["text_embedding"]


def together(batcher: Batcher, model: Embedder, bad: str) -> tuple[list[Any], Any]:
    """Submit the good texts and a bad one, each as a request, so that they form one batch."""
    hook = model.encoder.before
    gate = Gate(model.encoder)
    first = batcher.submit([{"text": "first"}])
    assert gate.came.wait(10)
    texts = [*GOOD[:5], bad, *GOOD[5:]]
    futures = [batcher.submit([{"text": text}]) for text in texts]
    model.encoder.before = hook
    gate.opened.set()
    first.result(10)
    return futures[:5] + futures[6:], futures[5]


def check(good: list[Any], rows: Any) -> None:
    found = np.concatenate([future.result(20).vectors for future in good])
    np.testing.assert_allclose(found, rows, rtol=0, atol=2e-6)


def raising(error: BaseException) -> Callable[[Any], None]:
    def before(values: Any) -> None:
        if "bad" in values:
            raise error

    return before


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (RuntimeError("broken"), ModelRunError),
        (ModelRunError("broken"), ModelRunError),
        (MemoryError(), OutOfMemoryError),
        (SystemExit(1), ModelRunError),
        (KeyboardInterrupt(), ModelRunError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failing_batch_fails_only_its_culprit(
    model: Embedder, rows: Any, failure: BaseException, kind: type[Exception]
) -> None:
    model.encoder.before = raising(failure)
    with Batcher(model) as batcher:
        threads = batcher.counters().threads
        good, bad = together(batcher, model, "bad")
        check(good, rows)
        with pytest.raises(kind, match=r"^items\[0\]: ") as raised:
            bad.result(20)
        assert raised.value.__cause__ is failure or raised.value.reason == "broken"
        counters = batcher.counters()
        assert batcher.ready
    assert counters.threads == threads
    # The culprit is found by halves.
    assert 4 <= counters.failed_batches <= 5
    assert counters.batch_sizes["text"].count <= 10


def test_memory_for_half_a_batch(model: Embedder, rows: Any) -> None:
    def before(values: Any) -> None:
        if len(values) > 4:
            raise MemoryError

    model.encoder.before = before
    with Batcher(model) as batcher:
        good, other = together(batcher, model, "good")
        check(good, rows)
        assert other.result(20).errors == [None]
        images = np.zeros((6, 40, 40, 3), np.uint8)
        assert np.isfinite(batcher.forward({"img": images})["img_embedding"]).all()


def test_a_row_that_is_not_finite(model: Embedder, rows: Any) -> None:
    with Batcher(model) as batcher:
        good, bad = together(batcher, model, "nan")
        check(good, rows)
        with pytest.raises(ModelRunError, match="not finite"):
            bad.result(20)
        found = batcher.submit([{"text": "nan"}, {"text": GOOD[0]}], on_error="item").result(20)
        assert isinstance(found.errors[0], ModelRunError)
        assert np.isnan(found.vectors[0]).all()
        np.testing.assert_allclose(found.vectors[1], rows[0], rtol=0, atol=2e-6)


def test_a_model_that_hangs_is_replaced(model: Embedder, rows: Any) -> None:
    release = threading.Event()

    def before(values: Any) -> None:
        if "hang" in values:
            release.wait(30)

    model.encoder.before = before
    with Batcher(model, BatchOptions(run_timeout=0.4)) as batcher:
        threads = batcher.counters().threads
        good, bad = together(batcher, model, "hang")
        assert batcher.ready
        assert eventually(lambda: not batcher.ready)
        check(good, rows)
        with pytest.raises(ModelRunError, match=r"^items\[0\]: the model did not end within 0.4"):
            bad.result(20)
        assert batcher.ready
        # While it hangs a second time, alone, others are embedded.
        again = batcher.submit([{"text": "hang"}, {"text": GOOD[0]}], on_error="item")
        assert eventually(lambda: batcher.counters().hung_batches >= 3)
        begun = time.monotonic()
        np.testing.assert_allclose(
            batcher.forward({"text": GOOD})["text_embedding"], rows, rtol=0, atol=2e-6
        )
        assert time.monotonic() - begun < 0.4
        found = again.result(20)
        assert isinstance(found.errors[0], ModelRunError)
        assert found.errors[1] is None
        release.set()
        assert eventually(lambda: batcher.counters().threads == threads)


def test_a_dead_model_is_not_ready(model: Embedder) -> None:
    release = threading.Event()

    def before(values: Any) -> None:
        release.wait(30)

    model.encoder.before = before
    with Batcher(model, BatchOptions(run_timeout=0.1)) as batcher:
        futures = [batcher.submit([{"text": text}], timeout=20) for text in GOOD]
        assert eventually(lambda: not batcher.ready)
        time.sleep(0.6)
        # The threads that hang are limited, and the others wait.
        assert batcher.counters().threads < 20
        assert not batcher.ready
        model.encoder.before = lambda values: None
        release.set()
        assert eventually(lambda: all(future.done() for future in futures))
        assert batcher.ready
        assert batcher.forward({"text": "猫"})["text_embedding"].shape[0] == 1


def test_close_does_not_wait_for_a_dead_model(model: Embedder) -> None:
    gate = Gate(model.encoder)
    begun = time.monotonic()
    with Batcher(model, BatchOptions(run_timeout=0.1)) as batcher:
        futures = [batcher.submit([{"text": text}, {"text": "x"}]) for text in GOOD * 2]
        assert gate.came.wait(10)
    assert time.monotonic() - begun < 10
    for future in futures:
        assert isinstance(future.exception(0), ClosedError | ModelRunError)
    assert isinstance(futures[-1].exception(0), ClosedError)
    gate.opened.set()
    assert eventually(lambda: batcher.counters().threads == 0)


def test_a_batch_that_was_only_slow_counts(model: Embedder) -> None:
    first = threading.Event()

    def before(values: Any) -> None:
        if not first.is_set():
            first.set()
            time.sleep(0.3)

    model.encoder.before = before
    with Batcher(model, BatchOptions(run_timeout=0.1)) as batcher:
        found = batcher.submit([{"text": GOOD[0]}, {"text": GOOD[1]}]).result(20)
        assert found.errors == [None, None]
        assert batcher.ready


def test_callbacks_that_raise_end_no_thread(
    model: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(future: Any) -> None:
        raise SystemExit

    with Batcher(model) as batcher:
        for text in GOOD[:3]:
            future = batcher.submit([{"text": text}])
            future.add_done_callback(callback) if not future.done() else None
            future.result(10)
        assert batcher.forward({"text": GOOD[0]})["text_embedding"].shape[0] == 1


# Priorities


def test_single_queries_pass_a_bulk_upload_and_neither_starves(model: Embedder) -> None:
    model.encoder.before = lambda values: time.sleep(0.002)
    stop = threading.Event()
    waits: list[float] = []

    def query(batcher: Batcher) -> None:
        while not stop.is_set():
            begun = time.monotonic()
            batcher.forward({"text": "query"})
            waits.append(time.monotonic() - begun)

    with Batcher(model, BatchOptions(batch_tokens=18)) as batcher:
        callers = [threading.Thread(target=query, args=(batcher,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        upload = batcher.submit([{"text": f"第{n}张图"} for n in range(60)])
        before = len(waits)
        upload.result(60)  # the queries do not starve it
        during = len(waits) - before
        stop.set()
        for caller in callers:
            caller.join()
    batches = [
        "bulk" if any("张图" in text for text in texts) else "query"
        for texts in model.encoder.batches
    ]
    first = batches.index("bulk")
    part = batches[first : len(batches) - batches[::-1].index("bulk")]
    bulk = part.count("bulk")
    assert bulk >= 20  # cut into batches
    # Some queries always wait: not all of them fit into a batch.
    assert 2 * bulk <= part.count("query") <= 4 * bulk + 4
    assert during > 4 * bulk
    assert max(map(len, model.encoder.batches)) <= 18 // 3


def test_single_images_pass_a_bulk_upload(model: Embedder) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    model.encoder.before = lambda values: time.sleep(0.01)
    with Batcher(model, BatchOptions(batch_images=2)) as batcher:
        upload = batcher.submit([{"img": image}] * 40)
        for _ in range(3):
            batcher.submit([{"img": image}]).result(20)
        assert not upload.done()
        upload.result(20)


def test_bulk_uploads_take_turns(model: Embedder) -> None:
    with Batcher(model, BatchOptions(batch_tokens=64)) as batcher:
        gate = Gate(model.encoder)
        batcher.submit([{"text": "first"}])
        assert gate.came.wait(10)
        large = batcher.submit([{"text": f"large {n}"} for n in range(400)])
        small = batcher.submit([{"text": f"small {n}"} for n in range(40)])
        gate.opened.set()
        small.result(20)
        assert not large.done()
        large.result(20)


def test_an_idle_model_begins_at_once_and_what_waits_is_one_batch(model: Embedder) -> None:
    with Batcher(model) as batcher:
        gate = Gate(model.encoder)
        futures = [batcher.submit([{"text": "alone"}])]
        assert gate.came.wait(10)
        futures += [batcher.submit([{"text": text}]) for text in GOOD]
        gate.opened.set()
        for future in futures:
            future.result(10)
    assert model.encoder.batches == [["alone"], GOOD]


def test_a_gpu_has_two_batches_at_a_time(model: Embedder) -> None:
    model.model.device = "cuda:0"  # the encoder is that of the CPU
    both, opened = threading.Barrier(3), threading.Event()

    def before(values: Any) -> None:
        if not opened.is_set():
            both.wait(20)
            opened.wait(20)

    model.encoder.before = before
    with Batcher(model, BatchOptions(batch_tokens=3)) as batcher:
        futures = [batcher.submit([{"text": text}]) for text in "猫狗"]
        both.wait(20)
        opened.set()
        for future in futures:
            future.result(20)
    assert sorted(model.encoder.batches) == [["狗"], ["猫"]]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_system_without_threads(
    model: Embedder, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) == count:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Batcher(model)
    assert len(started) == count
    assert eventually(lambda: not any(thread.is_alive() for thread in started))


def test_a_failing_watch_is_logged_and_goes_on(
    model: Embedder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look = Dispatcher._look
    looks: list[float] = []

    def failing(self: Dispatcher, now: float) -> bool:
        looks.append(now)
        if len(looks) == 1:
            raise ValueError("broken")
        return look(self, now)

    monkeypatch.setattr(Dispatcher, "_look", failing)
    gate = Gate(model.encoder)
    with Batcher(model) as batcher:
        assert eventually(lambda: len(looks) > 1)
        batcher.submit([{"text": "first"}])
        assert gate.came.wait(10)
        with pytest.raises(DeadlineError):  # which the watch finds
            batcher.submit([{"text": "late"}], timeout=0.2).result(10)
        gate.opened.set()
    assert "the batcher's watch failed" in caplog.text and "ValueError: broken" in caplog.text
