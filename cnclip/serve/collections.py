"""What the application searches: the gallery that ships, a folder, or indexes."""

from __future__ import annotations

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
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..preprocessors.image import load_image
from ..search import Collection, Hit, Index
from ..search.opening import model_of, open_collection, open_model
from ..search.thumbnails import thumbnail

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
            return list(threads.map(lambda hit: thumbnail(hit, THUMBNAIL, THUMBNAIL), hits))

    def glimpse(self, count: int) -> list[Hit]:
        """Some of the collection, the same ones each time; their scores say nothing."""
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((_DIRECTIONS, self.collection.dim), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        answers = self.collection.search(rows, 1 + count // 4)
        hits = {hit.id: hit for hits in zip(*answers, strict=False) for hit in hits}
        return list(hits.values())[:count]


def open_gallery(
    model: str = "emoji-cn", *, device: str = "cpu", precision: str = "fp32"
) -> Searchable:
    """The emoji that ship, in memory.

    Raises:
        As `pipeline`; MissingExtraError: FAISS is not installed.
    """
    gallery = demo.load_gallery()
    by_emoji = {image.emoji: image for image in gallery}
    example = Example(demo.QUERIES, by_emoji[demo.EXAMPLE_EMOJI[0]].path, demo.EXAMPLE_TEXTS)
    embedder = pipeline(model=model, device=device, precision=precision)
    return _embedded("表情符号 Emoji", gallery, embedder, example)[0]


def open_folder(
    folder: Path,
    model: str = "emoji-cn",
    *,
    device: str = "cpu",
    precision: str = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Searchable, list[demo.UnreadableImage]]:
    """The images of a folder and below, embedded in memory.

    Returns:
        Them, and those that could not be read.

    Raises:
        NotADirectoryError: there is no such folder.
        InvalidInputError: it holds no image that can be read.
        As `pipeline`; MissingExtraError: FAISS is not installed.
    """
    images = demo.find_images(folder)
    if not images:
        raise InvalidInputError(f"{folder}: holds no images")
    embedder = pipeline(model=model, device=device, precision=precision)
    name = printable(folder.resolve().name or str(folder))
    return _embedded(name, images, embedder, Example(), progress)


def open_indexes(
    paths: Sequence[str],
    model: str | None = None,
    *,
    device: str = "gpu",
    precision: str | None = None,
    milvus_collection: str = "cnclip",
) -> list[Searchable]:
    """Indexes, or collections in Milvus, each with its model; the same model is opened once.

    Args:
        paths: Files that `cnclip index` wrote, or URLs of Milvus.
        model: By default what each index names.
        device: As of `pipeline`.
        precision: By default that of each index.
        milvus_collection: The collection's name in Milvus.

    Raises:
        IndexNotFoundError, IndexFileError, MilvusError: an index cannot be opened; names it.
        ModelNotFoundError: the model that an index names is not here; names both.
        ModelMismatchError: an index holds vectors of another model; names both.
        InvalidInputError: an index names no model, and `model` is None.
        As `pipeline` and `Index.load`.
    """
    opened: dict[tuple[str, str], MultiModalEmbeddingPipeline] = {}
    searchables = []
    for path, name in zip(paths, _names(paths), strict=True):
        collection = open_collection(path, milvus_collection)
        key = (model_of(collection, model), precision or collection.precision)
        if key not in opened:
            opened[key] = open_model(collection, model, device=device, precision=precision)
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
        raise InvalidInputError(f"{name}: none of its images can be read")
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
        raise InvalidInputError(f"{twice}: is named twice")
    return names
