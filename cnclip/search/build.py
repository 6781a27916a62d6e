"""Indexes of embeddings that lie in a folder of `cnclip.bulk`'s."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from ..bulk import Embeddings, open_embeddings
from ..errors import InvalidInputError
from ..progress import progress
from .collection import Collection
from .index import Index
from .vectors import EXACT_UP_TO, HNSW_UP_TO, choose_kind

# Enough to train IVF-PQ of any size on: FAISS takes no more of them.
_TRAINED_ON = 1 << 20
_ROWS_AT_ONCE = 1 << 14


def index_embeddings(
    folder: str | os.PathLike[str],
    *,
    kind: str = "auto",
    temperature: float | None = None,
    exact_up_to: int = EXACT_UP_TO,
    hnsw_up_to: int = HNSW_UP_TO,
    show_progress: bool = False,
) -> Index:
    """An index of all embeddings in a folder, with the folder's model and precision.

    The embeddings are compared with their checksums first.

    Args:
        folder: What `cnclip embed` or `cnclip.bulk` wrote.
        kind: As of `Index.create`; by default chosen by the number of embeddings.
        temperature: The model's.
        exact_up_to: As of `Index.create`.
        hnsw_up_to: As of `Index.create`.
        show_progress: On stderr.

    Raises:
        EmbeddingsError: a shard is missing or damaged; names it.
        MissingExtraError: FAISS is not installed.
        InvalidInputError: there are no embeddings, or an argument is none of those above.
    """
    embeddings = open_embeddings(folder, check=True)
    if embeddings.rows == 0:
        raise InvalidInputError(f"{os.fspath(folder)}: holds no embeddings")
    chosen = choose_kind(embeddings.rows, exact_up_to, hnsw_up_to) if kind == "auto" else kind
    index = Index.create(
        embeddings.dim,
        model=embeddings.model,
        precision=embeddings.precision,
        contents=embeddings.kind,
        temperature=temperature,
        kind=kind,
        expected=embeddings.rows,
        sample=_sample(embeddings) if chosen == "ivfpq" else None,
        exact_up_to=exact_up_to,
        hnsw_up_to=hnsw_up_to,
    )
    add_embeddings(index, embeddings, show_progress=show_progress)
    return index


def add_embeddings(
    collection: Collection, embeddings: Embeddings, *, show_progress: bool = False
) -> None:
    """Add a folder's embeddings to a collection, on disk or in Milvus.

    Args:
        collection: Of the same model and precision.
        embeddings: `cnclip.bulk.open_embeddings(...)`.
        show_progress: On stderr.

    Raises:
        ModelMismatchError: they are of another model or precision; names both.
        InvalidInputError: an id is in the collection already.
    """
    collection.check_model(embeddings.model, embeddings.precision)
    texts_too = embeddings.kind == "texts"
    with progress("embeddings", embeddings.rows, "embedding", enabled=show_progress) as advance:
        for _, vectors, lines in embeddings.blocks():
            for start in range(0, len(vectors), _ROWS_AT_ONCE):
                rows = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float32)
                some = lines.slice(start, len(rows))
                ids, paths = some.column("id").to_pylist(), some.column("path").to_pylist()
                texts = some.column("text").to_pylist() if texts_too else None
                collection.add(rows, ids, paths, texts)
                advance(len(rows))


def _sample(embeddings: Embeddings) -> NDArray[np.float32]:
    """Rows from the whole collection, at even distances."""
    step = max(1, embeddings.rows // _TRAINED_ON)
    some = [
        np.asarray(rows[-first % step :: step], np.float32)
        for first, rows, _ in embeddings.blocks()
    ]
    return np.concatenate(some)
