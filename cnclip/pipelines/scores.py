"""Cosines to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def probabilities(scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """The softmax of scores over their last axis, as the model card computes it.

    Of images and texts: `probabilities(images @ texts.T, pipeline.model.temperature)`.

    Args:
        scores: [..., n], cosines of embeddings.
        temperature: The model's; scores are divided by it.

    Returns:
        float64 [..., n], which sum to 1 over the last axis.
    """
    logits = np.asarray(scores, np.float64) / float(temperature)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares
