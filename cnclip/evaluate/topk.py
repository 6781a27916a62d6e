"""Exact top-k by inner products, in blocks: the matrix of all scores is never in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import check_integer
from ..errors import InvalidInputError

# A block of scores fits in the processor's cache.
BLOCK_ROWS, BLOCK_COLUMNS = 2048, 1024


@dataclass(frozen=True)
class Ranked:
    """The best candidates of each query, best first; for equal scores the lower index first.

    Attributes:
        indices: int64 [queries, k], row numbers of the candidates.
        scores: float32 [queries, k], their inner products.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


def top_k(queries: ArrayLike, candidates: ArrayLike, k: int = 10) -> Ranked:
    """Find the k candidates with the largest inner product for each query, exactly.

    Args:
        queries: float [m, d], converted to float32.
        candidates: float [n, d], converted to float32.
        k: Candidates per query; fewer if there are fewer candidates.

    Raises:
        InvalidInputError: the shapes do not match, a value is not finite, or k is below 1.
    """
    rows, columns = _checked(queries, candidates, k)
    best = _TopK(len(rows), min(k, len(columns)))
    for row, column, scores in _blocks(rows, columns):
        best.update(scores, row, column, axis=0)
    return best.ranked()


def mutual_top_k(
    queries: ArrayLike,
    candidates: ArrayLike,
    k: int = 10,
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Ranked, Ranked]:
    """Compute `top_k(queries, candidates)` and `top_k(candidates, queries)` in one pass.

    Args:
        queries: float [m, d], converted to float32.
        candidates: float [n, d], converted to float32.
        k: Results per row; fewer if the other side has fewer rows.
        progress: Called with the number of queries that were finished since the last call.

    Raises:
        InvalidInputError: the shapes do not match, a value is not finite, or k is below 1.
    """
    rows, columns = _checked(queries, candidates, k)
    for_queries = _TopK(len(rows), min(k, len(columns)))
    for_candidates = _TopK(len(columns), min(k, len(rows)))
    with ThreadPoolExecutor(1) as pool:
        for row, column, scores in _blocks(rows, columns, progress):
            other_way = pool.submit(for_candidates.update, scores, column, row, axis=1)
            for_queries.update(scores, row, column, axis=0)
            other_way.result()
    return for_queries.ranked(), for_candidates.ranked()


def _blocks(
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """The blocks of the matrix of scores: first row, first column, and scores until the next."""
    block = np.empty(BLOCK_ROWS * BLOCK_COLUMNS, np.float32)
    for row in range(0, len(rows), BLOCK_ROWS):
        some = rows[row : row + BLOCK_ROWS]
        for column in range(0, len(columns), BLOCK_COLUMNS):
            others = columns[column : column + BLOCK_COLUMNS]
            scores = block[: len(some) * len(others)].reshape(len(some), len(others))
            yield row, column, np.matmul(some, others.T, out=scores)
        progress(len(some))


class _TopK:
    """The best candidates of each query so far. Candidates arrive in the order of their indices."""

    def __init__(self, count: int, k: int) -> None:
        self._k = k
        self._scores = np.full((count, k), -np.inf, np.float32)
        self._indices = np.full((count, k), -1, np.int64)
        self._mask = np.empty(BLOCK_ROWS * BLOCK_COLUMNS, np.bool_)

    def update(self, scores: NDArray[np.float32], first: int, candidate: int, axis: int) -> None:
        """Merge a block of scores.

        Args:
            scores: [queries, candidates] of the block, or its transpose.
            first: The index of the block's first query.
            candidate: The index of the block's first candidate.
            axis: The axis of the queries.
        """
        # Written once for queries in rows and once for queries in columns of a block:
        # pair[axis] are the queries of scores, pair[1 - axis] their candidates.
        end = first + scores.shape[axis]
        last = self._scores[first:end, -1].copy()  # contiguous: compared faster
        # A candidate equal to the last of the best has a higher index, so it is not better.
        better = self._mask[: scores.size].reshape(scores.shape)
        np.greater(scores, np.expand_dims(last, 1 - axis), out=better)
        if candidate == 0 and scores.shape[1 - axis] > self._k:
            # At first every candidate is better; drop those that are not among the block's best.
            place = scores.shape[1 - axis] - self._k
            lowest = np.partition(scores, place, axis=1 - axis).take([place], axis=1 - axis)
            better &= scores >= lowest
        # Flat indices with divmod are several times faster than np.nonzero.
        pair = divmod(np.flatnonzero(better), scores.shape[1])
        queries, places = pair[axis], pair[1 - axis]
        if len(queries) == 0:
            return
        found = np.unique(queries)
        query = np.concatenate([np.repeat(found, self._k), queries])
        value = np.concatenate([self._scores[first + found].ravel(), scores[pair]])
        index = np.concatenate([self._indices[first + found].ravel(), candidate + places])
        order = _order(query, value, index)
        query, value, index = query[order], value[order], index[order]
        begin = np.searchsorted(query, found)
        kept = begin[:, None] + np.arange(self._k)
        self._scores[first + found] = value[kept]
        self._indices[first + found] = index[kept]

    def ranked(self) -> Ranked:
        """Return the best candidates so far."""
        return Ranked(self._indices, self._scores)


def _order(
    query: NDArray[np.int64], value: NDArray[np.float32], index: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the order by query, then larger score, then lower index."""
    bits = (value + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    key = (query << 32) - rising
    order = np.argsort(key)
    ordered = key[order]
    if (ordered[1:] == ordered[:-1]).any():  # equal scores are rare, and lexsort is slow
        return np.lexsort((index, key))
    return order


def _checked(
    queries: ArrayLike, candidates: ArrayLike, k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows, columns = _matrix(queries, "queries"), _matrix(candidates, "candidates")
    if rows.shape[1] != columns.shape[1]:
        raise InvalidInputError(
            f"queries have {rows.shape[1]} columns, but candidates have {columns.shape[1]}"
        )
    check_integer(k, "k")
    return rows, columns


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float32]:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"expected numbers [n, d], got {matrix.dtype} {list(matrix.shape)}", item=name
        )
    matrix = np.ascontiguousarray(matrix, np.float32)
    for start in range(0, len(matrix), BLOCK_ROWS):
        if not np.isfinite(matrix[start : start + BLOCK_ROWS]).all():
            raise InvalidInputError("has values that are not finite", item=name)
    return matrix
