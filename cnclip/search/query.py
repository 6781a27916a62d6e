"""A query as one vector: of a text, an image, or both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.multi_modal import ImageInput


def embed_query(
    pipeline: MultiModalEmbeddingPipeline,
    text: str | None = None,
    image: ImageInput | None = None,
    weight: float = 0.5,
) -> NDArray[np.float32]:
    """A query's vector.

    Args:
        pipeline: The model.
        text: In Chinese.
        image: As `pipeline.forward` takes it.
        weight: Of both together, the text's share: `weight * text + (1 - weight) * image`, brought
            back to unit length.

    Returns:
        float32 [d], of unit length.

    Raises:
        InvalidInputError: neither of the two, an empty text, or a weight that is not from 0 to 1.
        ImageError: the image cannot be read.
    """
    if text is None and image is None:
        raise InvalidInputError("query: expected a text, an image, or both, got neither")
    if text is not None and not text.strip():
        raise InvalidInputError("query: expected a text, got an empty one")
    if not 0 <= weight <= 1:
        raise InvalidInputError(f"weight: expected a number from 0 to 1, got {weight}")
    answer = pipeline.forward({"text": text, "img": image})
    rows = [
        np.asarray(answer[key], np.float32)[0]
        for key in ("text_embedding", "img_embedding")
        if answer[key] is not None
    ]
    if len(rows) == 1:
        only: NDArray[np.float32] = rows[0]
        return only
    mean = weight * rows[0] + (1 - weight) * rows[1]
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
    return unit
