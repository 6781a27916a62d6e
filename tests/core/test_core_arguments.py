"""Arguments that the core refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import _core, errors
from cnclip.engine import open_engine
from cnclip.pipelines import MultiModalEmbeddingPipeline

EMPTY = np.zeros((0, 1, 3), np.uint8)
OBLONG = np.zeros((1, 3, 32, 16), np.float32)
BYTES = np.zeros((1, 32, 32, 4), np.uint8)
FOUR_PLANES = np.zeros((1, 4, 32, 32), np.float32)
IDS = np.array([[101, 102]])
BAD_CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("tokenizer: str", lambda p: p.preprocessor.tokenizer.encode("猫")),
    ("tokenizer: number", lambda p: p.preprocessor.tokenizer.encode(5)),
    ("tokenizer: length 1", lambda p: p.preprocessor.tokenizer.encode(["猫"], 1)),
    ("tokenizer: length", lambda p: p.preprocessor.tokenizer.encode(["猫"], 2**31)),
    ("tokenizer: None", lambda p: p.preprocessor.tokenizer.encode([None])),
    ("tokenizer: new", lambda p: type(p.preprocessor.tokenizer)("text")),
    ("processor: str", lambda p: p.preprocessor.image_processor.process("path")),
    ("processor: None", lambda p: p.preprocessor.image_processor.process([None])),
    ("processor: gray", lambda p: p.preprocessor.image_processor.process([Image.new("L", (2, 2))])),
    ("processor: empty", lambda p: p.preprocessor.image_processor.process([EMPTY])),
    ("processor: floats", lambda p: p.preprocessor.image_processor.process([np.zeros((1, 1, 3))])),
    ("processor: RGBA", lambda p: p.preprocessor.image_processor.process([BYTES[0]])),
    ("processor: 0", lambda p: _core.ImageProcessor(0)),
    ("processor: mean", lambda p: _core.ImageProcessor(8, (1.0, 2.0))),
    ("processor: std", lambda p: _core.ImageProcessor(8, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0))),
    ("processor: NaN", lambda p: _core.ImageProcessor(8, (float("nan"), 0.0, 0.0))),
    ("processor: words", lambda p: _core.ImageProcessor(8, ("a", "b", "c"))),
    ("processor: out", lambda p: p.preprocessor.image_processor.process([], out=[])),
    ("processor: resize str", lambda p: p.preprocessor.image_processor.resize("path")),
    ("processor: resize out", lambda p: p.preprocessor.image_processor.resize([], out=[])),
    ("encoder: batch", lambda p: p.model.encoder.encode_texts(["猫"], -1)),
    ("encoder: list", lambda p: p.model.encoder.encode_pixels([])),
    ("encoder: doubles", lambda p: p.model.encoder.encode_pixels(np.zeros((1, 3, 32, 32)))),
    ("encoder: oblong", lambda p: p.model.encoder.encode_pixels(OBLONG)),
    ("encoder: three bytes", lambda p: p.model.encoder.encode_pixels(BYTES[..., :3])),
    ("encoder: oblong bytes", lambda p: p.model.encoder.encode_pixels(BYTES[:, :16])),
    ("encoder: one of bytes", lambda p: p.model.encoder.encode_pixels(BYTES[0])),
    ("encoder: other bytes", lambda p: p.model.encoder.encode_pixels(BYTES.view(np.int8))),
    ("encoder: one", lambda p: p.model.encoder.encode_pixels(OBLONG[0])),
    ("encoder: None", lambda p: p.model.encoder.encode_texts([None], 1)),
    ("ids: list", lambda p: p.model.encoder.encode_ids([[2, 3]])),
    ("ids: batch", lambda p: p.model.encoder.encode_ids(IDS, -1)),
    ("ids: one row", lambda p: p.model.encoder.encode_ids(IDS[0])),
    ("ids: three dimensions", lambda p: p.model.encoder.encode_ids(IDS[None])),
    ("ids: floats", lambda p: p.model.encoder.encode_ids(IDS.astype(np.float32))),
    ("ids: bools", lambda p: p.model.encoder.encode_ids(IDS.astype(np.bool_))),
    ("ids: unsigned", lambda p: p.model.encoder.encode_ids(IDS.astype(np.uint64))),
    ("ids: objects", lambda p: p.model.encoder.encode_ids(IDS.astype(object))),
    ("ids: negative", lambda p: p.model.encoder.encode_ids(-IDS)),
    ("ids: no columns", lambda p: p.model.encoder.encode_ids(IDS[:, :0])),
    ("ids: long", lambda p: p.model.encoder.encode_ids(np.ones((1, 53), np.int64))),
    ("rows: list", lambda p: _core.unusable_rows([0.5], 0.01)),
    ("rows: doubles", lambda p: _core.unusable_rows(np.zeros((1, 2)), 0.01)),
    ("rows: one row", lambda p: _core.unusable_rows(np.zeros(2, np.float32), 0.01)),
    ("rows: deviation", lambda p: _core.unusable_rows(np.zeros((1, 2), np.float32), "0.01")),
    ("rows: no arguments", lambda p: _core.unusable_rows()),  # type: ignore[call-arg]
    ("encoder: new", lambda p: _core.Encoder(open_engine(), "path", None, 1, 2)),
    ("encoder: no arguments", lambda p: p.model.encoder.encode_texts()),
    ("encoder: path", lambda p: p.model.encoder.save_prepared(5)),
    ("tokenizer: bytes", lambda p: p.preprocessor.tokenizer.encode(b"ab")),
    ("tokenizer: no arguments", lambda p: p.preprocessor.tokenizer.encode()),
    ("processor: no arguments", lambda p: p.preprocessor.image_processor.process()),
    ("processor: resize nothing", lambda p: p.preprocessor.image_processor.resize()),
    ("processor: new", lambda p: _core.ImageProcessor("8")),  # type: ignore[arg-type]
    ("processor: one mean", lambda p: _core.ImageProcessor(8, 0.5)),  # type: ignore[arg-type]
    ("processor: two std", lambda p: _core.ImageProcessor(8, (0.0, 0.0, 0.0), (1.0, 1.0))),
    ("encoder: swapped", lambda p: p.model.encoder.encode_pixels(OBLONG.astype(">f4"))),
    ("encoder: four planes", lambda p: p.model.encoder.encode_pixels(FOUR_PLANES)),
    ("engine: new", lambda p: _core.Engine(5)),  # type: ignore[arg-type]
    ("engine: device", lambda p: open_engine().device_count(5)),  # type: ignore[arg-type]
    ("precision: no arguments", lambda p: _core.check_precision()),  # type: ignore[call-arg]
    ("peak: no arguments", lambda p: _core.measure_peak()),  # type: ignore[call-arg]
    ("peak: precision", lambda p: _core.measure_peak("fp64", 0.01)),
    ("peak: no time", lambda p: _core.measure_peak("fp32", 0)),
    ("peak: long", lambda p: _core.measure_peak("fp32", 61)),
    ("peak: NaN", lambda p: _core.measure_peak("fp32", float("nan"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call"), BAD_CALLS, ids=[name for name, _ in BAD_CALLS])
def test_the_core_refuses_what_it_cannot_take(
    vit: MultiModalEmbeddingPipeline, name: str, call: Callable[[Any], Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        call(vit)


def test_encoder_arguments_out_of_range(archive: Path, vit: MultiModalEmbeddingPipeline) -> None:
    make = functools.partial(_core.Encoder, open_engine())
    tokenizer = vit.preprocessor.tokenizer
    for width, length, threads in [
        (0, 52, 0),
        (64, 1, 0),
        (64, 52, -1),
        (2**40, 52, 0),
        (64, 2**40, 0),
    ]:
        with pytest.raises(errors.InvalidInputError):
            make(archive, tokenizer, width, length, num_threads=threads)
    with pytest.raises(errors.InvalidInputError, match="expected fp32, bf16.* got int4"):
        make(archive, tokenizer, 64, 52, precision="int4")
    with pytest.raises(errors.InputTypeError, match="image_processor: expected an ImageProcessor"):
        make(archive, tokenizer, 64, 52, image_processor=tokenizer)
    with pytest.raises(errors.DeviceError):
        make(archive, tokenizer, 64, 52, device="nonsense")
    wrong_width = make(archive, tokenizer, 65, 52)
    with pytest.raises(errors.ModelRunError, match=r"another shape or type than float32 \[1, 65\]"):
        wrong_width.encode_texts(["猫"], 1)


def test_outputs_that_do_not_fit() -> None:
    processor = _core.ImageProcessor(8)
    images = [np.zeros((4, 4, 3), np.uint8)] * 2
    right = np.zeros((2, 3, 8, 8), np.float32)
    assert processor.process(images, out=right) is right
    read_only = right.copy()
    read_only.flags.writeable = False
    for out in (right[:1], right[:, :, :7, :7].copy(), right[..., ::-1], read_only, right[0], 5):
        with pytest.raises(errors.InvalidInputError, match=r"array \[2, 3, 8, 8\] to write to"):
            processor.process(images, out=out)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [OSError, TypeError])
def test_the_error_of_a_sequence_is_kept(
    vit: MultiModalEmbeddingPipeline, kind: type[Exception]
) -> None:
    def texts() -> Iterator[str]:
        yield "猫"
        raise kind("the list ends here")

    with pytest.raises(kind, match="^the list ends here$"):
        vit.preprocessor.tokenizer.encode(texts())  # type: ignore[arg-type]


def test_peaks() -> None:
    rate = _core.measure_peak("fp32", 0.001)
    assert rate is None or rate > 1e8  # serial kernels have none
    rate = _core.measure_peak("bf16", 0.001)
    assert rate is None or rate > 1e8


class Unreadable:
    """An image whose mode cannot be read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @property
    def mode(self) -> str:
        raise self.error


@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt, OSError])
def test_the_error_of_an_image_is_kept(kind: type[BaseException]) -> None:
    processor = _core.ImageProcessor(16)
    for call in (processor.process, processor.resize):
        with pytest.raises(kind, match="^the image's own$"):
            call([Unreadable(kind("the image's own"))])  # type: ignore[list-item]
        with pytest.raises(errors.InputTypeError, match="got Unreadable"):
            call([Unreadable(AttributeError())])  # type: ignore[list-item]
