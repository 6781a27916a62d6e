"""Embeds a query: a text, an image, or both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.inputs import ImageInput


def embed_query(
    pipeline: MultiModalEmbeddingPipeline,
    text: str | None = None,
    image: ImageInput | None = None,
    weight: float = 0.5,
) -> NDArray[np.float32]:
    """Embed a query as one vector.

    Args:
        pipeline: The model.
        text: A text in Chinese.
        image: An image, as `pipeline.forward` accepts it.
        weight: The weight of the text where both are given: the vector is
            `weight * text + (1 - weight) * image`, normalized.

    Returns:
        float32 [d], of unit length.

    Raises:
        InvalidInputError: text and image are missing, the text is empty, or the weight is not
            from 0 to 1.
        ImageError: the image cannot be read.
    """
    if text is None and image is None:
        raise InvalidInputError("expected a text, an image, or both, got neither", item="query")
    if text is not None and not text.strip():
        raise InvalidInputError("expected a text, got an empty one", item="query")
    if not 0 <= weight <= 1:
        raise InvalidInputError(f"expected a number from 0 to 1, got {weight}", item="weight")
    output = pipeline.forward({"text": text, "img": image})
    rows = [
        np.asarray(output[key], np.float32)[0]
        for key in ("text_embedding", "img_embedding")
        if output[key] is not None
    ]
    if len(rows) == 1:
        only: NDArray[np.float32] = rows[0]
        return only
    mean = weight * rows[0] + (1 - weight) * rows[1]
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean)
    return unit
