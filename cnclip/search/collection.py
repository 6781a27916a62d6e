"""What every collection of vectors answers, wherever they lie: checks, queries, scores."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bulk import holds_many, model_identity
from ..errors import InvalidInputError, ModelMismatchError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.multi_modal import ImageInput
from .query import embed_query
from .scores import probabilities

logger = logging.getLogger("cnclip")

CONTENTS = ("images", "texts")
# Half precision's rounding, and more: what is meant is to find vectors that nobody normalized.
_LENGTH_TOLERANCE = 0.01


@dataclass(frozen=True)
class Hit:
    """What was found, one of them.

    Attributes:
        path: Its file or URL; of texts, of the file that held it.
        score: The cosine with the query, from -1 to 1.
        id: Its name in the collection.
        text: Of texts, the text.
        probability: Its share among the hits of one query: the softmax of their cosines, divided by
            the model's temperature. None where the temperature is not known.
    """

    path: str
    score: float
    id: str
    text: str | None = None
    probability: float | None = None

    @property
    def name(self) -> str:
        """What tells an image from others: its path, or its id in an archive or table."""
        return self.id if holds_many(self.path) else self.path


@dataclass(frozen=True)
class Answer:
    """What was found for one query. Notebooks show it with its images.

    Attributes:
        hits: Best first.
        suggested: The score below which hits mean little, by the collection's own scores; None
            where none is known for a query of this kind.
    """

    hits: list[Hit]
    suggested: float | None

    def __repr__(self) -> str:
        """In one line, however much was found."""
        if not self.hits:
            return "Answer(nothing was found)"
        best = self.hits[0]
        shown = best.name if best.text is None else best.text
        found = f"{len(self.hits)} hits, best {best.score:.3f} {shown!r:.200}"
        return f"Answer({found}, suggested={self.suggested})"

    def _repr_html_(self) -> str:
        from .page import notebook_html  # which needs Pillow, and only notebooks ask

        return notebook_html(self.hits, self.suggested)


class Collection(ABC):
    """Unit vectors of one model, each with an id, a path and, of texts, the text.

    Attributes:
        dim: Columns of the vectors.
        model: What `cnclip.bulk.model_identity` says of the model; None if unknown.
        precision: What the model computed in.
        contents: `'images'` or `'texts'`.
        temperature: The model's; None if unknown.
        thresholds: The scores suggested for queries that are a `'text'` or an `'image'`.
    """

    dim: int
    model: Mapping[str, Any] | None
    precision: str
    contents: str
    temperature: float | None
    thresholds: dict[str, float]

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the collection."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
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
        """Add vectors.

        Args:
            rows: float [n, dim], of unit length.
            ids: n names that no vector has yet.
            paths: Their files or URLs; the ids if None.
            texts: Of texts, the texts.
            model: Whose vectors these are; compared with the collection's where given.
            precision: What they were computed in; compared where given.

        Raises:
            ModelMismatchError: they are of another model or precision; names both.
            InvalidInputError: shapes, lengths, values or ids that cannot be; nothing is added.
        """

    @abstractmethod
    def remove(self, ids: Iterable[str]) -> int:
        """Remove vectors by their ids; ids that are not there are passed over.

        Returns:
            How many were removed.
        """

    @abstractmethod
    def _search(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]: ...

    def search(
        self, queries: ArrayLike, k: int = 10, *, model: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        """The k vectors of highest cosine with each query.

        Args:
            queries: float [m, dim] or [dim], of unit length.
            k: At most so many.
            model: Whose vectors these are; compared with the collection's where given.

        Returns:
            A list for each query, best first.

        Raises:
            ModelMismatchError: they are of another model; names both.
            InvalidInputError: shapes or values that cannot be.
        """
        if k < 1:
            raise InvalidInputError(f"k: expected 1 or more, got {k}")
        self.check_model(model)
        rows = self._checked(np.atleast_2d(np.asarray(queries)), "queries")
        return [self._with_probabilities(hits, self.temperature) for hits in self._search(rows, k)]

    def find(
        self,
        pipeline: MultiModalEmbeddingPipeline,
        text: str | None = None,
        image: ImageInput | None = None,
        *,
        k: int = 10,
        weight: float = 0.5,
        threshold: float | None = None,
    ) -> Answer:
        """What lies nearest to a text, an image, or both.

        Args:
            pipeline: Of the model that the collection was made with.
            text: A query in Chinese.
            image: An image, as `pipeline.forward` takes it.
            k: At most so many.
            weight: Of text and image together, the text's share of their mean.
            threshold: Leave out hits of a lower score. Probabilities are those among all k.

        Raises:
            ModelMismatchError: the pipeline is of another model; names both.
            InvalidInputError: neither text nor image, or a value out of its range.
            ImageError: the image cannot be read.
        """
        self.check_model(model_identity(pipeline))
        if pipeline.model.precision != self.precision:
            logger.warning(
                "%s was made in %s, the query is computed in %s: scores differ a little",
                self.name,
                self.precision,
                pipeline.model.precision,
            )
        query = embed_query(pipeline, text, image, weight)
        temperature = float(pipeline.model.temperature)
        hits = self._with_probabilities(self.search(query, k)[0], temperature)
        if threshold is not None:
            hits = [hit for hit in hits if hit.score >= threshold]
        kind = "image" if text is None else "text"
        mixed = text is not None and image is not None
        return Answer(hits, None if mixed else self.thresholds.get(kind))

    def check_model(self, model: Mapping[str, Any] | None, precision: str | None = None) -> None:
        """Refuse vectors of another model, or of another precision where one is given.

        Raises:
            ModelMismatchError: they are; names both.
        """
        if model is not None and self.model is not None:
            ours, theirs = self.model.get("digest"), model.get("digest")
            if ours != theirs:
                raise ModelMismatchError(
                    f"{self.name} holds vectors of {_named(self.model)}, these are of "
                    f"{_named(model)}"
                )
        if precision is not None and precision != self.precision:
            raise ModelMismatchError(
                f"{self.name} holds vectors computed in {self.precision}, these are of {precision}"
            )

    def _checked(self, rows: ArrayLike, what: str) -> NDArray[np.float32]:
        """Rows as float32, once they are what they have to be."""
        given = np.asarray(rows)
        if given.ndim != 2 or given.shape[1] != self.dim or given.dtype.kind != "f":
            raise InvalidInputError(
                f"{what}: expected floats [n, {self.dim}], got {given.dtype} {list(given.shape)}"
            )
        matrix = np.ascontiguousarray(given, np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        # Written so that lengths that are NaN are wrong too.
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
        if len(wrong):
            raise InvalidInputError(
                f"{what}: expected rows of unit length, row {wrong[0]} has {lengths[wrong[0]]:g}"
            )
        return matrix

    def _check_items(
        self,
        count: int,
        ids: Sequence[str],
        paths: Sequence[str] | None,
        texts: Sequence[str | None] | None,
    ) -> None:
        for name, some in (("ids", ids), ("paths", paths), ("texts", texts)):
            if some is not None and len(some) != count:
                raise InvalidInputError(f"{name}: expected {count}, as rows, got {len(some)}")
        if len(set(ids)) != count:
            seen: set[str] = set()
            twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
            raise InvalidInputError(f"ids: {twice!r} is there twice")

    @staticmethod
    def _with_probabilities(hits: list[Hit], temperature: float | None) -> list[Hit]:
        if temperature is None or not hits:
            return hits
        shares = probabilities(np.array([hit.score for hit in hits]), temperature)
        return [replace(hit, probability=float(p)) for hit, p in zip(hits, shares, strict=True)]


def _named(model: Mapping[str, Any]) -> str:
    return f"{model.get('name')} ({str(model.get('digest'))[:12]})"
