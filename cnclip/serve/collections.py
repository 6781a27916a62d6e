"""What the application searches: the gallery that ships, a folder, or indexes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .. import demo
from ..archive import printable
from ..bulk import model_identity
from ..bulk.items import spelled
from ..errors import InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.image import load_image
from ..search import Collection, Hit, Index, open_collection

THUMBNAIL = 384
_THREADS = 4
# Enough random directions for a glimpse of different items.
_DIRECTIONS = 48


@dataclass(frozen=True)
class Example:
    """What the page offers to try.

    Attributes:
        queries: Texts to look for.
        image: An image to label, or None.
        labels: Labels for it.
    """

    queries: tuple[str, ...] = ()
    image: Path | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Searchable:
    """A collection with its model. Threads may search it at the same time.

    Attributes:
        name: What the page calls it.
        collection: What is searched.
        pipeline: The collection's model.
        labels: What stands under the images, by id; file names where there is none.
        open: Opens an upload in the way in which the collection's images were opened.
        example: What the page offers to try.
    """

    name: str
    collection: Collection
    pipeline: MultiModalEmbeddingPipeline
    labels: Mapping[str, str] = field(default_factory=dict)
    open: Callable[[Path], Image.Image] = load_image
    example: Example = Example()

    def caption(self, hit: Hit) -> str:
        """What stands under a hit: its text, its label, or the name of its file."""
        if hit.text is not None:
            return hit.text
        return self.labels.get(hit.id) or os.path.basename(hit.name.rstrip("/")) or hit.path

    def images(self, hits: Sequence[Hit]) -> list[Image.Image | None]:
        """Thumbnails of mode RGB; None of texts, and where none can be had."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda hit: hit.thumbnail(THUMBNAIL, THUMBNAIL), hits))

    def glimpse(self, count: int) -> list[Hit]:
        """Some of the collection, the same ones each time; their scores say nothing."""
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
    example = Example(demo.QUERIES, by_emoji[demo.EXAMPLE_EMOJI[0]].path, demo.EXAMPLE_TEXTS)
    return _embedded("表情符号 Emoji", gallery, embedder, example)[0]


def open_folder(
    folder: Path,
    embedder: MultiModalEmbeddingPipeline,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Searchable, list[demo.UnreadableImage]]:
    """Embed the images of a folder and its subfolders, in memory.

    Returns:
        The collection, and the images that could not be read.

    Raises:
        NotADirectoryError: there is no such folder.
        InvalidInputError: the folder has no image that can be read.
        MissingExtraError: FAISS is not installed.
    """
    images = demo.find_images(folder)
    if not images:
        raise InvalidInputError("has no images", file=folder)
    name = printable(folder.resolve().name or str(folder))
    return _embedded(name, images, embedder, Example(), progress)


def open_indexes(
    addresses: Sequence[str],
    open_model: Callable[[Collection], MultiModalEmbeddingPipeline],
    milvus_collection: str = "cnclip",
) -> list[Searchable]:
    """Open indexes, or collections in Milvus, each with its model.

    Args:
        addresses: Paths of index files, or URLs of Milvus.
        open_model: Opens the model of a collection; called once for each model and precision.
        milvus_collection: The name of the collection in Milvus.

    Raises:
        IndexNotFoundError, IndexFileError, MilvusError: an index cannot be opened.
        ModelMismatchError: an index has vectors of another model.
        InvalidInputError: an address is given twice.
    """
    opened: dict[tuple[str, str], MultiModalEmbeddingPipeline] = {}
    searchables = []
    for address, name in zip(addresses, _names(addresses), strict=True):
        collection = open_collection(address, milvus_collection)
        key = (json.dumps(collection.model, sort_keys=True), collection.precision)
        if key not in opened:
            opened[key] = open_model(collection)
        embedder = opened[key]
        collection.check_model(model_identity(embedder))
        if isinstance(collection, Index) and "text" not in collection.thresholds:
            collection.prepare(embedder)
        searchables.append(Searchable(name, collection, embedder))
    return searchables


def _embedded(
    name: str,
    images: Sequence[demo.GalleryImage],
    embedder: MultiModalEmbeddingPipeline,
    example: Example,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Searchable, list[demo.UnreadableImage]]:
    """An index in memory of image files."""
    readable, rows, unreadable = demo.embed_images(embedder, images, progress=progress)
    if not readable:
        raise InvalidInputError("none of its images can be read", item=name)
    identity = model_identity(embedder)
    index = Index.create(rows.shape[1], model=identity, precision=embedder.model.precision)
    addresses = [spelled(str(image.path)) for image in readable]
    index.add(rows, addresses)
    index.prepare(embedder)
    labels = {address: image.label for address, image in zip(addresses, readable, strict=True)}
    opener = demo.open_image
    return Searchable(name, index, embedder, labels, opener, example), unreadable


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each of several indexes: short, and of its own."""
    short = [path if "://" in path else Path(path).stem for path in paths]
    names = [
        printable(name if short.count(name) == 1 else path)
        for path, name in zip(paths, short, strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError("is given twice", file=twice)
    return names
