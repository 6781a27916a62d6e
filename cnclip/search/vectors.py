"""`Vectors`: a FAISS index of unit vectors by number, exact or approximate.

There are three kinds. `exact` compares a query with every vector (FAISS's flat index). `hnsw`
searches a graph of neighbours. `ivfpq` searches some clusters of coded vectors, then scores the
best again with vectors in half precision, which it stores too. Scores of the results are computed
again here in float64, so that a score does not depend on the rest of the batch and equal scores
are in the order of rows.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import requires_extra
from ..errors import InvalidInputError

KINDS = ("exact", "hnsw", "ivfpq")
"""From the most exact to the fastest and smallest for many vectors."""
EXACT_UP_TO = 200_000
HNSW_UP_TO = 2_000_000
MIN_TO_TRAIN = 256
"""The minimum of vectors to train IVF-PQ on: its codes have 8 bits."""

# Candidates beyond k whose scores are computed again, since rounding may change their order.
_EXTRA = 16
# The maximum error of FAISS's float32 scores.
_ROUNDING = 2e-6
_BLOCK = 1 << 16
# Values whose scores are computed in float64 at a time.
_SCORED_AT_ONCE = 1 << 22

_HNSW_LINKS = 32
_HNSW_BUILD_EFFORT = 80
_MAX_TRAINING_ROWS = 256  # per cluster, as in FAISS's k-means
_REFINED = 16  # candidates of the codes per requested result

_DEFAULT_EFFORT = {"exact": 0, "hnsw": 64, "ivfpq": 16}


@functools.cache
def import_faiss() -> ModuleType:
    """The module `faiss`; raises MissingExtraError if it is not installed."""
    # It logs the instruction sets that it was built for.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    with requires_extra("search", "faiss-cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SWIG's types, on newer Pythons
        import faiss
    module: ModuleType = faiss
    return module


def choose_kind(rows: int, exact_up_to: int = EXACT_UP_TO, hnsw_up_to: int = HNSW_UP_TO) -> str:
    """The kind of index for a number of vectors."""
    if rows <= exact_up_to:
        return "exact"
    return "hnsw" if rows <= hnsw_up_to else "ivfpq"


class Vectors:
    """Unit vectors, numbered from 0 in the order in which they were added.

    Threads may search at the same time.

    Attributes:
        dim: The number of columns.
        kind: One of KINDS.
        effort: The effort of an approximate search: candidates of HNSW, clusters of IVF-PQ. A
            larger one finds more of the true neighbours and takes longer. 0 for `exact`.
    """

    def __init__(self, faiss_index: Any, kind: str, effort: int = 0, memory: Any = None) -> None:
        self._index = faiss_index
        # The mapped memory that the index reads: it is read-only and must outlive the index.
        self._memory = memory
        self.kind = kind
        self.dim: int = faiss_index.d
        self.effort = effort or _DEFAULT_EFFORT[kind]

    @classmethod
    def create(
        cls, dim: int, kind: str, sample: NDArray[np.float32] | None = None, expected: int = 0
    ) -> Vectors:
        """Create an index without vectors.

        Args:
            dim: The number of columns.
            kind: One of KINDS.
            sample: float32 [n, dim], vectors to train IVF-PQ on, like those that will be added.
            expected: The number of vectors that will be added, for the number of clusters.

        Raises:
            InvalidInputError: there are fewer than 256 vectors to train IVF-PQ on.
        """
        faiss = import_faiss()
        inner_product = faiss.METRIC_INNER_PRODUCT
        if kind == "exact":
            return cls(faiss.IndexFlatIP(dim), kind)
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS, inner_product)
            index.hnsw.efConstruction = _HNSW_BUILD_EFFORT
            return cls(index, kind)
        count = 0 if sample is None else len(sample)
        if sample is None or count < MIN_TO_TRAIN:
            reason = f"ivfpq needs a sample of {MIN_TO_TRAIN} vectors to train on, got {count}"
            raise InvalidInputError(reason, item="kind")
        # FAISS's guidelines: 4 times the square root of the number of vectors.
        clusters = max(1, min(int(4 * math.sqrt(max(expected, count))), count // 39))
        quantizer = faiss.IndexFlatIP(dim)
        coded = faiss.IndexIVFPQ(quantizer, dim, clusters, _code_parts(dim), 8, inner_product)
        coded.cp.spherical = True
        # FAISS would print a warning for each part that is trained on few vectors.
        coded.cp.min_points_per_centroid = coded.pq.cp.min_points_per_centroid = 1
        step = max(1, count // (_MAX_TRAINING_ROWS * max(clusters, MIN_TO_TRAIN)))
        coded.train(np.ascontiguousarray(sample[::step]))
        kept = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, inner_product)
        return cls(faiss.IndexRefine(coded, kept), kind)

    @classmethod
    def read(cls, content: NDArray[np.uint8], kind: str, effort: int, *, mapped: bool) -> Vectors:
        """Read what `write` wrote.

        Args:
            content: uint8 [n], the bytes that were written; more bytes may follow.
            kind: One of KINDS.
            effort: The effort of the search.
            mapped: Use the vectors in `content` without copying them.

        Raises:
            RuntimeError: FAISS cannot read it.
            ValueError: it is of another kind.
        """
        faiss = import_faiss()
        if mapped:
            reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(content), content.nbytes)
            return cls(_of_kind(faiss.read_index(reader), kind), kind, effort, content)
        stream = memoryview(content.data)
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            position += count
            return bytes(stream[position - count : position])

        index = faiss.read_index(faiss.PyCallbackIOReader(read))
        return cls(_of_kind(index, kind), kind, effort)

    def write(self, write: Callable[[bytes], Any]) -> None:
        """Call `write` with each piece of FAISS's format. Exceptions of `write` are raised."""
        faiss = import_faiss()
        raised: list[BaseException] = []

        def write_and_remember(piece: bytes) -> int:
            try:
                write(piece)
            except BaseException as error:
                raised.append(error)
                raise
            return len(piece)

        try:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(write_and_remember, 1 << 20))
        except Exception:
            # FAISS replaces some exceptions with its own.
            if raised:
                raise raised[0] from None
            raise

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add vectors, float32 [n, dim], of unit length."""
        self._copy_mapped()
        self._index.add(rows)

    def remove(self, dead: NDArray[np.bool_]) -> None:
        """Remove the vectors where bool [n] `dead` is true; the numbers of later ones decrease.

        Only an exact index can remove vectors.
        """
        assert self.kind == "exact"
        self._copy_mapped()
        self._index.remove_ids(_selector(dead))

    def rows(self, numbers: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Vectors by their numbers, float32 [n, dim]; those of IVF-PQ are rounded to float16."""
        return np.asarray(self._matrix()[numbers], np.float32)

    def blocks(self, keep: NDArray[np.bool_] | None = None) -> Iterator[NDArray[np.float32]]:
        """All vectors, or those where bool [n] `keep` is true, in order and in blocks."""
        for start in range(0, len(self), _BLOCK):
            block = self.rows(slice(start, start + _BLOCK))
            yield block if keep is None else block[keep[start : start + _BLOCK]]

    def rebuild(self, kind: str, keep: NDArray[np.bool_] | None = None) -> Vectors:
        """A new index of another kind with all vectors, or those where bool [n] `keep` is true."""
        count = len(self) if keep is None else int(keep.sum())
        sample = None
        if kind == "ivfpq":
            numbers = np.arange(len(self)) if keep is None else np.flatnonzero(keep)
            clusters = max(int(4 * math.sqrt(count)), MIN_TO_TRAIN)
            sample = self.rows(numbers[:: max(1, count // (_MAX_TRAINING_ROWS * clusters))])
        other = Vectors.create(self.dim, kind, sample, count)
        for block in self.blocks(keep):
            other.add(block)
        return other

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        alive: NDArray[np.bool_] | None = None,
        *,
        exact: bool = False,
        effort: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the k vectors with the highest inner product with each query.

        Args:
            queries: float32 [m, dim], of unit length.
            k: The maximum number of results per query.
            alive: bool [n], the vectors that may be found; None for all.
            exact: Compare with every vector, whatever the kind.
            effort: The effort; by default `self.effort`.

        Returns:
            Numbers int64 [m, k] and scores float32 [m, k], best first; for equal scores the lower
            number first. There are fewer columns if there are fewer vectors. Where an approximate
            search found fewer, the number is -1 and the score -inf.
        """
        count = len(self) if alive is None else int(alive.sum())
        k = min(k, count)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        candidates = min(k + _EXTRA, count)
        exact = exact or self.kind == "exact"
        index = self._store() if exact else self._index
        parameters = self._parameters(0 if exact else effort or self.effort, alive)
        _, found = index.search(queries, candidates, params=parameters)
        found, scores = self._ordered(queries, found)
        if exact and candidates < count:
            # Vectors that are no candidates have a FAISS score below all candidates'. Rounding can
            # hide one of the best k among them only where the k-th and the last candidate are
            # within _ROUNDING, which is rare with _EXTRA candidates: then find all that may tie.
            for query in np.flatnonzero(scores[:, k - 1] - scores[:, -1] <= _ROUNDING):
                lowest = float(scores[query, k - 1]) - _ROUNDING
                row = queries[query : query + 1]
                _, _, tied = index.range_search(row, lowest, params=parameters)
                tied, tied_scores = self._ordered(row, tied[None])
                found[query, :k], scores[query, :k] = tied[0, :k], tied_scores[0, :k]
        return found[:, :k], scores[:, :k]

    def _ordered(
        self, queries: NDArray[np.float32], found: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates [m, c] of each query with their scores, best first, then lower numbers."""
        scores = self._score(queries, found)
        order = np.lexsort((found, -scores), axis=-1)
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _parameters(self, effort: int, alive: NDArray[np.bool_] | None) -> Any:
        """Parameters of a search; of an exact one if the effort is 0."""
        faiss = import_faiss()
        selector = None if alive is None else _selector(alive)
        if effort == 0:
            return faiss.SearchParameters(sel=selector)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        clusters = faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        return faiss.IndexRefineSearchParameters(
            k_factor=float(_REFINED), base_index_params=clusters
        )

    def _store(self) -> Any:
        """FAISS's index that stores the full vectors."""
        faiss = import_faiss()
        if self.kind == "exact":
            return self._index
        part = self._index.storage if self.kind == "hnsw" else self._index.refine_index
        return faiss.downcast_index(part)

    def _matrix(self) -> NDArray[np.floating[Any]]:
        """A view of FAISS's memory, float32 or float16 [n, dim]; do not keep it."""
        faiss = import_faiss()
        store = self._store()
        size = len(self) * int(store.code_size)
        if size == 0:
            return np.empty((0, self.dim), np.float32)
        memory = faiss.rev_swig_ptr(store.codes.data(), size)
        dtype = np.dtype(np.float16 if self.kind == "ivfpq" else np.float32)
        matrix: NDArray[np.floating[Any]] = memory.view(dtype).reshape(len(self), self.dim)
        return matrix

    def _score(self, queries: NDArray[np.float32], found: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products of each query with its candidates: float32 [m, c]; -inf for number -1."""
        matrix = self._matrix()
        scores = np.empty(found.shape, np.float32)
        columns = max(1, min(found.shape[1], _SCORED_AT_ONCE // self.dim))
        lines = max(1, _SCORED_AT_ONCE // (columns * self.dim))
        for row in range(0, len(found), lines):
            some = queries[row : row + lines].astype(np.float64)
            for column in range(0, found.shape[1], columns):
                part = (slice(row, row + lines), slice(column, column + columns))
                candidates = matrix[found[part]].astype(np.float64)
                scores[part] = np.matmul(candidates, some[:, :, None])[:, :, 0]
        scores[found < 0] = -np.inf
        return scores

    def _copy_mapped(self) -> None:
        """Copy mapped vectors: FAISS ends a process that changes them."""
        if self._memory is not None:
            copied = Vectors.read(self._memory, self.kind, self.effort, mapped=False)
            self._index, self._memory = copied._index, None


def _of_kind(index: Any, kind: str) -> Any:
    """FAISS's index, if it is one of a kind."""
    faiss = import_faiss()
    kinds = {"exact": faiss.IndexFlatIP, "hnsw": faiss.IndexHNSWFlat, "ivfpq": faiss.IndexRefine}
    if type(index) is not kinds[kind]:
        raise ValueError(f"{kind} vectors expected, got FAISS's {type(index).__name__}")
    return index


def _selector(mask: NDArray[np.bool_]) -> Any:
    """FAISS's selector of the vectors where bool [n] `mask` is true."""
    return import_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def _code_parts(dim: int) -> int:
    """The bytes of a code: parts of 8 columns if that divides `dim`, else of more."""
    return next(parts for parts in range(max(1, dim // 8), 0, -1) if dim % parts == 0)
