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


def format_score(score: float, threshold: float | None = None) -> str:
    """A score with three digits; one that misses a threshold is never shown as equal to it."""
    shown = f"{score:.3f}"
    if threshold is not None and score < threshold and shown == f"{threshold:.3f}":
        return f"{float(shown) - 0.001:.3f}"
    return shown
