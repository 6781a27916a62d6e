"""FAISS behind one small class: unit vectors by number, exact or approximate.

Three kinds. `exact` compares a query with every vector (FAISS's flat index). `hnsw` walks a graph
of neighbours. `ivfpq` looks through some clusters of coded vectors, and scores the best again with
vectors in half precision, which it keeps too. What is found is scored again here in float64, so
that a score does not depend on what else is in the batch, and equal scores stand in the order of
rows.
"""

from __future__ import annotations

import functools
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError, MissingExtraError

KINDS = ("exact", "hnsw", "ivfpq")
"""From the most exact to what takes the least time and memory of many vectors."""
EXACT_UP_TO = 200_000
HNSW_UP_TO = 2_000_000
MIN_TO_TRAIN = 256
"""Vectors that IVF-PQ needs at least: its codes have 8 bits."""

# Candidates beyond k that are scored again: room for those that rounding puts in another order.
_EXTRA = 16
# What FAISS's float32 scores may be off by.
_ROUNDING = 2e-6
_BLOCK = 1 << 16
# Values that are scored again at a time, in float64.
_SCORED_AT_ONCE = 1 << 22

_HNSW_LINKS = 32
_HNSW_EFFORT_OF_BUILDING = 80
_TRAINED_ON = 256  # rows a cluster at most, as FAISS's own k-means
_REFINED = 16  # candidates of the codes, for each that is asked for

_EFFORTS = {"hnsw": (32, 64, 128, 256, 512), "ivfpq": (8, 16, 32, 64, 128, 256)}
"""How many candidates HNSW keeps, how many clusters IVF-PQ looks through."""
RECALL_WANTED = 0.95
MEASURED_K = 10
MEASURED_QUERIES = 100


@dataclass(frozen=True)
class Measured:
    """How well and how fast a search finds, measured on the collection's own vectors.

    Attributes:
        recall: Share of the exact ten neighbours that are found, from 0 to 1.
        milliseconds: Of a single query, the median.
        queries: How many vectors were asked for.
        effort: The effort (see `Vectors`) that this is true of; 0 where there is none.
    """

    recall: float
    milliseconds: float
    queries: int
    effort: int

    def as_json(self) -> dict[str, Any]:
        """A dict for a JSON file."""
        return asdict(self)


@functools.cache
def import_faiss() -> ModuleType:
    """FAISS.

    Raises:
        MissingExtraError: it is not installed.
    """
    # It tells for which processors it was built, and for which not.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SWIG's types, on newer Pythons
            import faiss
    except ImportError as error:
        raise MissingExtraError("search", "faiss-cpu") from error
    module: ModuleType = faiss
    return module


def choose_kind(rows: int, exact_up_to: int = EXACT_UP_TO, hnsw_up_to: int = HNSW_UP_TO) -> str:
    """The kind for so many vectors."""
    if rows <= exact_up_to:
        return "exact"
    return "hnsw" if rows <= hnsw_up_to else "ivfpq"


