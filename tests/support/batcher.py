"""A pipeline whose model fails, hangs or waits when a test wants it to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnclip.pipelines import EmbeddingModel, MultiModalEmbeddingPipeline
from cnclip.preprocessors.multi_modal import CLIPPreprocessor


@dataclass
class Encoder:
    """The encoder of a model, with a hook before each batch.

    Attributes:
        real: The model's encoder.
        before: Called with the texts or the tensors of a batch; may raise or wait.
        batches: The texts of each batch, or the number of its images.
    """

    real: Any
    before: Callable[[Any], None] = lambda values: None
    batches: list[Any] = field(default_factory=list)

    def encode_texts(self, texts: Sequence[str], size: int = 0) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self.before(texts)
        rows: NDArray[np.float32] = self.real.encode_texts(texts, size)
        for row, text in zip(rows, texts, strict=True):
            if text.startswith("nan"):
                row[3] = np.nan
        return rows

    def encode_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        self.batches.append(len(pixels))
        self.before(pixels)
        rows: NDArray[np.float32] = self.real.encode_pixels(pixels)
        return rows


@dataclass
class Embedder:
    """What a batcher uses of a pipeline."""

    model: EmbeddingModel
    preprocessor: CLIPPreprocessor
    encoder: Encoder


def watched(pipeline: MultiModalEmbeddingPipeline) -> Embedder:
    """A pipeline whose batches are seen by `encoder.before`."""
    encoder: Any = Encoder(pipeline.model.encoder)
    return Embedder(replace(pipeline.model, encoder=encoder), pipeline.preprocessor, encoder)


def eventually(is_true: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Gate:
    """Holds the model's batches until it is opened, and says when one has come."""

    def __init__(self, encoder: Encoder) -> None:
        self.came, self.opened = threading.Event(), threading.Event()
        encoder.before = self

    def __call__(self, values: Any) -> None:
        self.came.set()
        assert self.opened.wait(30)
