"""The collections that the application searches: the bundled gallery, a folder, or indexes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import demo
from .._text import printable
from ..bulk import model_identity
from ..errors import CnclipError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..search import Collection, Hit, Index, Root, open_collection
from ..sources import spelled
from ..sources.image_names import ImageNames

THUMBNAIL = 384
# Enough random directions to find different items.
_DIRECTIONS = 48


@dataclass(frozen=True)
class Example:
    """Examples that the page offers.

    Attributes:
        queries: Queries.
        image: The id of an image to label, or None.
        labels: Labels for the image.
    """

    queries: tuple[str, ...] = ()
    image: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Searchable:
    """A collection with its model. Threads may search it at the same time.

    Attributes:
        name: The name on the page.
        collection: The collection.
        pipeline: The collection's model.
        labels: The captions of images by id; the default is the file name.
        example: Examples that the page offers.
        root: Where the files are now, if they were moved.
    """

    name: str
    collection: Collection
    pipeline: MultiModalEmbeddingPipeline
    labels: Mapping[str, str] = field(default_factory=dict)
    example: Example = Example()
    root: Root | None = None

    def placed(self, hits: Sequence[Hit]) -> list[Hit]:
        """Hits with the places where their files are now."""
        return list(hits) if self.root is None else [self.root.moved(hit) for hit in hits]

    def caption(self, hit: Hit) -> str:
        """The caption of a hit: its text, its label, or its file name."""
        if hit.text is not None:
            return hit.text
        return self.labels.get(hit.id) or os.path.basename(hit.name.rstrip("/")) or hit.path

    def glimpse(self, count: int) -> list[Hit]:
        """Some of the collection, always the same ones; their scores mean nothing."""
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((_DIRECTIONS, self.collection.dim), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        answers = self.collection.search(rows, 1 + count // 4)
        hits = {hit.id: hit for hits in zip(*answers, strict=False) for hit in hits}
        return list(hits.values())[:count]


def open_gallery(embedder: MultiModalEmbeddingPipeline) -> Searchable:
    """Embed the emoji that ship, in memory.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    gallery = demo.load_gallery()
    by_emoji = {image.emoji: image for image in gallery}
    image = spelled(str(by_emoji[demo.EXAMPLE_EMOJI[0]].path))
    example = Example(demo.QUERIES, image, demo.EXAMPLE_TEXTS)
    return _embed("表情符号 Emoji", gallery, embedder, example)[0]


def open_folder(
    folder: Path,
    embedder: MultiModalEmbeddingPipeline,
    *,
    names: ImageNames | None = None,
    show_progress: bool = False,
) -> tuple[Searchable, list[tuple[demo.GalleryImage, CnclipError]]]:
    """Embed the images of a folder and its subfolders, in memory.

    Args:
        folder: The folder.
        embedder: The model.
        names: Decides which files are images, and counts the others.
        show_progress: Print progress on stderr.

    Returns:
        The collection, and the images that could not be read, with their errors.

    Raises:
        NotADirectoryError: there is no such folder.
        InvalidInputError: the folder has no image that can be read.
        MissingExtraError: FAISS is not installed.
    """
    images = demo.find_images(folder, names=names)
    if not images:
        raise InvalidInputError("has no images", file=folder)
    name = printable(folder.resolve().name or str(folder))
    return _embed(name, images, embedder, Example(), show_progress=show_progress)


def open_indexes(
    addresses: Sequence[str],
    open_model: Callable[[Collection], MultiModalEmbeddingPipeline],
    milvus_collection: str = "cnclip",
    *,
    token: str | None = None,
    database: str | None = None,
    root: Root | None = None,
) -> list[Searchable]:
    """Open indexes, or collections in Milvus, each with its model.

    Args:
        addresses: Paths of index files, or URLs of Milvus.
        open_model: Opens the model of a collection; called once for each model and precision.
        milvus_collection: The name of the collection in Milvus.
        token: As for `connect`.
        database: As for `connect`.
        root: Where the files are now, if they were moved.

    Raises:
        IndexNotFoundError, IndexFileError, MilvusError: an index cannot be opened.
        ModelMismatchError: an index has vectors of another model.
        InvalidInputError: an address is given twice.
    """
    opened: dict[tuple[str, str], MultiModalEmbeddingPipeline] = {}
    searchables = []
    for address, name in zip(addresses, _names(addresses), strict=True):
        # In memory: a file that is truncated or written in place must not end the server.
        collection = open_collection(
            address, milvus_collection, token=token, database=database, mapped=False
        )
        key = (json.dumps(collection.model, sort_keys=True), collection.precision)
        if key not in opened:
            opened[key] = open_model(collection)
        embedder = opened[key]
        collection.check_model(model_identity(embedder))
        if isinstance(collection, Index) and "text" not in collection.thresholds:
            collection.prepare(embedder)
        searchables.append(Searchable(name, collection, embedder, root=root))
    return searchables


def _embed(
    name: str,
    images: Sequence[demo.GalleryImage],
    embedder: MultiModalEmbeddingPipeline,
    example: Example,
    *,
    show_progress: bool = False,
) -> tuple[Searchable, list[tuple[demo.GalleryImage, CnclipError]]]:
    """Embed image files into an index in memory."""
    batch = demo.embed_images(embedder, images, show_progress=show_progress)
    if not batch.embedded:
        reason = f"none of its images can be read; the first: {batch.failed[0][1]}"
        raise InvalidInputError(reason, item=name)
    identity, precision = model_identity(embedder), embedder.model.precision
    options = demo.options_for(embedder).record()
    columns = batch.vectors.shape[1]
    index = Index.create(columns, model=identity, precision=precision, image_options=options)
    ids = [spelled(str(image.path)) for image in batch.embedded]
    index.add(batch.vectors, ids)
    index.prepare(embedder)
    labels = {id: image.label for id, image in zip(ids, batch.embedded, strict=True)}
    return Searchable(name, index, embedder, labels, example), batch.failed


def _names(paths: Sequence[str]) -> list[str]:
    """A short and unique name for each index."""
    short = [path if "://" in path else Path(path).stem for path in paths]
    names = [
        printable(name if short.count(name) == 1 else path)
        for path, name in zip(paths, short, strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError("is given twice", file=twice)
    return names
