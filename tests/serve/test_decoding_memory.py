"""The memory of images that are decoded at the same time is limited."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from cnclip import load_image
from cnclip.assets import asset_path
from cnclip.errors import ImageError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.decoding import MAX_PIXELS_VARIABLE
from cnclip.serve import Batcher, BatchOptions
from cnclip.serve.batching.memory import DecodingMemory, decoded_bytes
from cnclip.serve.options import MAX_PIXELS, limited_images
from tests.support.image_files import chunk


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def header(width: int, height: int) -> bytes:
    """A PNG file without rows."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", b"")


def test_images_wait_for_memory() -> None:
    memory = DecodingMemory(8 * 100 * 100, 30)
    small, large = png(10, 10), png(99, 100)
    running, most, lock, release = 0, 0, threading.Lock(), threading.Event()

    def decode() -> None:
        nonlocal running, most
        with memory.hold(large):
            with lock:
                running += 1
                most = max(most, running)
            release.wait(0.01)
            with lock:
                running -= 1

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(decode) for _ in range(16)]:
            future.result(30)
    assert most == 1
    with memory.hold(small), memory.hold(small):
        pass  # both fit


def test_an_image_above_the_limit_is_decoded_alone() -> None:
    memory = DecodingMemory(100, 0.01)
    reason = "within 0.01 seconds"
    with memory.hold(png(99, 99)), pytest.raises(ImageError, match=reason), memory.hold(png(1, 1)):
        pass
    with memory.hold(png(1, 1)):
        pass


def test_the_memory_of_a_header() -> None:
    assert decoded_bytes(png(30, 20)) == 8 * 600
    assert decoded_bytes(header(5000, 4000)) == 8 * 20_000_000
    assert decoded_bytes(b"no image") > 0
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "WEBP")
    assert decoded_bytes(stream.getvalue()) == 16 * 600


def test_a_batcher_decodes_as_much_as_fits(embedder: MultiModalEmbeddingPipeline) -> None:
    cat = (asset_path("gallery") / "1f408.png").read_bytes()
    expected = embedder.forward({"img": [png(300, 300), cat]})["img_embedding"]
    with Batcher(embedder, BatchOptions(max_bytes=1 << 16)) as batcher:
        futures = [batcher.submit([{"img": png(300, 300)}, {"img": cat}]) for _ in range(3)]
        for future in futures:
            assert abs(future.result(60).vectors - expected).max() < 2e-6
        with batcher.decoding(cat):
            assert batcher.forward({"text": "猫"})["text_embedding"] is not None


def test_pixels_of_the_server_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "7")
    with limited_images():
        assert os.environ[MAX_PIXELS_VARIABLE] == "7"
    monkeypatch.delenv(MAX_PIXELS_VARIABLE)
    with limited_images(), pytest.raises(ImageError, match=f"{MAX_PIXELS}.*--max-pixels"):
        load_image(header(10_000, 5_001))
    assert MAX_PIXELS_VARIABLE not in os.environ
