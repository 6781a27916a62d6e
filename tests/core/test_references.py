"""Nothing that is called often keeps memory or references."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip import _core
from cnclip.engine import open_engine
from cnclip.pipelines import MultiModalEmbeddingPipeline

pytestmark = pytest.mark.skipif(
    "CNCLIP_SANITIZE" in os.environ, reason="a sanitizer's own memory grows with every call"
)

# Calls each entry point many times after a warm-up; prints by how many bytes the process grew.
MEASURE = """
import ctypes, gc, io, json, sys
from pathlib import Path
import numpy as np, psutil
from PIL import Image
import cnclip
from cnclip import _core
from cnclip.engine import find_engine, open_engine
from cnclip.engine.libtorch import find_torch

golden, calls_of = Path(sys.argv[1]), json.loads(sys.argv[2])
vocabulary = b"[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\na\\n##b\\n\\xe7\\x8c\\xab\\n"
tokenizer = _core.Tokenizer(vocabulary)
processor = _core.ImageProcessor(16)
image = Image.new("RGB", (20, 30), (1, 2, 3))
palette = image.convert("P")
large = Image.new("RGB", (4100, 1030))  # in several blocks
pixels = np.asarray(image)
pipeline = cnclip.pipeline(model=golden / "tiny-vit", device="cpu", num_threads=1)
encoder, info = pipeline.model.encoder, pipeline.model.info
engine = open_engine()
prepared = info.path.with_name("prepared")
encoder.save_prepared(prepared)
tensors, output = np.zeros((2, 3, 32, 32), np.float32), np.zeros((2, 3, 16, 16), np.float32)
resized, four_bytes = np.zeros((2, 16, 16, 4), np.uint8), np.zeros((2, 32, 32, 4), np.uint8)
ids = np.arange(1, 13).reshape(4, 3)  # int64
stream = io.BytesIO()
image.save(stream, "PNG")
file = stream.getvalue()

