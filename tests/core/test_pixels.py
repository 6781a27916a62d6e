"""Images as bytes to embeddings: normalized by the engine to the same bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cnclip import _core, errors
from cnclip.engine import open_engine
from cnclip.pipelines import MultiModalEmbeddingPipeline


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(3)
    sizes = [(40, 50), (32, 32), (90, 20), (5, 70), (32, 99), (77, 32), (1, 1)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def make_encoder(vit: MultiModalEmbeddingPipeline) -> Callable[..., _core.Encoder]:
    info, tokenizer = vit.model.info, vit.preprocessor.tokenizer
    return functools.partial(
        _core.Encoder, open_engine(), info.path, tokenizer, info.embed_dim, info.context_length
    )


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_bytes_have_the_bits_of_floats(
    vit: MultiModalEmbeddingPipeline, images: list[NDArray[np.uint8]], count: int
) -> None:
    processor, encoder = vit.preprocessor.image_processor, vit.model.encoder
    rows = encoder.encode_pixels(processor.resize(images[:count]))
    assert rows.shape == (count, 64)
    assert np.array_equal(rows, encoder.encode_pixels(processor.process(images[:count])))


def test_the_fourth_byte_and_the_layout_do_not_matter(
    vit: MultiModalEmbeddingPipeline, images: list[NDArray[np.uint8]]
) -> None:
    processor, encoder = vit.preprocessor.image_processor, vit.model.encoder
    pixels = processor.resize(images)
    want = encoder.encode_pixels(pixels)
    pixels[..., 3] = np.arange(32)
    assert np.array_equal(encoder.encode_pixels(pixels), want)
    backwards = np.ascontiguousarray(pixels[::-1, ::-1])[::-1, ::-1]
    assert np.array_equal(encoder.encode_pixels(backwards), want)
    pixels.flags.writeable = False
    assert np.array_equal(encoder.encode_pixels(pixels), want)


def test_bytes_are_normalized_as_the_processor_does(
    make_encoder: Callable[..., _core.Encoder], images: list[NDArray[np.uint8]]
) -> None:
    processor = _core.ImageProcessor(32, (0.0, 0.5, 0.485), (1.0, 0.25, 0.229))
    pixels, tensors = processor.resize(images), processor.process(images)
    encoder = make_encoder(image_processor=processor)
    del processor
    assert np.array_equal(encoder.encode_pixels(pixels), encoder.encode_pixels(tensors))


def test_bytes_require_a_processor(
    make_encoder: Callable[..., _core.Encoder], images: list[NDArray[np.uint8]]
) -> None:
    pixels = _core.ImageProcessor(32).resize(images)
    for encoder in (make_encoder(), make_encoder(image_processor=None)):
        with pytest.raises(errors.InvalidInputError, match="uint8 requires an encoder with"):
            encoder.encode_pixels(pixels)


def test_bytes_of_another_resolution(
    vit: MultiModalEmbeddingPipeline, images: list[NDArray[np.uint8]]
) -> None:
    with pytest.raises(errors.ModelRunError):
        vit.model.encoder.encode_pixels(_core.ImageProcessor(31).resize(images))
