"""A batcher returns what the pipeline returns, to each of many callers."""

from __future__ import annotations

import asyncio
import gc
import io
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.assets import asset_path
from cnclip.errors import (
    BusyError,
    ClosedError,
    CnclipError,
    DeadlineError,
    ImageError,
    InputTypeError,
    InvalidInputError,
)
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Batcher, BatchOptions, Embedded
from tests.support.batcher import Embedder, Gate, eventually, watched
from tests.support.threads import threads_since

# Of two batches of which an item is part.
TOLERANCE = 2e-6
TEXTS = ["猫", "", "一个在逛公园的女孩", "a cat", "狗" * 80, "\ud800", "蛋糕 cake", "🍎"]


@pytest.fixture(scope="module")
def images() -> list[Any]:
    """Images of each kind that a pipeline takes."""
    files = sorted(asset_path("gallery").glob("*.png"))[:8]
    with Image.open(files[1]) as opened:
        opened.load()
    with Image.open(files[2]) as other:
        array = np.asarray(other.convert("RGB"))
    content = files[3].read_bytes()
    return [files[0], opened, array, content, bytearray(content), str(files[4]), *files[5:]]


@pytest.fixture(scope="module")
def rows(embedder: MultiModalEmbeddingPipeline, images: list[Any]) -> dict[Any, Any]:
    """The pipeline's rows of the images and texts."""
    return embedder.forward({"img": images, "text": TEXTS})


@pytest.fixture(scope="module")
def shared(embedder: MultiModalEmbeddingPipeline) -> Iterator[Batcher]:
    with Batcher(embedder) as batcher:
        yield batcher


@pytest.fixture
def watched_model(embedder: MultiModalEmbeddingPipeline) -> Embedder:
    return watched(embedder)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "png")
    return buffer.getvalue()


# Results


def test_forward_is_that_of_the_pipeline(
    shared: Batcher, rows: dict[str, Any], images: list[Any]
) -> None:
    found = shared.forward({"img": images, "text": TEXTS})
    assert list(found) == list(rows)
    for key, expected in rows.items():
        assert found[key].dtype == np.float32
        same(found[key], expected)
    one = shared.forward({"text": TEXTS[0]})
    same(one["text_embedding"], rows["text_embedding"][:1])
    assert one["img_embedding"] is None
    lazy = shared.forward({"img": iter(images), "text": iter(TEXTS)}, priority="bulk")
    same(lazy["img_embedding"], rows["img_embedding"])
    same(lazy["text_embedding"], rows["text_embedding"])
    assert shared.forward({"img": [], "text": []})["img_embedding"].shape == (0, one_width(rows))


def one_width(rows: dict[str, Any]) -> int:
    width: int = rows["text_embedding"].shape[1]
    return width


