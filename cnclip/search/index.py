"""An index of images or texts in one file: `cnclip.search.Index`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bulk import model_identity
from ..errors import IndexFileError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..version import __version__
from .collection import CONTENTS, Collection, Hit
from .file import PARTS, check_once, map_parts, read_description, write_index_file
from .items import Items
from .scores import nonsense_texts, threshold_of_nonsense, threshold_of_pairs
from .vectors import EXACT_UP_TO, HNSW_UP_TO, KINDS, MIN_TO_TRAIN, Measured, Vectors, choose_kind

if TYPE_CHECKING:
    from .milvus import MilvusIndex

# Removed vectors that an approximate index carries along, as a share of all.
_MAX_DEAD = 0.2


class Index(Collection):
    """Vectors of one model that are searched by cosine, on this machine, in one file.

    `create` or `load`, then `add`, `remove`, `search`, `find`, `save`. Exact up to 200,000 vectors;
    beyond, HNSW, and beyond 2,000,000 IVF-PQ, whose recall and latency `measured` tells.
    Threads may search at the same time, but not while one adds or removes.

    Attributes:
        path: The file that was loaded or saved last, or None.
        measured: How well and how fast it finds, as measured when it was prepared for saving.
        removed: How many removed vectors an approximate index still carries along.
    """

    def __init__(
        self, vectors: Vectors, items: Items, description: Mapping[str, Any], path: Path | None
    ) -> None:
        """Use `create` or `load`."""
        self._vectors = vectors
        self._items = items
        self._alive: NDArray[np.bool_] | None = None
        self._known: dict[str, int] | None = None
        self._limits: tuple[int, int] | None = None
        self.path = path
        self.dim = vectors.dim
        self.model = description["model"]
        self.precision = str(description["precision"])
        self.contents = str(description["contents"])
        self.temperature = description["temperature"]
        self.thresholds = dict(description["thresholds"])
        measured = description["measured"]
        self.measured = None if measured is None else Measured(**measured)

    @classmethod
    def create(
        cls,
        dim: int,
        *,
        model: Mapping[str, Any] | None,
        precision: str = "fp32",
        contents: str = "images",
        temperature: float | None = None,
        kind: str = "auto",
        expected: int = 0,
        sample: ArrayLike | None = None,
        exact_up_to: int = EXACT_UP_TO,
        hnsw_up_to: int = HNSW_UP_TO,
    ) -> Index:
        """An empty index.

        Args:
            dim: Columns of its vectors.
            model: What `cnclip.bulk.model_identity` says of the model; None for vectors of whose
                model nothing is known, which are then not checked.
            precision: What the model computes in.
            contents: `'images'` or `'texts'`.
            temperature: The model's, for probabilities.
            kind: `'exact'`, `'hnsw'` or `'ivfpq'`; `'auto'` chooses by the number of vectors, and
                changes the kind when vectors are added.
            expected: How many vectors are to come, so that the kind is right from the beginning.
            sample: float [n, dim], vectors like those to come, which IVF-PQ is trained on. Without
                them `'auto'` trains on those that were added.
            exact_up_to: The most vectors for which `'auto'` is exact.
            hnsw_up_to: The most vectors for which it takes HNSW.

        Raises:
            MissingExtraError: FAISS is not installed.
            InvalidInputError: another argument is not one of those above.
        """
        if dim < 1:
            raise InvalidInputError(f"dim: expected 1 or more, got {dim}")
        if contents not in CONTENTS:
            raise InvalidInputError(f"contents: expected one of {CONTENTS}, got {contents!r}")
        if kind not in ("auto", *KINDS):
            raise InvalidInputError(f"kind: expected 'auto' or one of {KINDS}, got {kind!r}")
        limits = (exact_up_to, hnsw_up_to) if kind == "auto" else None
        if kind == "auto":
            kind = choose_kind(expected, exact_up_to, hnsw_up_to)
            if kind == "ivfpq" and sample is None:
                kind = "exact"
        rows = None if sample is None else np.asarray(sample, np.float32)
        description = {
            "model": None if model is None else dict(model),
            "precision": precision,
            "contents": contents,
            "temperature": temperature,
            "thresholds": {},
            "measured": None,
        }
        index = cls(Vectors.create(dim, kind, rows, expected), Items(), description, None)
        index._limits = limits
        return index

    @staticmethod
    def connect(uri: str, collection: str = "cnclip", **options: Any) -> MilvusIndex:
        """A collection in Milvus, in place of a file.

        Args:
            uri: `'http://host:19530'`, or the path of a file of Milvus Lite's, ending in `.db`.
            collection: Its name there.
            options: Further ones of `MilvusIndex.connect`.

        Raises:
            MissingExtraError: pymilvus is not installed.
            MilvusError: the server does not answer, or the collection is not one of cnclip's.
        """
        from .milvus import MilvusIndex

        return MilvusIndex.connect(uri, collection, **options)

    @property
    def name(self) -> str:
        """What messages call the index."""
        return "the index" if self.path is None else str(self.path)

    @property
    def kind(self) -> str:
        """`'exact'`, `'hnsw'` or `'ivfpq'`."""
        return self._vectors.kind

    @property
    def removed(self) -> int:
        """How many removed vectors an approximate index still carries along."""
        return 0 if self._alive is None else int((~self._alive).sum())

    def __len__(self) -> int:
        return len(self._items) - self.removed

    def ids(self) -> list[str]:
        """The ids of all vectors, in the order in which they were added."""
        return self._kept_items().ids()

    def add(
        self,
        rows: ArrayLike,
        ids: Sequence[str],
        paths: Sequence[str] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        model: Mapping[str, Any] | None = None,
        precision: str | None = None,
    ) -> None:
        """Add vectors: see `Collection.add`."""
        self.check_model(model, precision)
        matrix = self._checked(rows, "rows")
        self._check_items(len(matrix), ids, paths, texts)
        known = self._numbers()
        for one in ids:
            if one in known:
                raise InvalidInputError(f"ids: {one!r} is in the index already; remove it first")
        start = len(self._items)
        self._items.append(ids, paths, texts)
        if self._alive is not None:
            self._alive = np.concatenate([self._alive, np.ones(len(matrix), np.bool_)])
        self._vectors.add(matrix)
        known.update(zip(ids, range(start, start + len(matrix)), strict=True))
        self._changed()
        if self._limits is not None:
            wanted = choose_kind(len(self), *self._limits)
            if KINDS.index(wanted) > KINDS.index(self.kind):
                self._rebuild(wanted)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove vectors: see `Collection.remove`.

        An approximate index does not find them any more, and drops them once they are many.
        """
        known = self._numbers()
        numbers = [known.pop(one) for one in dict.fromkeys(ids) if one in known]
        if not numbers:
            return 0
        dead = np.zeros(len(self._items), np.bool_)
        dead[numbers] = True
        if self.kind == "exact":
            self._vectors.remove(dead)
            self._items = self._items.kept(~dead)
            self._known = None
        else:
            self._alive = ~dead if self._alive is None else self._alive & ~dead
        self._changed()
        return len(numbers)

    def _search(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
        return self._hits(*self._vectors.search(queries, k, self._alive))

    def search_exactly(self, queries: ArrayLike, k: int = 10) -> list[list[Hit]]:
        """As `search`, but every vector is compared, whatever the index's kind."""
        rows = self._checked(np.atleast_2d(np.asarray(queries)), "queries")
        found = self._hits(*self._vectors.search(rows, max(k, 1), self._alive, exact=True))
        return [self._with_probabilities(hits, self.temperature) for hits in found]

    def _hits(self, numbers: NDArray[np.int64], scores: NDArray[np.float32]) -> list[list[Hit]]:
        answers = []
        for line, values in zip(numbers.tolist(), scores.tolist(), strict=True):
            hits = []
            for number, score in zip(line, values, strict=True):
                if number >= 0:
                    item = self._items[number]
                    hits.append(Hit(item.path, score, item.id, item.text))
            answers.append(hits)
        return answers

    def prepare(self, pipeline: MultiModalEmbeddingPipeline | None = None) -> None:
        """Drop what was removed, and measure and suggest what has not been since the last change.

        `save` does so without a pipeline.

        Args:
            pipeline: The model; with it a threshold for texts is found, in a collection of
                images. Its temperature is noted.
        """
        if self.removed > _MAX_DEAD * len(self._items):
            kind = choose_kind(len(self), *self._limits) if self._limits else self.kind
            self._rebuild("exact" if len(self) < MIN_TO_TRAIN else kind)
        if self.measured is None:
            self.measured = self._vectors.measure(self._alive)
        own_kind = "image" if self.contents == "images" else "text"
        if own_kind not in self.thresholds:
            numbers = np.arange(len(self._items))
            if self._alive is not None:
                numbers = numbers[self._alive]
            found = threshold_of_pairs(len(numbers), lambda n: self._vectors.rows(numbers[n]))
            if found is not None:
                self.thresholds[own_kind] = found
        if pipeline is None:
            return
        self.check_model(model_identity(pipeline))
        self.temperature = float(pipeline.model.temperature)
        texts = nonsense_texts(pipeline.model.info.vocabulary)
        if "text" not in self.thresholds and texts and len(self):
            rows = np.asarray(pipeline.forward({"text": texts})["text_embedding"], np.float32)
            best = self._vectors.search(rows, 1, self._alive)[1]
            self.thresholds["text"] = threshold_of_nonsense(best[:, 0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file; what was there before is replaced once all is written.

        Args:
            path: The file, by custom `NAME.index`.

        Raises:
            OSError: it cannot be written; names the file, which is as it was.
        """
        path = Path(path)
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
            "measured": None if self.measured is None else self.measured.as_json(),
            "effort": self._vectors.effort,
            "limits": self._limits,
            "removed": dead,
        }
        parts = {
            "vectors": lambda write: self._vectors.write(write),
            "items": lambda write: write(self._items.to_bytes()),
        }
        write_index_file(path, description, parts)
        self.path = path

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mapped: bool = True, check: bool = True
    ) -> Index:
        """Open an index.

        Args:
            path: The file.
            mapped: Leave vectors and items in the file, and read what a search needs: opening takes
                no time, and processes share the memory. Vectors are copied when one is added.
            check: Compare the file with its checksums, unless that was done since it was last
                written. The description is compared always.

        Raises:
            IndexNotFoundError: there is no such file; also a FileNotFoundError.
            IndexFileError: it is no index, truncated or damaged; also a ValueError.
            MissingExtraError: FAISS is not installed.
            OSError: it cannot be read.
        """
        path = Path(path)
        description = read_description(path)
        if check:
            check_once(path)
        mapped_parts = map_parts(path, description)
        try:
            vectors = Vectors.read(
                mapped_parts[PARTS[0]], description["kind"], description["effort"], mapped=mapped
            )
            content = mapped_parts[PARTS[1]]
            items = Items.from_buffer(content if mapped else np.array(content))
            if len(items) != len(vectors) or vectors.dim != description["dim"]:
                raise ValueError(f"{len(vectors)} vectors, {len(items)} items")
            index = cls(vectors, items, description, path)
            if description["removed"]:
                index._alive = np.ones(len(items), np.bool_)
                index._alive[description["removed"]] = False
            index._limits = description["limits"] and tuple(description["limits"])
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise IndexFileError(f"{path}: cannot be read as an index: {error}") from error
        return index

    def _numbers(self) -> dict[str, int]:
        """The numbers of all ids; found when they are first needed, since that reads them all."""
        if self._known is None:
            alive = np.ones(len(self._items), np.bool_) if self._alive is None else self._alive
            ids = self._items.ids()
            self._known = {ids[number]: number for number in np.flatnonzero(alive).tolist()}
        return self._known

    def _kept_items(self) -> Items:
        return self._items if self._alive is None else self._items.kept(self._alive)

    def _rebuild(self, kind: str) -> None:
        vectors = self._vectors.rebuilt(kind, self._alive)
        self._items = self._kept_items()
        self._vectors, self._alive, self._known = vectors, None, None
        self._changed()

    def _changed(self) -> None:
        """What was measured is not true any more."""
        self.measured = None
        self.thresholds = {}
