"""Suggested thresholds: scores below which a hit means little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NONSENSE_TEXTS = 256
"""The number of meaningless texts from which the threshold of text queries is computed."""
NONSENSE_QUANTILE = 0.9
"""The share of meaningless texts whose best hit is below that threshold."""
PAIRS = 20_000
"""The number of pairs of vectors from which the threshold of the collection's kind is computed."""
PAIRS_QUANTILE = 0.99
"""The share of pairs that are less similar than that threshold."""

_PAIRS_AT_ONCE = 2048


def nonsense_texts(vocabulary: bytes, count: int = NONSENSE_TEXTS, seed: int = 0) -> list[str]:
    """Random texts of two to six Chinese characters of a vocabulary.

    Args:
        vocabulary: The content of a vocab.txt. Without Chinese characters there are no texts.
        count: The number of texts.
        seed: The seed of the random numbers.
    """
    tokens = vocabulary.decode("utf-8", "replace").split()
    characters = [token for token in tokens if len(token) == 1 and "\u4e00" <= token <= "\u9fff"]
    if not characters:
        return []
    rng = np.random.default_rng(seed)
    return [
        "".join(rng.choice(characters, length))
        for length in rng.integers(2, 6, count, endpoint=True)
    ]


def pairs_threshold(
    count: int, rows: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> float | None:
    """The threshold of queries of the collection's own kind, such as image to image.

    Args:
        count: The number of vectors in the collection; with fewer than two there is no threshold.
        rows: Returns float32 [n, d] for the numbers of n vectors.
    """
    if count < 2:
        return None
    rng = np.random.default_rng(0)
    first = rng.integers(0, count, PAIRS)
    second = (first + rng.integers(1, count, PAIRS)) % count
    scores = np.empty(PAIRS, np.float32)
    for start in range(0, PAIRS, _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        scores[part] = np.einsum("ij,ij->i", rows(first[part]), rows(second[part]))
    return float(np.quantile(scores, PAIRS_QUANTILE))
