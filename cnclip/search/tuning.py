"""Measures recall and latency of a search, and chooses its effort."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .vectors import Vectors

EFFORTS = {"exact": (0,), "hnsw": (32, 64, 128, 256, 512), "ivfpq": (8, 16, 32, 64, 128, 256)}
"""The efforts to choose from: candidates of HNSW, clusters of IVF-PQ."""
MIN_RECALL = 0.95
K = 10
QUERIES = 100


@dataclass(frozen=True)
class Measurement:
    """Recall and latency of a search, measured with the collection's own vectors.

    Attributes:
        recall: The share of the exact ten nearest neighbours that are found, from 0 to 1.
        milliseconds: The median time of a single query.
        queries: The number of queries.
        effort: The effort (see `Vectors`) that was measured; 0 for an exact search.
    """

    recall: float
    milliseconds: float
    queries: int
    effort: int


def tune(vectors: Vectors, alive: NDArray[np.bool_] | None = None) -> Measurement | None:
    """Measure recall and latency, and set the effort of an approximate search.

    A query is near the collection's vectors but not one of them: a graph of neighbours finds its
    own vectors too easily. So vectors are moved in random directions, to a cosine of 0.7.
    The effort is the least that finds 95 % of the ten nearest neighbours, or else the largest.

    Args:
        vectors: The vectors; their effort is set.
        alive: bool [n], the vectors that may be found; None for all.

    Returns:
        The measurement of the chosen effort; None if there are at most ten vectors.
    """
    numbers = np.arange(len(vectors)) if alive is None else np.flatnonzero(alive)
    if len(numbers) <= K:
        return None
    rng = np.random.default_rng(0)
    chosen = numbers[np.sort(rng.permutation(len(numbers))[:QUERIES])]
    queries = vectors.rows(chosen)
    queries = _unit(queries + _unit(rng.standard_normal(queries.shape, np.float32)))
    truth = vectors.search(queries, K, alive, exact=True)[0]
    for effort in EFFORTS[vectors.kind]:
        hits = 0
        seconds = []
        for query, neighbours in zip(queries, truth.tolist(), strict=True):
            begin = time.perf_counter()
            found, _ = vectors.search(query[None], K, alive, effort=effort)
            seconds.append(time.perf_counter() - begin)
            hits += len(set(found[0].tolist()).intersection(neighbours))
        recall, milliseconds = hits / truth.size, statistics.median(seconds) * 1000
        if recall >= MIN_RECALL:
            break
    vectors.effort = effort
    return Measurement(recall, milliseconds, len(queries), effort)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
