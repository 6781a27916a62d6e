"""Embeds the images and texts of a data set; keeps the embeddings in folders of `cnclip.bulk`."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._files import identity_of
from .._text import first_line
from ..bulk.embed import EmbedOptions, embed_outcomes, outcomes_of, write_outcomes
from ..bulk.folder import model_identity
from ..bulk.outcomes import Item, ItemKind, Outcome, spelled_id
from ..bulk.store import Store, locked
from ..datasets import ProblemKind, Problems, RetrievalData, TextRow
from ..errors import DatasetError, MissingExtraError, Where
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.formats import formats_of_environment
from ..progress import progress
from ..sources import Id, pyarrow_modules
from ..version import __version__

logger = logging.getLogger("cnclip")

SHARD_ITEMS = 8192

Collect = Callable[[list[Outcome]], None]


class SplitEmbedder:
    """Embeds one split of a data set with one model."""

    def __init__(
        self,
        data: RetrievalData,
        pipeline: MultiModalEmbeddingPipeline,
        folder: Path | None,
        *,
        show_progress: bool,
    ) -> None:
        """Choose the folder of the embeddings.

        They are kept in `images` and `texts` in `folder`; without a folder or without pyarrow they
        are not kept.

        Raises:
            DatasetError: the files of the data set cannot be read.
        """
        self._data, self._pipeline = data, pipeline
        self._show_progress = show_progress
        self._folder = folder if folder is not None and _can_keep() else None
        self._source = f"{data.name}, {data.split}: {_digest(data, pipeline)}"

    def images(self, problems: Problems) -> tuple[list[Id], NDArray[np.float32]]:
        """Embed the images that can be used.

        Returns:
            The ids of the images, and float32 [n, d].
        """
        waiting: deque[tuple[Id, Where]] = deque()
        ids: list[Id] = []
        vectors: list[NDArray[np.float32]] = []
        turned = self._data.turns_images

        def items() -> Iterator[Item]:
            for row in self._data.images(problems):
                waiting.append((row.image_id, row.where))
                yield Item(spelled_id(row.image_id), str(row.where), image=row.image, turned=turned)

        def collect(outcomes: list[Outcome]) -> None:
            for outcome in outcomes:
                image_id, where = waiting.popleft()
                if outcome.vector is None:
                    reason = f"image {image_id}: {outcome.error}"
                    problems.add(ProblemKind.UNREADABLE_IMAGE, where, reason)
                else:
                    ids.append(image_id)
                    vectors.append(outcome.vector)

        self._embed("images", items(), self._data.count_images(), collect)
        return ids, self._matrix(vectors)

    def texts(self, rows: list[TextRow], texts: list[str]) -> NDArray[np.float32]:
        """Embed `texts`, one for each row, as float32 [n, d]."""
        vectors: list[NDArray[np.float32]] = []
        items = (
            Item(spelled_id(row.text_id), str(row.where), text=text)
            for row, text in zip(rows, texts, strict=True)
        )

        def collect(outcomes: list[Outcome]) -> None:
            vectors.extend(outcome.vector for outcome in outcomes if outcome.vector is not None)

        self._embed("texts", items, len(rows), collect)
        return self._matrix(vectors)

    def _embed(
        self, kind: ItemKind, items: Iterator[Item], total: int | None, collect: Collect
    ) -> None:
        """Embed items that are not in the folder yet, and pass all outcomes on in order."""
        # Texts are normalised already, where they are to be.
        options = EmbedOptions(
            kind,
            dtype="float32",
            shard_items=SHARD_ITEMS,
            normalize=False,
            formats=formats_of_environment("all"),
        )
        options = options.for_pipeline(self._pipeline)
        restore: Callable[[Outcome], None] | None = None

        def lists() -> Generator[list[Outcome], None, None]:
            outcomes = outcomes_of(items, restore)
            for some in embed_outcomes(self._pipeline, outcomes, options):
                collect(some)
                yield some

        if self._folder is None:
            with progress(kind, total, kind[:-1], enabled=self._show_progress) as advance:
                for some in lists():
                    advance(len(some))
            return
        model, precision = model_identity(self._pipeline), self._pipeline.model.precision
        wanted = options.manifest(model, precision, [self._source])
        with locked(self._folder / kind) as folder:
            store = Store(folder, wanted, rebuild=True)
            restore = store.earlier.restore
            preprocessor = self._pipeline.preprocessor
            write_outcomes(store, lists(), total, preprocessor, show_progress=self._show_progress)

    def _matrix(self, vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if not vectors:
            return np.empty((0, self._pipeline.model.info.embed_dim), np.float32)
        return np.stack(vectors)


def _can_keep() -> bool:
    try:
        pyarrow_modules()
    except MissingExtraError as error:
        logger.warning("the embeddings are not kept: %s", error.reason)
        return False
    return True


def _digest(data: RetrievalData, pipeline: MultiModalEmbeddingPipeline) -> str:
    """Return a digest that changes with the files of the data set, the device and the version."""
    parts = [__version__, pipeline.model.device.partition(":")[0]]
    try:
        parts += map(identity_of, data.files())
    except OSError as error:
        file = error.filename or data.name
        raise DatasetError(f"cannot be read: {first_line(error)}", file=file) from error
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
