"""`Index`: an index of images or texts in one file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import check_integer
from .._text import counted, first_line
from ..bulk import model_identity
from ..bulk.outcomes import ITEM_KINDS as CONTENTS
from ..errors import IndexFileError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..version import __version__
from .collection import Collection, with_probabilities
from .hits import Hit
from .index_file import PARTS, IndexParts, check_once, read_description, write_index_file
from .items import ItemTable
from .thresholds import NONSENSE_QUANTILE, nonsense_texts, pairs_threshold
from .tuning import Measurement, tune
from .vectors import EXACT_UP_TO, HNSW_UP_TO, KINDS, MIN_TO_TRAIN, Vectors, choose_kind

# The maximum share of removed vectors that `prepare` leaves in an approximate index.
_MAX_REMOVED = 0.2


class Index(Collection):
    """Vectors of one model, searched by cosine similarity on this machine and stored in one file.

    Use `create` or `load`, then `add`, `remove`, `search`, `find`, `save`. The search is exact up
    to 200,000 vectors; HNSW up to 2,000,000 vectors and IVF-PQ beyond are approximate.
    Threads may search at the same time, but not while another adds or removes vectors.

    Attributes:
        path: The file that was loaded or saved last, or None.
        measured: Recall and latency, measured by `prepare`; None after a change.
    """

    def __init__(
        self, vectors: Vectors, items: ItemTable, description: Mapping[str, Any], path: Path | None
    ) -> None:
        """Use `create` or `load`."""
        self._vectors = vectors
        self._items = items
        self._alive: NDArray[np.bool_] | None = None
        self._numbers_by_id: dict[str, int] | None = None
        self._limits: tuple[int, int] | None = None
        self._parts: IndexParts | None = None
        self.path = path
        self.dim = vectors.dim
        self.model = description["model"]
        self.precision = str(description["precision"])
        self.contents = str(description["contents"])
        self.temperature = description["temperature"]
        self.thresholds = dict(description["thresholds"])
        self.image_options = dict(description.get("image_options", {}))
        measured = description["measured"]
        self.measured = None if measured is None else Measurement(**measured)

    @classmethod
    def create(
        cls,
        dim: int,
        *,
        model: Mapping[str, Any] | None,
        precision: str = "fp32",
        contents: str = "images",
        temperature: float | None = None,
        image_options: Mapping[str, str] | None = None,
        kind: str = "auto",
        expected: int = 0,
        sample: ArrayLike | None = None,
        exact_up_to: int = EXACT_UP_TO,
        hnsw_up_to: int = HNSW_UP_TO,
    ) -> Index:
        """Create an empty index.

        Args:
            dim: The number of columns of the vectors.
            model: The model, as returned by `cnclip.bulk.model_identity`; None if it is unknown,
                then the model of vectors and queries is not checked.
            precision: The precision in which the model computes the vectors.
            contents: `'images'` or `'texts'`.
            temperature: The model's temperature, for probabilities.
            image_options: How the images were decoded, see `Collection`.
            kind: `'exact'`, `'hnsw'` or `'ivfpq'`; `'auto'` chooses by the number of vectors, and
                changes the kind as vectors are added.
            expected: The number of vectors that will be added, so that the kind need not change.
            sample: float [n, dim], vectors to train IVF-PQ on, like those that will be added.
                Without a sample `'auto'` trains on the vectors that were added.
            exact_up_to: The maximum number of vectors for which `'auto'` is exact.
            hnsw_up_to: The maximum number of vectors for which `'auto'` uses HNSW.

        Raises:
            MissingExtraError: FAISS is not installed.
            InputTypeError: `dim` is not an integer.
            InvalidInputError: an argument has a value that is not listed above.
        """
        dim = check_integer(dim, "dim")
        if contents not in CONTENTS:
            raise InvalidInputError(
                f"expected one of {', '.join(CONTENTS)}, got {contents!r}", item="contents"
            )
        if kind not in ("auto", *KINDS):
            reason = f"expected one of auto, {', '.join(KINDS)}, got {kind!r}"
            raise InvalidInputError(reason, item="kind")
        limits = (exact_up_to, hnsw_up_to) if kind == "auto" else None
        if limits is not None:
            kind = choose_kind(expected, *limits)
            kind = "exact" if kind == "ivfpq" and sample is None else kind
        description = {
            "model": None if model is None else dict(model),
            "precision": precision,
            "contents": contents,
            "temperature": temperature,
            "thresholds": {},
            "measured": None,
            "image_options": image_options or {},
        }
        rows = None if sample is None else np.asarray(sample, np.float32)
        index = cls(Vectors.create(dim, kind, rows, expected), ItemTable(), description, None)
        index._limits = limits
        return index

    def __repr__(self) -> str:
        model = (self.model or {}).get("name", "an unknown model")
        return (
            f"Index({self.name!r}: {counted(len(self), self.contents)}, {self.dim} columns, "
            f"{self.kind}; model {model}, {self.precision})"
        )

    @property
    def name(self) -> str:
        """The path, or `the index` if it was not saved."""
        return "the index" if self.path is None else str(self.path)

    @property
    def kind(self) -> str:
        """`'exact'`, `'hnsw'` or `'ivfpq'`."""
        return self._vectors.kind

    @property
    def removed(self) -> int:
        """The number of removed vectors that an approximate index still contains."""
        return 0 if self._alive is None else int((~self._alive).sum())

    def __len__(self) -> int:
        return len(self._items) - self.removed

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Raise an IndexFileError if the file was changed in place before or in the block."""
        if self._parts is not None:
            self._parts.check()
        yield
        if self._parts is not None:
            self._parts.check()

    def ids(self) -> list[str]:
        """The ids of all vectors, in the order in which they were added."""
        with self._unchanged():
            return self._alive_items().ids()

    def _add(
        self,
        matrix: NDArray[np.float32],
        ids: Sequence[str],
        paths: Sequence[str],
        texts: Sequence[str | None] | None,
    ) -> None:
        known = self._numbers()
        for id in ids:
            if id in known:
                reason = f"{id!r} is in the index already; remove it first"
                raise InvalidInputError(reason, item="ids")
        start = len(self._items)
        self._items.append(ids, paths, texts)
        if self._alive is not None:
            self._alive = np.concatenate([self._alive, np.ones(len(matrix), np.bool_)])
        with self._unchanged():
            self._vectors.add(matrix)
        known.update(zip(ids, range(start, start + len(matrix)), strict=True))
        self._changed()
        if self._limits is not None:
            wanted = choose_kind(len(self), *self._limits)
            if KINDS.index(wanted) > KINDS.index(self.kind):
                self._rebuild(wanted)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove vectors by their ids; unknown ids are ignored.

        An approximate index stops finding them, and drops them once there are many.

        Returns:
            The number of vectors that were removed.
        """
        known = self._numbers()
        numbers = [known.pop(id) for id in dict.fromkeys(ids) if id in known]
        if not numbers:
            return 0
        dead = np.zeros(len(self._items), np.bool_)
        dead[numbers] = True
        if self.kind == "exact":
            with self._unchanged():
                self._vectors.remove(dead)
                self._items = self._items.select(~dead)
            self._numbers_by_id = None
        else:
            self._alive = ~dead if self._alive is None else self._alive & ~dead
        self._changed()
        return len(numbers)

    def item(self, id: str) -> tuple[Hit, NDArray[np.float32]] | None:
        """As `Collection.item`. The first call reads the ids of all items."""
        number = self._numbers().get(id)
        if number is None:
            return None
        with self._unchanged():
            _, path, text = self._items[number]
            vector = self._vectors.rows(np.array([number]))[0]
        return Hit(path, 1.0, id, text), vector / np.linalg.norm(vector)

    def _search(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
        with self._unchanged():
            return self._hits(*self._vectors.search(queries, k, self._alive))

    def search_exactly(self, queries: ArrayLike, k: int = 10) -> list[list[Hit]]:
        """Like `search`, but compares the queries with every vector, whatever the kind."""
        k = check_integer(k, "k")
        rows = self._check_vectors(np.atleast_2d(np.asarray(queries)), "queries")
        with self._unchanged():
            results = self._hits(*self._vectors.search(rows, k, self._alive, exact=True))
        return [with_probabilities(hits, self.temperature) for hits in results]

    def _hits(self, numbers: NDArray[np.int64], scores: NDArray[np.float32]) -> list[list[Hit]]:
        results = []
        for row, values in zip(numbers.tolist(), scores.tolist(), strict=True):
            hits = []
            for number, score in zip(row, values, strict=True):
                if number >= 0:
                    id, path, text = self._items[number]
                    hits.append(Hit(path, score, id, text))
            results.append(hits)
        return results

    def prepare(self, pipeline: MultiModalEmbeddingPipeline | None = None) -> None:
        """Drop removed vectors, measure recall and latency, and compute missing thresholds.

        `save` calls it without a pipeline.

        Args:
            pipeline: The model. It is needed for the threshold of text queries, and sets the
                temperature.
        """
        if self.removed > _MAX_REMOVED * len(self._items):
            kind = choose_kind(len(self), *self._limits) if self._limits else self.kind
            self._rebuild("exact" if len(self) < MIN_TO_TRAIN else kind)
        if self.measured is None:
            self.measured = tune(self._vectors, self._alive)
        own_kind = "image" if self.contents == "images" else "text"
        if own_kind not in self.thresholds:
            numbers = self._alive_numbers()
            threshold = pairs_threshold(len(numbers), lambda n: self._vectors.rows(numbers[n]))
            if threshold is not None:
                self.thresholds[own_kind] = threshold
        if pipeline is None:
            return
        self.check_model(model_identity(pipeline))
        self.temperature = float(pipeline.model.temperature)
        texts = nonsense_texts(pipeline.model.info.vocabulary)
        if "text" not in self.thresholds and texts and len(self):
            rows = np.asarray(pipeline.forward({"text": texts})["text_embedding"], np.float32)
            best = self._vectors.search(rows, 1, self._alive)[1]
            self.thresholds["text"] = float(np.quantile(best, NONSENSE_QUANTILE))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file. An existing file is replaced once everything is written.

        Args:
            path: The file, usually `NAME.index`.

        Raises:
            OSError: the file cannot be written. An existing file is unchanged.
        """
        path = Path(path)
        with self._unchanged():
            self.prepare()
        alive = self._alive
        dead = [] if alive is None else np.flatnonzero(~alive).tolist()
        description = {
            "cnclip": __version__,
            "kind": self.kind,
            "contents": self.contents,
            "dim": self.dim,
            "rows": len(self),
            "model": self.model,
            "precision": self.precision,
            "temperature": self.temperature,
            "thresholds": self.thresholds,
            **({"image_options": self.image_options} if self.image_options else {}),
            "measured": None if self.measured is None else asdict(self.measured),
            "effort": self._vectors.effort,
            "limits": self._limits,
            "removed": dead,
        }
        parts = {
            "vectors": lambda write: self._vectors.write(write),
            "items": lambda write: write(self._items.to_bytes()),
        }
        with self._unchanged():
            write_index_file(path, description, parts)
        self.path = path

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mapped: bool = True, check: bool = True
    ) -> Index:
        """Open an index.

        Args:
            path: The file.
            mapped: Map the file into memory and read only what a search needs. Opening is fast,
                and processes share the memory. Adding a vector copies the vectors. If the file is
                written or truncated in place, the next call raises an IndexFileError; one that is
                reading at that moment may end the process. False reads the file into memory.
            check: Compare the file with its checksums, unless that was done since it was last
                written. The description is always compared.

        Raises:
            IndexNotFoundError: there is no such file; also a FileNotFoundError.
            IndexFileError: the file is not an index, truncated or damaged; also a ValueError.
            MissingExtraError: FAISS is not installed.
            OSError: the file cannot be read.
        """
        path = Path(path)
        description = read_description(path)
        if check:
            check_once(path)
        parts = IndexParts(path, description, mapped=mapped)
        try:
            vectors = Vectors.read(
                parts.content[PARTS[0]], description["kind"], description["effort"], mapped=mapped
            )
            items = ItemTable.from_buffer(parts.content[PARTS[1]])
            if len(items) != len(vectors) or vectors.dim != description["dim"]:
                raise ValueError(f"{len(vectors)} vectors, {len(items)} items")
            index = cls(vectors, items, description, path)
            if description["removed"]:
                index._alive = np.ones(len(items), np.bool_)
                index._alive[description["removed"]] = False
            index._limits = description["limits"] and tuple(description["limits"])
            index._parts = parts
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            reason = f"cannot be read as an index: {first_line(error)}"
            raise IndexFileError(reason, file=path) from error
        parts.check()
        return index

    def _numbers(self) -> dict[str, int]:
        """The numbers by id; made when they are first needed, since that reads all items."""
        if self._numbers_by_id is None:
            numbers = self._alive_numbers().tolist()
            self._numbers_by_id = dict(zip(self.ids(), numbers, strict=True))
        return self._numbers_by_id

    def _alive_numbers(self) -> NDArray[np.int64]:
        return np.arange(len(self._items)) if self._alive is None else np.flatnonzero(self._alive)

    def _alive_items(self) -> ItemTable:
        return self._items if self._alive is None else self._items.select(self._alive)

    def _rebuild(self, kind: str) -> None:
        vectors = self._vectors.rebuild(kind, self._alive)
        self._items = self._alive_items()
        self._vectors, self._alive, self._numbers_by_id = vectors, None, None
        self._changed()

    def _changed(self) -> None:
        """Drop measurements of the vectors as they were."""
        self.measured = None
        self.thresholds = {}
