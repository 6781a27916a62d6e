"""`Collection`: the base class of an index file and of a collection in Milvus."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .._checks import check_integer
from .._text import is_blank
from ..bulk import model_identity
from ..errors import InvalidInputError, ModelMismatchError
from ..pipelines import MultiModalEmbeddingPipeline
from ..pipelines.scores import probabilities
from ..preprocessors.decoding import ImageOptions, changed_options
from ..preprocessors.image import load_image
from ..preprocessors.inputs import ImageInput
from ..preprocessors.text import normalize_text
from .answer import Answer
from .hits import Hit

logger = logging.getLogger("cnclip")

# Allows for rounding in half precision; the check is for vectors that were never normalized.
_NORM_TOLERANCE = 0.01


class Collection(ABC):
    """Unit vectors of one model, each with an id, a path and, if it is a text, the text.

    Attributes:
        dim: The number of columns of the vectors.
        model: The model, as returned by `cnclip.bulk.model_identity`; None if unknown.
        precision: The precision in which the model computed the vectors.
        contents: `'images'` or `'texts'`.
        temperature: The model's temperature; None if unknown.
        thresholds: The suggested thresholds, by the kind of query: `'text'` or `'image'`.
        image_options: How image files were decoded, and how those of queries are: the options that
            are not the defaults, see `ImageOptions.record`.
    """

    dim: int
    model: Mapping[str, Any] | None
    precision: str
    contents: str
    temperature: float | None
    thresholds: dict[str, float]
    image_options: Mapping[str, str]

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the collection in messages."""

    @abstractmethod
    def __len__(self) -> int: ...

    def add(
        self,
        rows: ArrayLike,
        ids: Sequence[str],
        paths: Sequence[str] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        model: Mapping[str, Any] | None = None,
        precision: str | None = None,
        image_options: Mapping[str, str] | None = None,
    ) -> None:
        """Add vectors.

        Args:
            rows: float [n, dim], rows of unit length.
            ids: n new ids.
            paths: n files or URLs; by default the ids.
            texts: n texts, for a collection of texts.
            model: The model of the vectors; if given, it is compared with the collection's.
            precision: The precision of the vectors; if given, it is compared as well.
            image_options: How their images were decoded; if given, it is compared as well.

        Raises:
            ModelMismatchError: the vectors are of another model or precision, or their images were
                decoded in another way.
            InvalidInputError: a shape, length, value or id is invalid. Nothing is added.
        """
        self.check_model(model, precision, image_options)
        matrix = self._check_vectors(rows, "rows")
        for name, values in (("ids", ids), ("paths", paths), ("texts", texts)):
            if values is not None and len(values) != len(matrix):
                reason = f"expected {len(matrix)} values, one per row, got {len(values)}"
                raise InvalidInputError(reason, item=name)
        seen: set[str] = set()
        for id in ids:
            if id in seen:
                raise InvalidInputError(f"duplicate id {id!r}", item="ids")
            seen.add(id)
        self._add(matrix, ids, ids if paths is None else paths, texts)

    @abstractmethod
    def _add(
        self,
        matrix: NDArray[np.float32],
        ids: Sequence[str],
        paths: Sequence[str],
        texts: Sequence[str | None] | None,
    ) -> None:
        """Add float32 [n, dim] with n unique ids, which may be in the collection already."""

    @abstractmethod
    def remove(self, ids: Iterable[str]) -> int:
        """Remove vectors by their ids; unknown ids are ignored.

        Returns:
            The number of vectors that were removed.
        """

    @abstractmethod
    def item(self, id: str) -> tuple[Hit, NDArray[np.float32]] | None:
        """An item, as a hit of itself, and its vector, float32 [dim]; None if there is none.

        Where an index keeps vectors in a compressed form, the vector is close to the original one.
        """

    @abstractmethod
    def _search(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]: ...

    def search(
        self, queries: ArrayLike, k: int = 10, *, model: Mapping[str, Any] | None = None
    ) -> list[list[Hit]]:
        """Find the k vectors with the highest cosine similarity to each query.

        Args:
            queries: float [m, dim] or [dim], rows of unit length.
            k: The maximum number of hits per query.
            model: The model of the queries; if given, it is compared with the collection's.

        Returns:
            A list of hits for each query, best first.

        Raises:
            ModelMismatchError: the queries are of another model.
            InputTypeError: `k` is not an integer.
            InvalidInputError: a shape or value is invalid.
        """
        k = check_integer(k, "k")
        self.check_model(model)
        rows = self._check_vectors(np.atleast_2d(np.asarray(queries)), "queries")
        return [with_probabilities(hits, self.temperature) for hits in self._search(rows, k)]

    def find(
        self,
        pipeline: MultiModalEmbeddingPipeline,
        text: str | None = None,
        image: ImageInput | None = None,
        *,
        k: int = 10,
        weight: float = 0.5,
        threshold: float | None = None,
        normalize: bool | None = None,
    ) -> Answer:
        """Find the images or texts that are most similar to a text, an image, or both.

        Args:
            pipeline: A pipeline with the model that the collection was made with.
            text: A query in Chinese.
            image: An image, as `pipeline.forward` accepts it. A file is decoded as those of the
                collection were.
            k: The maximum number of hits.
            weight: The weight of the text in a query of text and image, from 0 to 1.
            threshold: Drop hits with a lower score. Probabilities are computed before.
            normalize: Apply `normalize_text` to the text; by default if the model's description
                says that it was trained so.

        Raises:
            ModelMismatchError: the pipeline has another model.
            InvalidInputError: neither text nor image is given, or a value is out of range.
            ImageError: the image cannot be read.
        """
        self.check_pipeline(pipeline)
        if text is not None:
            text = query_text(pipeline, text, normalize)
        _check_query(text, image, weight)
        if image is not None:
            image = self.open_image(pipeline, image)
        vectors = pipeline.forward({"text": text, "img": image})
        rows = [vectors["text_embedding"], vectors["img_embedding"]]
        of_text, of_image = (None if one is None else np.asarray(one)[0] for one in rows)
        temperature = float(pipeline.model.temperature)
        return self.answer(
            of_text, of_image, k=k, weight=weight, threshold=threshold, temperature=temperature
        )

    def answer(
        self,
        of_text: NDArray[np.float32] | None,
        of_image: NDArray[np.float32] | None,
        *,
        k: int,
        weight: float = 0.5,
        threshold: float | None = None,
        temperature: float | None = None,
    ) -> Answer:
        """Find the images or texts that are most similar to the vectors of a query.

        Args:
            of_text: The query's text, float32 [dim], or None.
            of_image: The query's image, float32 [dim], or None.
            k: The maximum number of hits.
            weight: The weight of the text in a query of both, from 0 to 1.
            threshold: Drop hits with a lower score. Probabilities are computed before.
            temperature: The model's temperature; by default the collection's.
        """
        if of_text is not None and of_image is not None:
            query = weight * of_text + (1 - weight) * of_image
            query /= np.linalg.norm(query)
            suggested = None
        else:
            one = of_image if of_text is None else of_text
            if one is None:
                reason = "expected a text, an image, or both, got neither"
                raise InvalidInputError(reason, item="query")
            query = one
            suggested = self.thresholds.get("image" if of_text is None else "text")
        hits = self.search(query, k)[0]
        if temperature is not None:
            hits = with_probabilities(hits, temperature)
        if threshold is not None:
            hits = [hit for hit in hits if hit.score >= threshold]
        return Answer(hits, suggested)

    def open_image(self, pipeline: MultiModalEmbeddingPipeline, image: ImageInput) -> ImageInput:
        """Open the image file of a query as the files of the collection were.

        Args:
            pipeline: A pipeline with the model that the collection was made with.
            image: An image, as `pipeline.forward` accepts it.

        Returns:
            The opened image; an open one, and for a collection of texts any, as it is.

        Raises:
            ImageError: it cannot be read. InvalidInputError: the collection was made with options
                that this version lacks.
        """
        if isinstance(image, Image.Image | np.ndarray) or self.contents == "texts":
            return image
        resolution = pipeline.preprocessor.image_resolution
        try:
            options = ImageOptions.of_record(self.image_options, resolution)
        except InvalidInputError as error:
            raise error.at(file=self.name) from error
        return load_image(image, options=options)

    def check_pipeline(self, pipeline: MultiModalEmbeddingPipeline) -> None:
        """Refuse queries of another model; log that those of another precision differ a little.

        Raises:
            ModelMismatchError: the pipeline has another model.
        """
        self.check_model(model_identity(pipeline))
        if pipeline.model.precision != self.precision:
            logger.warning(
                "%s: its vectors are in %s, the query is in %s: scores differ a little",
                self.name,
                self.precision,
                pipeline.model.precision,
            )

    def check_model(
        self,
        model: Mapping[str, Any] | None,
        precision: str | None = None,
        image_options: Mapping[str, str] | None = None,
    ) -> None:
        """Refuse vectors of another model, and where given of another precision or decoding.

        Raises:
            ModelMismatchError: one of them differs; the message has both.
        """
        ours = self.model
        if model is not None and ours is not None and ours.get("digest") != model.get("digest"):
            reason = f"has vectors of {_described(ours)}, these are of {_described(model)}"
            raise ModelMismatchError(reason, item=self.name)
        if precision is not None and precision != self.precision:
            reason = f"has vectors computed in {self.precision}, these are of {precision}"
            raise ModelMismatchError(reason, item=self.name)
        if image_options is not None:
            self._check_options(image_options)

    def _check_options(self, others: Mapping[str, str]) -> None:
        for name, mine, theirs in changed_options(self.image_options, others):
            reason = (
                f"has vectors of images that were decoded with {name} {mine or 'none'}, "
                f"these with {name} {theirs or 'none'}; "
                "embed these as the others, or build another index"
            )
            raise ModelMismatchError(reason, item=self.name)

    def _check_vectors(self, rows: ArrayLike, name: str) -> NDArray[np.float32]:
        """The rows as float32 [n, dim] of unit length; InvalidInputError if they are not."""
        given = np.asarray(rows)
        if given.ndim != 2 or given.shape[1] != self.dim or given.dtype.kind != "f":
            reason = f"expected floats [n, {self.dim}], got {given.dtype} {list(given.shape)}"
            raise InvalidInputError(reason, item=name)
        matrix = np.ascontiguousarray(given, np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        # The negation makes norms that are NaN wrong as well.
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
        if len(wrong):
            reason = f"expected rows of unit length, row {wrong[0]} has {norms[wrong[0]]:g}"
            raise InvalidInputError(reason, item=name)
        return matrix


def query_text(
    pipeline: MultiModalEmbeddingPipeline, text: str, normalize: bool | None = None
) -> str:
    """The text of a query as it is embedded; `normalize` as for `Collection.find`."""
    if normalize is None:
        normalize = pipeline.model.info.normalizes_texts
    return normalize_text(text) if normalize else text


def _check_query(text: str | None, image: ImageInput | None, weight: float) -> None:
    if text is None and image is None:
        raise InvalidInputError("expected a text, an image, or both, got neither", item="query")
    if text is not None and is_blank(text):
        raise InvalidInputError("expected a text, got an empty one", item="query")
    if not 0 <= weight <= 1:
        raise InvalidInputError(f"expected a number from 0 to 1, got {weight}", item="weight")


def with_probabilities(hits: list[Hit], temperature: float | None) -> list[Hit]:
    """The hits of one query with their probabilities, or as they are without a temperature."""
    if temperature is None or not hits:
        return hits
    shares = probabilities([hit.score for hit in hits], temperature).tolist()
    return [replace(hit, probability=p) for hit, p in zip(hits, shares, strict=True)]


def _described(model: Mapping[str, Any]) -> str:
    return f"{model.get('name')} ({str(model.get('digest'))[:12]})"