class Vectors:
    """Unit vectors, numbered from 0 in the order in which they were added.

    Threads may search at the same time.

    Attributes:
        dim: Columns.
        kind: One of KINDS.
        effort: What an approximate search spends: candidates of HNSW, clusters of IVF-PQ. More
            finds more of the true neighbours and takes longer. 0 for `exact`.
    """

    def __init__(self, faiss_index: Any, kind: str, effort: int = 0, source: Any = None) -> None:
        self._index = faiss_index
        # The memory that a mapped index looks at; it may not be written, nor go before the index.
        self._source = source
        self.kind = kind
        self.dim: int = faiss_index.d
        self.effort = effort or _EFFORTS.get(kind, (0,))[1 if kind in _EFFORTS else 0]

    @classmethod
    def create(
        cls, dim: int, kind: str, sample: NDArray[np.float32] | None = None, expected: int = 0
    ) -> Vectors:
        """An index without vectors.

        Args:
            dim: Columns.
            kind: One of KINDS.
            sample: float32 [n, dim], what IVF-PQ is trained on: vectors like those to come.
            expected: How many vectors are to come; by it IVF-PQ has its clusters.

        Raises:
            InvalidInputError: IVF-PQ and fewer than 256 vectors to train on.
        """
        faiss = import_faiss()
        inner_product = faiss.METRIC_INNER_PRODUCT
        if kind == "exact":
            return cls(faiss.IndexFlatIP(dim), kind)
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS, inner_product)
            index.hnsw.efConstruction = _HNSW_EFFORT_OF_BUILDING
            return cls(index, kind)
        count = 0 if sample is None else len(sample)
        if sample is None or count < MIN_TO_TRAIN:
            raise InvalidInputError(
                f"kind ivfpq: needs {MIN_TO_TRAIN} vectors to be trained on, got {count}"
            )
        # Clusters as FAISS's guidelines have them: 4 times the root of the number of vectors.
        clusters = max(1, min(int(4 * math.sqrt(max(expected, count))), count // 39))
        quantizer = faiss.IndexFlatIP(dim)
        coded = faiss.IndexIVFPQ(quantizer, dim, clusters, _code_parts(dim), 8, inner_product)
        coded.cp.spherical = True
        # Small collections are trained on few vectors; FAISS prints a warning for each part.
        coded.cp.min_points_per_centroid = coded.pq.cp.min_points_per_centroid = 1
        step = max(1, count // (_TRAINED_ON * max(clusters, MIN_TO_TRAIN)))
        coded.train(np.ascontiguousarray(sample[::step]))
        kept = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, inner_product)
        return cls(faiss.IndexRefine(coded, kept), kind)

    @classmethod
    def read(cls, content: NDArray[np.uint8], kind: str, effort: int, *, mapped: bool) -> Vectors:
        """What `write` wrote.

        Args:
            content: uint8 [n], what was written; more may follow it.
            kind: One of KINDS.
            effort: As it was.
            mapped: Look at the vectors where they lie, in place of copying them.

        Raises:
            RuntimeError: FAISS cannot read it.
        """
        faiss = import_faiss()
        if mapped:
            reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(content), content.nbytes)
            return cls(faiss.read_index(reader), kind, effort, content)
        stream = memoryview(content.data)
        place = 0

        def read(count: int) -> bytes:
            nonlocal place
            place += count
            return bytes(stream[place - count : place])

        return cls(faiss.read_index(faiss.PyCallbackIOReader(read)), kind, effort)

    def write(self, write: Callable[[bytes], Any]) -> None:
        """Hand FAISS's format to `write`, piece by piece; what it raises is raised."""
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
            # FAISS raises its own in place of some exceptions.
            if raised:
                raise raised[0] from None
            raise

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add vectors, float32 [n, dim], of unit length."""
        self._own()
        self._index.add(np.ascontiguousarray(rows, np.float32))

    def remove(self, dead: NDArray[np.bool_]) -> None:
        """Take vectors out of an exact index; those after them move up.

        Args:
            dead: bool [n], which.
        """
        assert self.kind == "exact"
        self._own()
        faiss = import_faiss()
        bits = np.packbits(dead, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(dead), faiss.swig_ptr(bits))
        self._index.remove_ids(selector)

    def rows(self, numbers: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Vectors by their numbers, float32 [n, dim]; of IVF-PQ in half precision's values."""
        return np.asarray(self._matrix()[numbers], np.float32)

    def blocks(self, keep: NDArray[np.bool_] | None = None) -> Iterator[NDArray[np.float32]]:
        """All vectors, or those of bool [n] `keep`, in order, some at a time."""
        for start in range(0, len(self), _BLOCK):
            block = self.rows(slice(start, start + _BLOCK))
            yield block if keep is None else block[keep[start : start + _BLOCK]]

    def rebuilt(self, kind: str, keep: NDArray[np.bool_] | None = None) -> Vectors:
        """The same vectors, or those of bool [n] `keep`, as an index of another kind."""
        count = len(self) if keep is None else int(keep.sum())
        sample = None
        if kind == "ivfpq":
            numbers = np.arange(len(self)) if keep is None else np.flatnonzero(keep)
            clusters = max(int(4 * math.sqrt(count)), MIN_TO_TRAIN)
            sample = self.rows(numbers[:: max(1, count // (_TRAINED_ON * clusters))])
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
        """The k vectors of highest inner product with each query.

        Args:
            queries: float32 [m, dim], of unit length.
            k: At most so many.
            alive: bool [n], which vectors may be found; None for all.
            exact: Compare with every vector, whatever the kind.
            effort: In place of `self.effort`.

        Returns:
            Numbers int64 [m, k] and scores float32 [m, k], best first; of equal scores the lower
            number first. Fewer columns where there are fewer vectors; -1 and -inf where an
            approximate search found no more.
        """
        faiss = import_faiss()
        count = len(self) if alive is None else int(alive.sum())
        k = min(k, count)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        queries = np.ascontiguousarray(queries, np.float32)
        wide = min(k + _EXTRA, count)
        selector = bits = None
        if alive is not None:
            bits = np.packbits(alive, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(alive), faiss.swig_ptr(bits))
        exact = exact or self.kind == "exact"
        if exact:
            index = self._store()
            parameters = faiss.SearchParameters(sel=selector) if selector else None
        else:
            index = self._index
            parameters = self._parameters(effort or self.effort, selector)
        _, found = index.search(queries, wide, params=parameters)
        scores = self._score(queries, found)
        order = np.lexsort((found, -scores), axis=-1)
        found = np.take_along_axis(found, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        if exact and wide < count:
            # Where the last candidate is as good as the k-th, others may be that were not found.
            for query in np.flatnonzero(scores[:, k - 1] - scores[:, -1] <= _ROUNDING):
                least = float(scores[query, k - 1]) - _ROUNDING
                one = queries[query : query + 1]
                _, _, tied = index.range_search(one, least, params=parameters)
                tied_scores = self._score(one, tied[None])[0]
                best = np.lexsort((tied, -tied_scores))[:k]
                found[query, :k], scores[query, :k] = tied[best], tied_scores[best]
        return found[:, :k], scores[:, :k]

    def measure(self, alive: NDArray[np.bool_] | None = None) -> Measured | None:
        """Measure recall and latency with some of the vectors, and take the effort for them.

        A query lies near to what is in the collection, and not in it, where a graph of neighbours
        would lead to it all too well: vectors are moved in random directions, to a cosine of 0.7.
        The effort is the least that finds 95 % of the ten neighbours, or else the largest.

        Args:
            alive: bool [n], which vectors there are; None for all.

        Returns:
            What is true of the effort taken; None where there are no more than ten vectors.
        """
        numbers = np.arange(len(self)) if alive is None else np.flatnonzero(alive)
        if len(numbers) <= MEASURED_K:
            return None
        rng = np.random.default_rng(0)
        chosen = numbers[np.sort(rng.permutation(len(numbers))[:MEASURED_QUERIES])]
        queries = self.rows(chosen)
        queries = _unit(queries + _unit(rng.standard_normal(queries.shape, np.float32)))
        truth = self.search(queries, MEASURED_K, alive, exact=True)[0]
        measured = None
        for effort in _EFFORTS.get(self.kind, (0,)):
            hits = 0
            seconds = []
            for query, near in zip(queries, truth.tolist(), strict=True):
                begin = time.perf_counter()
                found, _ = self.search(query[None], MEASURED_K, alive, effort=effort)
                seconds.append(time.perf_counter() - begin)
                hits += len(set(found[0].tolist()).intersection(near))
            milliseconds = statistics.median(seconds) * 1000
            measured = Measured(hits / truth.size, milliseconds, len(queries), effort)
            if measured.recall >= RECALL_WANTED:
                break
        assert measured is not None
        self.effort = measured.effort
        return measured

    def _parameters(self, effort: int, selector: Any) -> Any:
        faiss = import_faiss()
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        clusters = faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        return faiss.IndexRefineSearchParameters(
            k_factor=float(_REFINED), base_index_params=clusters
        )

    def _store(self) -> Any:
        """FAISS's index that holds the vectors themselves."""
        faiss = import_faiss()
        if self.kind == "exact":
            return self._index
        part = self._index.storage if self.kind == "hnsw" else self._index.refine_index
        return faiss.downcast_index(part)

    def _matrix(self) -> NDArray[np.floating[Any]]:
        """The vectors where FAISS has them: float32 or float16 [n, dim]; not to be kept."""
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
        """Inner products of each query with its candidates: float32 [m, c], -inf for none."""
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

    def _own(self) -> None:
        """Copy vectors that are mapped: FAISS ends the process that changes those."""
        if self._source is not None:
            owned = Vectors.read(self._source, self.kind, self.effort, mapped=False)
            self._index, self._source = owned._index, None


def _code_parts(dim: int) -> int:
    """Bytes of a code: parts of 8 columns where that divides, else of more."""
    return next(parts for parts in range(max(1, dim // 8), 0, -1) if dim % parts == 0)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
