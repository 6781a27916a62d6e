"""What a batcher's threads compute: tensors of images, tokens of texts, rows of a batch."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._text import type_and_line
from ...errors import CnclipError, ImageError, InvalidInputError, ModelRunError, OutOfMemoryError
from ...pipelines.stream import Embedder, image_encoder, run_model, unusable_row
from ...preprocessors.image import fetch, load_image, located, shown_name
from ...preprocessors.inputs import InputImage, Preprocessed
from .memory import DecodingMemory
from .queues import Batch, Item, bare

logger = logging.getLogger("cnclip")


class Compute:
    """The work of a pipeline, step by step. Threads may use one at the same time.

    Args:
        pipeline: An open pipeline.
        batch_images: Images of a batch, at most.
        memory: The memory of images while they are decoded.
    """

    def __init__(self, pipeline: Embedder, batch_images: int, memory: DecodingMemory) -> None:
        self._pipeline, self._batch_images, self._memory = pipeline, batch_images, memory
        self._local = threading.local()  # each thread that runs the model has a buffer

    def fetch(self, item: Item) -> None:
        """Download an image.

        Raises:
            ImageError: it cannot be fetched.
        """
        assert isinstance(item.value, InputImage)
        url = str(item.value.image)
        try:
            item.content = fetch(str(located(url)))
        except ImageError as error:
            raise error.at(file=shown_name(url)) from error.__cause__

    def open(self, item: Item) -> None:
        """Open, decode and resize an image, and keep its tensor alone.

        Raises:
            InvalidInputError, ImageError: it cannot be used.
        """
        given = item.value
        assert isinstance(given, InputImage)
        content = given.image if item.content is None else item.content
        if not isinstance(content, bytes):
            item.value = self._prepared(given)
            return
        with self._memory.hold(content):
            if item.content is not None:
                options = self._pipeline.preprocessor.image_options
                opened = load_image(content, name=str(given.image), options=options)
                given, item.content = given._replace(image=opened), None
            item.value = self._prepared(given)

    def _prepared(self, given: InputImage) -> InputImage:
        as_bytes = self._pipeline.model.takes_bytes
        tensor = self._pipeline.preprocessor.prepare_input(given, as_bytes=as_bytes)
        return given._replace(image=tensor)

    def tokenize(self, items: list[Item]) -> float:
        """Count the tokens of texts; returns the seconds that it took."""
        begun = time.monotonic()
        preprocessor = self._pipeline.preprocessor
        limit = preprocessor.context_length
        texts = [_text_of(item) for item in items]
        lengths = preprocessor.tokenizer.encode(texts, limit)[1]
        for item, length in zip(items, lengths.tolist(), strict=True):
            item.tokens = min(length, limit)
            item.request.result.tokens[item.index] = length
        return time.monotonic() - begun

    def rows(self, batch: Batch) -> tuple[NDArray[np.float32], list[CnclipError | None]]:
        """Run the model for a batch.

        Returns:
            float32 [n, d], and for each row None, or the error if it cannot be used.
        """
        model = self._pipeline.model
        if batch.kind == "text":
            texts = [_text_of(item) for item in batch.items]
            vectors, bad = run_model(model, "texts", texts, model.encoder.encode_texts)
        else:
            tensors = [_tensor_of(item) for item in batch.items]
            vectors, bad = run_model(model, "images", tensors, self._encode_images())
        return vectors, [unusable_row(model) if row in bad else None for row in range(len(vectors))]

    def _encode_images(self) -> Callable[[list[Any]], NDArray[np.float32]]:
        """This thread's function from tensors to rows."""
        if not hasattr(self._local, "encode"):
            self._local.encode = image_encoder(self._pipeline, self._batch_images)
        encode: Callable[[list[Any]], NDArray[np.float32]] = self._local.encode
        return encode


def characters_of(item: Item) -> int:
    """The characters of a text, 0 for an image."""
    return len(item.value) if isinstance(item.value, str) else 0


def _text_of(item: Item) -> str:
    assert isinstance(item.value, str)
    return item.value


def _tensor_of(item: Item) -> Any:
    assert isinstance(item.value, InputImage) and isinstance(item.value.image, Preprocessed)
    return item.value.image.tensor


def as_error(failure: BaseException, what: str) -> CnclipError:
    """An exception as the error of an item, without tracebacks."""
    if isinstance(failure, CnclipError):
        return bare(failure)
    logger.error("%s", what, exc_info=failure)
    kind = OutOfMemoryError if isinstance(failure, MemoryError) else ModelRunError
    error = kind(f"{what}: {type_and_line(failure)}")
    error.__cause__ = failure
    return bare(error)


def took_too_long(item: Item, seconds: float) -> CnclipError:
    """The error of an item that could not be prepared in time."""
    if isinstance(item.value, str):
        return InvalidInputError(f"could not be tokenized within {seconds:g} seconds")
    error = ImageError(f"could not be opened and prepared within {seconds:g} seconds")
    image = item.value.image
    if isinstance(image, str | os.PathLike):
        return error.at(file=shown_name(os.fsdecode(image)))
    return error
