"""Builds indexes of embeddings that `cnclip.bulk` stored in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bulk import Embeddings, open_embeddings
from ..errors import InvalidInputError
from ..progress import progress
from .collection import Collection
from .index import Index
from .milvus import MilvusIndex
from .moved import Root
from .vectors import EXACT_UP_TO, HNSW_UP_TO, choose_kind

# Enough to train IVF-PQ of any size: FAISS uses no more rows.
_MAX_TRAINING_ROWS = 1 << 20
_ROWS_AT_ONCE = 1 << 14


def index_embeddings(
    folder: str | os.PathLike[str] | Embeddings,
    *,
    kind: str = "auto",
    temperature: float | None = None,
    exact_up_to: int = EXACT_UP_TO,
    hnsw_up_to: int = HNSW_UP_TO,
    root: Root | None = None,
    show_progress: bool = False,
) -> Index:
    """Build an index of all embeddings in a folder, with their model and precision.

    The embeddings are compared with their checksums first.

    Args:
        folder: A folder that `cnclip embed` or `cnclip.bulk` wrote; or embeddings that
            `open_embeddings` or `open_clip_retrieval` opened.
        kind: `'exact'`, `'hnsw'` or `'ivfpq'`; `'auto'` chooses by the number of embeddings.
        temperature: The model's temperature, for probabilities.
        exact_up_to: The maximum number of embeddings for which `'auto'` is exact.
        hnsw_up_to: The maximum number of embeddings for which `'auto'` uses HNSW.
        root: The folder that the files were moved to; the index has their new paths.
        show_progress: Show a progress bar on stderr.

    Raises:
        EmbeddingsError: a shard is missing or damaged.
        MissingExtraError: FAISS is not installed.
        InvalidInputError: there are no embeddings, or an argument has a value that is not listed
            above.
    """
    embeddings = folder if isinstance(folder, Embeddings) else open_embeddings(folder)
    embeddings.check()
    if embeddings.rows == 0:
        raise InvalidInputError("has no embeddings to index", file=embeddings.path)
    chosen = choose_kind(embeddings.rows, exact_up_to, hnsw_up_to) if kind == "auto" else kind
    index = Index.create(
        embeddings.dim,
        model=embeddings.model,
        precision=embeddings.precision,
        contents=embeddings.kind,
        temperature=temperature,
        image_options=embeddings.manifest.image_options,
        kind=kind,
        expected=embeddings.rows,
        sample=_sample(embeddings) if chosen == "ivfpq" else None,
        exact_up_to=exact_up_to,
        hnsw_up_to=hnsw_up_to,
    )
    add_embeddings(index, embeddings, root=root, show_progress=show_progress)
    return index


def add_embeddings(
    collection: Collection,
    embeddings: Embeddings,
    *,
    root: Root | None = None,
    show_progress: bool = False,
) -> None:
    """Add the embeddings of a folder to an index or to a collection in Milvus.

    Args:
        collection: A collection of the same model and precision.
        embeddings: The embeddings, from `cnclip.bulk.open_embeddings`.
        root: The folder that the files were moved to.
        show_progress: Show a progress bar on stderr.

    Raises:
        ModelMismatchError: the embeddings are of another model or precision, or of images that were
            decoded in another way.
        InvalidInputError: an id is in the collection already, or the embeddings are of texts and
            the collection has images, or vice versa.
    """
    _check_fits(collection, embeddings)
    for rows, ids, paths, texts in _batches(embeddings, root, show_progress):
        collection.add(rows, ids, paths, texts)


class Update(NamedTuple):
    """The number of vectors that were added, replaced and removed."""

    added: int
    replaced: int
    removed: int


def update_embeddings(
    collection: MilvusIndex,
    embeddings: Embeddings,
    *,
    root: Root | None = None,
    show_progress: bool = False,
) -> Update:
    """Bring a collection in Milvus up to date with a folder of embeddings.

    Vectors of the embeddings' sources that the folder does not have any more are removed; vectors
    of other sources stay.

    Args:
        collection: A collection of the same model and precision.
        embeddings: The embeddings, from `cnclip.bulk.open_embeddings`.
        root: The folder that the files were moved to.
        show_progress: Show a progress bar on stderr.

    Raises:
        ModelMismatchError: the embeddings are of another model or precision, or of images that were
            decoded in another way.
        InvalidInputError: an id is that of another file in the collection, or the embeddings are of
            texts and the collection has images, or vice versa.
    """
    _check_fits(collection, embeddings)
    seen: set[str] = set()
    added = 0
    for rows, ids, paths, texts in _batches(embeddings, root, show_progress):
        added += collection.replace(rows, ids, paths, texts)
        seen.update(ids)
    gone = [
        id
        for id, path in collection.items()
        if id not in seen and _is_of(path, embeddings.manifest.sources)
    ]
    return Update(added, len(seen) - added, collection.remove(gone))


def _check_fits(collection: Collection, embeddings: Embeddings) -> None:
    options = embeddings.manifest.image_options
    collection.check_model(embeddings.model, embeddings.precision, options)
    if embeddings.kind != collection.contents:
        reason = f"has {collection.contents}, these are {embeddings.kind}; use another collection"
        raise InvalidInputError(reason, item=collection.name)


def _is_of(path: str, sources: Sequence[str]) -> bool:
    return any(path == source or path.startswith(f"{source}/") for source in sources)


def _batches(
    embeddings: Embeddings, root: Root | None, show_progress: bool
) -> Iterator[tuple[NDArray[np.float32], list[str], list[str], list[str] | None]]:
    """Some vectors at a time, with their ids, paths and texts."""
    names = ["id", "path", "text"] if embeddings.kind == "texts" else ["id", "path"]
    with progress("embeddings", embeddings.rows, "embedding", enabled=show_progress) as advance:
        for _, vectors, items in embeddings.blocks():
            for start in range(0, len(vectors), _ROWS_AT_ONCE):
                rows = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float32)
                columns = items.select(names).slice(start, len(rows)).to_pydict()
                ids, paths = columns["id"], columns["path"]
                if root is not None:
                    places = [root.place(*one) for one in zip(ids, paths, strict=True)]
                    ids, paths = map(list, zip(*places, strict=True))
                yield rows, ids, paths, columns.get("text")
                advance(len(rows))


def _sample(embeddings: Embeddings) -> NDArray[np.float32]:
    """Rows from the whole folder, at even distances."""
    step = max(1, embeddings.rows // _MAX_TRAINING_ROWS)
    samples = [
        np.asarray(rows[-first % step :: step], np.float32)
        for first, rows, _ in embeddings.blocks()
    ]
    return np.concatenate(samples)
