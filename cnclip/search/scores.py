"""What scores mean: probabilities among what was found, and scores that mean little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

NONSENSE_TEXTS = 256
"""How many meaningless texts the threshold of texts is taken from."""
NONSENSE_QUANTILE = 0.9
"""This share of meaningless texts finds nothing above the threshold."""
PAIRS = 20_000
"""How many pairs of the collection's vectors the threshold of its own kind is taken from."""
PAIRS_QUANTILE = 0.99
"""This share of the pairs is less alike than the threshold."""


def probabilities(scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Softmax of cosines divided by the model's temperature, as the model card has it.

    Args:
        scores: [n], cosines of one query.
        temperature: The model's.

    Returns:
        float64 [n]; their sum is 1.
    """
    logits = np.asarray(scores, np.float64) / temperature
    powers = np.exp(logits - logits.max(initial=-np.inf))
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def nonsense_texts(vocabulary: bytes, count: int = NONSENSE_TEXTS, seed: int = 0) -> list[str]:
    """Texts of two to six characters that a vocabulary has, drawn at random.

    Args:
        vocabulary: A vocab.txt's bytes.
        count: How many texts.
        seed: Other seeds draw others.

    Returns:
        The texts; none where the vocabulary has no Chinese characters.
    """
    tokens = vocabulary.decode("utf-8", "replace").split()
    characters = [one for one in tokens if len(one) == 1 and "\u4e00" <= one <= "\u9fff"]
    if not characters:
        return []
    rng = np.random.default_rng(seed)
    return [
        "".join(rng.choice(characters, length))
        for length in rng.integers(2, 6, count, endpoint=True)
    ]


def threshold_of_nonsense(best: ArrayLike) -> float:
    """The threshold for texts.

    Args:
        best: [n], the best score in the collection of each of many meaningless texts.

    Returns:
        Nine tenths of them lie below it.
    """
    return float(np.quantile(np.asarray(best), NONSENSE_QUANTILE))


def threshold_of_pairs(
    count: int, rows: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> float | None:
    """The threshold for queries of the collection's own kind, such as image to image.

    Args:
        count: Vectors in the collection.
        rows: Gives float32 [n, d] for the numbers of n vectors.

    Returns:
        Of random pairs of two vectors, 99 in 100 are less alike; None where there are not two.
    """
    if count < 2:
        return None
    rng = np.random.default_rng(0)
    first = rng.integers(0, count, PAIRS)
    second = (first + rng.integers(1, count, PAIRS)) % count
    scores = np.empty(PAIRS, np.float32)
    for start in range(0, PAIRS, 2048):
        part = slice(start, start + 2048)
        scores[part] = np.einsum("ij,ij->i", rows(first[part]), rows(second[part]))
    return float(np.quantile(scores, PAIRS_QUANTILE))