def test_many_threads_get_their_rows_in_order(
    shared: Batcher, rows: dict[str, Any], images: list[Any]
) -> None:
    def call(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(4):
            chosen = [
                (kind, choose.randrange(8))
                for kind in choose.choices(("img", "text"), (1, 4), k=choose.choice((1, 2, 20)))
            ]
            given = [{k: images[n] if k == "img" else TEXTS[n]} for k, n in chosen]
            priority = choose.choice((None, "bulk", "interactive"))
            found = shared.submit(given, priority=priority).result(60)
            same(found.vectors, np.stack([rows[f"{kind}_embedding"][n] for kind, n in chosen]))
            assert found.errors == [None] * len(chosen)

    with ThreadPoolExecutor(24) as pool:
        for done in [pool.submit(call, seed) for seed in range(24)]:
            done.result()


def test_large_texts_are_tokenized_on_threads(
    shared: Batcher, embedder: MultiModalEmbeddingPipeline
) -> None:
    texts = [f"第{number}只猫" * (number % 20) for number in range(700)]
    found = shared.submit([{"text": text} for text in texts]).result(60)
    same(found.vectors, embedder.forward({"text": texts})["text_embedding"])
    lengths = embedder.preprocessor.tokenize(texts, return_lengths=True)[1]
    assert found.tokens.tolist() == lengths.tolist()


def test_tokens_are_counted_before_the_cut(shared: Batcher, images: list[Any]) -> None:
    found = shared.submit([{"text": "狗" * 80}, {"img": images[0]}, {"text": "猫"}]).result()
    assert found.tokens.tolist() == [82, 0, 3]


def test_coroutines(shared: Batcher, rows: dict[str, Any]) -> None:
    async def main() -> list[Embedded]:
        futures = [shared.submit([{"text": text}]) for text in TEXTS]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    found = asyncio.run(main())
    same(np.concatenate([one.vectors for one in found]), rows["text_embedding"])


def test_tensors_of_torch(embedder: MultiModalEmbeddingPipeline, rows: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    model = watched(embedder)
    model.model.return_tensors = "pt"
    with Batcher(model) as batcher:
        found = batcher.forward({"text": TEXTS})["text_embedding"]
    assert isinstance(found, torch.Tensor)
    same(found.numpy(), rows["text_embedding"])


# Bad items


BAD: dict[str, tuple[Any, type[CnclipError]]] = {
    "no image": ({"img": b"no image"}, ImageError),
    "truncated": ({"img": png((300, 300))[:200]}, ImageError),
    "no file": ({"img": "nowhere.png"}, ImageError),
    "no pixels": ({"img": np.zeros((0, 4, 3), np.uint8)}, InvalidInputError),
    "float array": ({"img": np.zeros((4, 4, 3))}, InvalidInputError),
    "a list": ({"img": [b"", b""]}, InputTypeError),
    "text of bytes": ({"text": b"x"}, InputTypeError),
    "two keys": ({"text": "x", "img": b""}, InputTypeError),
    "another key": ({"image": "x"}, InputTypeError),
    "no dict": ("x", InputTypeError),
    "failed before": (ImageError("not allowed"), ImageError),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_fails_alone(shared: Batcher, rows: dict[str, Any], name: str) -> None:
    bad, kind = BAD[name]
    items = [{"text": TEXTS[0]}, bad, {"text": TEXTS[2]}]
    found = shared.submit(items, on_error="item").result(60)
    error = found.errors[1]
    assert found.errors[0] is found.errors[2] is None
    assert isinstance(error, kind)
    assert error.where is not None
    assert (error.where.item, error.where.index) == ("items[1]", 1)
    assert np.isnan(found.vectors[1]).all()
    same(found.vectors[[0, 2]], rows["text_embedding"][[0, 2]])
    with pytest.raises(kind, match=r"^items\[1\]: ") as raised:
        shared.submit(items).result(60)
    assert raised.value.where is not None
    assert raised.value.where.index == 1


def test_the_first_bad_item_fails_the_request(shared: Batcher, images: list[Any]) -> None:
    for _ in range(5):
        items = [{"img": image} for image in (images[0], images[3], b"x", *images, b"y")]
        with pytest.raises(ImageError) as raised:
            shared.submit(items).result(60)
        assert raised.value.where is not None
        assert raised.value.where.index == 2
    with pytest.raises(ImageError, match=r"^img\[1\]: nowhere.png: no such file"):
        shared.forward({"img": [images[0], "nowhere.png"], "text": TEXTS})
    with pytest.raises(InputTypeError, match=r"^text\[1\]: "):
        shared.forward({"text": ["a", 1]})


def test_bad_items_do_not_affect_other_requests(
    shared: Batcher, rows: dict[str, Any], images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNCLIP_MAX_PIXELS", "1000000")
    odd = [png((1, 1)), png((20000, 1)), png((1, 20000)), png((1500, 1000)), png((64, 64))[:90]]

    def bad(number: int) -> list[CnclipError | None]:
        return shared.submit([{"img": odd[number % 5]}] * 2, on_error="item").result(60).errors

    def good(number: int) -> None:
        n = number % len(TEXTS)
        found = shared.submit([{"img": images[n]}, {"text": TEXTS[n]}]).result(60)
        same(found.vectors[0], rows["img_embedding"][n])
        same(found.vectors[1], rows["text_embedding"][n])

    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(good if n % 2 else bad, n) for n in range(80)]
        found = [one.result() for one in futures]
    for number in range(0, 80, 2):
        expects_error = number % 5 >= 3  # too many pixels, truncated
        assert [error is not None for error in found[number] or ()] == [expects_error] * 2


def test_errors_keep_no_input_in_memory(shared: Batcher) -> None:
    array = np.zeros((0, 40, 3), np.uint8)
    alive = weakref.ref(array)
    error = shared.submit([{"img": array}], on_error="item").result(60).errors[0]
    del array
    assert isinstance(error, InvalidInputError)
    gc.disable()
    try:
        assert eventually(lambda: alive() is None, 5)
    finally:
        gc.enable()


# Options


def test_wrong_arguments(shared: Batcher) -> None:
    wrong: Any
    for wrong in ({"priority": "high"}, {"on_error": "skip"}, {"timeout": 0}, {"timeout": 1e999}):
        with pytest.raises(InvalidInputError, match=f"^{next(iter(wrong))}: "):
            shared.submit([{"text": "x"}], **wrong)
    with pytest.raises(InputTypeError, match="^timeout: "):
        shared.submit([{"text": "x"}], timeout="1")  # type: ignore[arg-type]
    for items in ("猫", {"text": "猫"}, None):
        with pytest.raises(InputTypeError, match="^items: expected a list"):
            shared.submit(items)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="^batch_tokens: "):
        BatchOptions(batch_tokens=0)
    assert shared.submit([]).result(1).vectors.shape[0] == 0


# Cancellation, time and memory


def hold(batcher: Batcher, model: Embedder) -> tuple[Gate, Future[Embedded]]:
    """Keep the model busy; the future is that of the request that does it."""
    gate = Gate(model.encoder)
    future = batcher.submit([{"text": "held"}])
    assert gate.came.wait(10)
    return gate, future


def test_cancelled_requests_are_not_computed(watched_model: Embedder, images: list[Any]) -> None:
    with Batcher(watched_model) as batcher:
        gate, held = hold(batcher, watched_model)
        gone = batcher.submit([{"text": "gone"}, {"img": images[0]}])
        kept = batcher.submit([{"text": "kept"}])

        async def disconnect() -> None:
            task = asyncio.ensure_future(asyncio.wrap_future(batcher.submit([{"text": "left"}])))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(disconnect())
        assert held.cancel()  # its batch is in progress
        assert gone.cancel()
        assert batcher.counters().requests_in_flight == 1
        gate.opened.set()
        kept.result(10)
    assert [text for texts in watched_model.encoder.batches for text in texts] == ["held", "kept"]
    assert batcher.counters().requests == {"embedded": 1, "cancelled": 3}


def test_expired_requests_are_not_computed(watched_model: Embedder, images: list[Any]) -> None:
    with Batcher(watched_model, BatchOptions(timeout=30)) as batcher:
        gate, held = hold(batcher, watched_model)
        begun = time.monotonic()
        late = batcher.submit([{"text": "late"}, {"img": images[0]}], timeout=0.1)
        with pytest.raises(DeadlineError) as raised:
            late.result(10)
        assert isinstance(raised.value, TimeoutError)
        assert 0.1 <= time.monotonic() - begun < 5
        gate.opened.set()
        held.result(10)
        batcher.forward({"text": "after"})
    assert watched_model.encoder.batches == [["held"], ["after"]]
    assert batcher.counters().requests == {"embedded": 2, "expired": 1}


def test_memory_in_flight_is_limited(watched_model: Embedder) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    with Batcher(watched_model, BatchOptions(max_bytes=200_000)) as batcher:
        with pytest.raises(InvalidInputError, match="exceeds max_bytes"):
            batcher.submit([{"img": image}] * 7)
        batcher.forward({"img": [image]})
        gate, held = hold(batcher, watched_model)
        accepted = [held]
        with pytest.raises(BusyError) as raised:
            for _ in range(10):
                accepted.append(batcher.submit([{"img": image}]))
        assert 4 <= len(accepted) <= 7
        assert 0.1 <= raised.value.retry_after < 60
        assert 150_000 < batcher.counters().bytes_in_flight <= 200_000
        accepted.pop().cancel()
        accepted.append(batcher.submit([{"img": image}]))
        gate.opened.set()
        for future in accepted:
            future.result(10)
        counters = batcher.counters()
    assert counters.bytes_in_flight == counters.requests_in_flight == 0
    assert counters.waiting == {"text": 0, "img": 0}
    assert counters.refused == {"busy": 1, "large": 1}


def test_retry_after_follows_the_measured_rate(watched_model: Embedder) -> None:
    with Batcher(watched_model, BatchOptions(max_bytes=100_000)) as batcher:
        watched_model.encoder.before = lambda values: time.sleep(0.3)
        batcher.forward({"text": "one"})
        gate, _ = hold(batcher, watched_model)
        with pytest.raises(BusyError) as raised:
            for _ in range(100):
                batcher.submit([{"text": "x" * 1000}])
        waiting = batcher.counters().waiting["text"]
        # A part of the time that all of them take.
        assert waiting > 4
        assert 0.1 <= raised.value.retry_after <= 0.4 * waiting
        gate.opened.set()


def test_slow_images_hold_no_other(
    embedder: MultiModalEmbeddingPipeline,
    serve: Callable[[Callable[[BaseHTTPRequestHandler], None]], str],
    images: list[Any],
    rows: dict[str, Any],
) -> None:
    leave = threading.Event()
    content = images[0].read_bytes()

    def respond(request: BaseHTTPRequestHandler) -> None:
        if "slow" in request.path:
            leave.wait(20)
        if "good" not in request.path:
            return request.send_error(404)
        request.send_response(200)
        request.end_headers()
        request.wfile.write(content)
        return None

    url = serve(respond)
    options = BatchOptions(threads=1, prepare_timeout=0.4)
    with Batcher(embedder, options) as batcher:
        slow = [batcher.submit([{"img": f"{url}slow{n}"}, {"text": "猫"}]) for n in range(20)]
        begun = time.monotonic()
        for given in (content, f"{url}good"):
            found = batcher.submit([{"img": given}]).result(20)
            same(found.vectors[0], rows["img_embedding"][0])
        assert time.monotonic() - begun < 5
        with pytest.raises(ImageError, match=r"^items\[0\]: http.*/bad: cannot be fetched"):
            batcher.submit([{"img": f"{url}bad"}]).result(20)
        for future in slow:
            with pytest.raises(ImageError, match=r"^items\[0\]: http.*within 0.4 seconds"):
                future.result(20)
        assert batcher.ready
        leave.set()
        assert eventually(lambda: batcher.counters().bytes_in_flight == 0)


def test_a_fetched_file_is_named_by_its_url_and_counted(
    watched_model: Embedder,
    serve: Callable[[Callable[[BaseHTTPRequestHandler], None]], str],
    images: list[Any],
) -> None:
    contents = {"/good": images[0].read_bytes() + bytes(50_000), "/bad": b"no image"}

    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(contents[request.path])

    url = serve(respond)
    with Batcher(watched_model) as batcher:
        gate = Gate(watched_model.encoder)
        future = batcher.submit([{"img": f"{url}good"}])
        assert gate.came.wait(20)
        assert batcher.counters().bytes_in_flight > 50_000
        gate.opened.set()
        future.result(20)
        with pytest.raises(ImageError, match=r"^items\[0\]: http.*/bad: cannot be read"):
            batcher.submit([{"img": f"{url}bad"}]).result(20)
        assert batcher.counters().bytes_in_flight == 0


def test_memory_stays_flat_and_nothing_is_kept(shared: Batcher, images: list[Any]) -> None:
    alive: list[Any] = []
    for _ in range(20):
        array = np.zeros((40, 40, 3), np.uint8)
        future = shared.submit([{"img": array}, {"text": "猫"}])
        alive += [weakref.ref(array), weakref.ref(future)]
        future.result(10)
    del array, future
    gc.disable()
    try:
        shared.forward({"text": "the last job of each thread"})
        assert eventually(lambda: sum(one() is not None for one in alive) <= 2, 5)
    finally:
        gc.enable()


# The end


def test_close_drains(watched_model: Embedder) -> None:
    batcher = Batcher(watched_model)
    gate, held = hold(batcher, watched_model)
    waiting = batcher.submit([{"text": str(n)} for n in range(600)])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert eventually(lambda: not batcher.ready)
    with pytest.raises(ClosedError):
        batcher.submit([{"text": "x"}])
    gate.opened.set()
    closing.join(20)
    assert not closing.is_alive()
    assert held.done()
    assert waiting.result(0).errors == [None] * 600
    assert batcher.counters().threads == 0
    batcher.close()


def test_close_without_draining(watched_model: Embedder) -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyError), Batcher(watched_model) as batcher:
        gate, held = hold(batcher, watched_model)
        waiting = batcher.submit([{"text": "x"}])
        threading.Timer(0.05, gate.opened.set).start()
        raise KeyError
    for future in (held, waiting):
        with pytest.raises(ClosedError):
            future.result(0)
    # A thread that was late, on a busy machine, is not waited for.
    assert eventually(lambda: not [one for one in threads_since(before) if "cnclip" in one.name])


def test_the_interpreter_ends_with_an_open_batcher(
    run_python: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_python(
        "import os, time\n"
        "from cnclip import pipeline\n"
        "from cnclip.errors import ForkedProcessError\n"
        "from cnclip.serve import Batcher\n"
        "batcher = Batcher(pipeline(model='emoji-cn', device='cpu'))\n"
        "rows = batcher.forward({'text': ['a', 'b']})['text_embedding']\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        batcher.submit([{'text': 'a'}])\n"
        "    except ForkedProcessError:\n"
        "        batcher.close()\n"
        "        os._exit(3 + batcher.ready)\n"
        "    os._exit(1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "batcher.submit([{'text': str(n)} for n in range(3000)])\n",
        timeout=60,
    )
    assert done.stdout == "3\n"
    assert not done.stderr