def expect(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError("no " + kind.__name__)

def texts():
    # Other texts in every call, in the same few shapes.
    texts.number += 1
    return [f"{texts.number:06} \\u732b", "a" * 40]
texts.number = 0

entries = {
    "Tokenizer": lambda: _core.Tokenizer(vocabulary),
    "Tokenizer refused": lambda: expect(ValueError, lambda: _core.Tokenizer(b"[PAD]")),
    "Tokenizer.encode": lambda: tokenizer.encode(texts(), 8),
    "Tokenizer.encode refused": lambda: expect(TypeError, lambda: tokenizer.encode(["a", 1], 8)),
    "ImageProcessor": lambda: _core.ImageProcessor(16),
    "ImageProcessor refused": lambda: expect(ValueError, lambda: _core.ImageProcessor(0)),
    "ImageProcessor.process image": lambda: processor.process([image, image]),
    "ImageProcessor.process array": lambda: processor.process([pixels, pixels[::-1, ::2]]),
    "ImageProcessor.process large": lambda: processor.process([large]),
    "ImageProcessor.process out": lambda: processor.process([image, pixels], out=output),
    "ImageProcessor.process refused": lambda: expect(
        TypeError, lambda: processor.process([image, 1])
    ),
    "ImageProcessor.resize": lambda: processor.resize([image, pixels]),
    "ImageProcessor.resize out": lambda: processor.resize([image, pixels], out=resized),
    "Engine": lambda: _core.Engine(find_engine(find_torch())),
    "Engine refused": lambda: expect(ImportError, lambda: _core.Engine("/no-such-file")),
    "Encoder": lambda: _core.Encoder(
        engine, info.path, pipeline.preprocessor.tokenizer, info.embed_dim, info.context_length,
        num_threads=1,
    ),
    "Encoder.save_prepared": lambda: encoder.save_prepared(prepared),
    "Encoder.save_prepared refused": lambda: expect(
        RuntimeError, lambda: encoder.save_prepared("/no-such-folder/file")
    ),
    "Encoder prepared": lambda: _core.Encoder(
        engine, prepared, pipeline.preprocessor.tokenizer, info.embed_dim, info.context_length,
        num_threads=1, is_prepared=True,
    ),
    "Encoder prepared refused": lambda: expect(
        ValueError,
        lambda: _core.Encoder(engine, info.path, tokenizer, 64, 52, is_prepared=True),
    ),
    "Encoder refused": lambda: expect(
        ValueError,
        lambda: _core.Encoder(
            engine, golden / "tiny-vit" / "vocab.txt", tokenizer, 64, 52, num_threads=1
        ),
    ),
    "Encoder.encode_texts": lambda: encoder.encode_texts(texts(), 2),
    "Encoder.encode_texts refused": lambda: expect(
        ValueError, lambda: encoder.encode_texts(["a"], -1)
    ),
    "Encoder.encode_ids": lambda: encoder.encode_ids(ids, 2),
    "Encoder.encode_ids copied": lambda: encoder.encode_ids(ids.astype("i4")[::-1]),
    "Encoder.encode_ids refused": lambda: expect(ValueError, lambda: encoder.encode_ids(-ids)),
    "Encoder.encode_pixels": lambda: encoder.encode_pixels(tensors),
    "Encoder.encode_pixels copied": lambda: encoder.encode_pixels(tensors[..., ::-1]),
    "Encoder.encode_pixels refused": lambda: expect(
        ValueError, lambda: encoder.encode_pixels(tensors[0])
    ),
    "Encoder.encode_pixels bytes": lambda: encoder.encode_pixels(four_bytes),
    "Encoder.encode_pixels bytes refused": lambda: expect(
        ValueError, lambda: encoder.encode_pixels(four_bytes[..., :3])
    ),
    "forward": lambda: pipeline.forward({"img": [palette, pixels], "text": texts()}),
    "forward file": lambda: pipeline.forward({"img": file}),
    "forward refused": lambda: expect(OSError, lambda: pipeline.forward({"img": [file[:60]]})),
    "preprocess": lambda: pipeline.preprocess({"img": image, "text": texts()}),
}

process = psutil.Process()

def run(call, count):
    for _ in range(count):
        call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is not what is kept
    return process.memory_info().rss

growth = {}
for entry, calls in calls_of.items():
    call = entries[entry]
    run(call, calls // 5)
    before = run(call, calls // 20)
    growth[entry] = run(call, calls) - before
print(json.dumps(growth))
"""

MEBIBYTE = 1 << 20

OFTEN = [
    "Tokenizer",
    "Tokenizer refused",
    "Tokenizer.encode",
    "Tokenizer.encode refused",
    "ImageProcessor",
    "ImageProcessor refused",
    "ImageProcessor.process image",
    "ImageProcessor.process array",
    "ImageProcessor.process out",
    "ImageProcessor.process refused",
    "ImageProcessor.resize",
    "ImageProcessor.resize out",
    "Encoder.encode_texts",
    "Encoder.encode_texts refused",
    "Encoder.encode_ids",
    "Encoder.encode_ids copied",
    "Encoder.encode_ids refused",
    "Encoder.encode_pixels",
    "Encoder.encode_pixels copied",
    "Encoder.encode_pixels refused",
    "Encoder.encode_pixels bytes",
    "Encoder.encode_pixels bytes refused",
    "forward",
    "forward file",
    "forward refused",
    "preprocess",
]
# Each call takes tens of milliseconds, and would leave megabytes behind.
SELDOM = ["Encoder", "Encoder refused", "ImageProcessor.process large"]
CALLS = dict.fromkeys(OFTEN, 10000) | dict.fromkeys(SELDOM, 100)


@pytest.fixture(scope="module")
def growth(golden: Path, archive: Path) -> dict[str, int]:
    """Bytes by which the process grew over the calls of each entry point."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(golden), json.dumps(CALLS)],
        # One arena, so that a thread's memory is not counted as growth.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("entry", CALLS)
def test_memory_stays(growth: dict[str, int], entry: str) -> None:
    assert growth[entry] < MEBIBYTE


def test_inputs_are_let_go(vit: MultiModalEmbeddingPipeline, photo: Image.Image) -> None:
    text = "猫" * 30
    array = np.zeros((9, 9, 3), np.uint8)
    items: list[object] = [text, array, photo]
    before = [sys.getrefcount(item) for item in items]
    for _ in range(20):
        vit.forward({"text": [text, text], "img": [array, photo]})
        vit.preprocess({"text": text, "img": [photo, array]})
        with pytest.raises(ValueError, match="batch_size"):
            vit.model.encoder.encode_texts([text], -1)
        with pytest.raises(TypeError, match=r"\[1\]"):
            vit.model.encoder.encode_texts([text, 1], 4)  # type: ignore[list-item]
        with pytest.raises(TypeError, match=r"\[2\]"):
            vit.preprocessor.image_processor.process([photo, array, None])  # type: ignore[list-item]
    assert [sys.getrefcount(item) for item in items] == before


def test_an_encoder_owns_what_it_is_made_of(vit: MultiModalEmbeddingPipeline) -> None:
    info = vit.model.info
    tokenizer = _core.Tokenizer(info.vocabulary)
    before = sys.getrefcount(tokenizer)
    encoder = _core.Encoder(
        open_engine(), info.path, tokenizer, info.embed_dim, info.context_length, num_threads=1
    )
    assert sys.getrefcount(tokenizer) == before + 1
    del tokenizer
    rows = encoder.encode_texts(["猫"], 1)
    assert np.abs(rows - vit.forward({"text": "猫"})["text_embedding"]).max() < 2e-6
    # A failed construction releases its reference too.
    tokenizer = _core.Tokenizer(info.vocabulary)
    before = sys.getrefcount(tokenizer)
    with pytest.raises(ValueError, match="no-such-file"):
        _core.Encoder(open_engine(), "/no-such-file", tokenizer, 1, 2)
    assert sys.getrefcount(tokenizer) == before
