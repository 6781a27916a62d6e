"""Builds indexes of embeddings that `cnclip.bulk` stored in a folder."""

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

# Enough to train IVF-PQ of any size: FAISS uses no more rows.
_MAX_TRAINING_ROWS = 1 << 20
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
    """Build an index of all embeddings in a folder, with their model and precision.

    The embeddings are compared with their checksums first.

    Args:
        folder: A folder that `cnclip embed` or `cnclip.bulk` wrote.
        kind: `'exact'`, `'hnsw'` or `'ivfpq'`; `'auto'` chooses by the number of embeddings.
        temperature: The model's temperature, for probabilities.
        exact_up_to: The maximum number of embeddings for which `'auto'` is exact.
        hnsw_up_to: The maximum number of embeddings for which `'auto'` uses HNSW.
        show_progress: Show a progress bar on stderr.

    Raises:
        EmbeddingsError: a shard is missing or damaged.
        MissingExtraError: FAISS is not installed.
        InvalidInputError: there are no embeddings, or an argument has a value that is not listed
            above.
    """
    embeddings = open_embeddings(folder, check=True)
    if embeddings.rows == 0:
        raise InvalidInputError("the folder has no embeddings", file=folder)
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
    """Add the embeddings of a folder to an index or to a collection in Milvus.

    Args:
        collection: A collection of the same model and precision.
        embeddings: The embeddings, from `cnclip.bulk.open_embeddings`.
        show_progress: Show a progress bar on stderr.

    Raises:
        ModelMismatchError: the embeddings are of another model or precision.
        InvalidInputError: an id is in the collection already.
    """
    collection.check_model(embeddings.model, embeddings.precision)
    names = ["id", "path", "text"] if embeddings.kind == "texts" else ["id", "path"]
    with progress("embeddings", embeddings.rows, "embedding", enabled=show_progress) as advance:
        for _, vectors, items in embeddings.blocks():
            for start in range(0, len(vectors), _ROWS_AT_ONCE):
                rows = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float32)
                columns = items.select(names).slice(start, len(rows)).to_pydict()
                collection.add(rows, columns["id"], columns["path"], columns.get("text"))
                advance(len(rows))


def _sample(embeddings: Embeddings) -> NDArray[np.float32]:
    """Rows from the whole folder, at even distances."""
    step = max(1, embeddings.rows // _MAX_TRAINING_ROWS)
    samples = [
        np.asarray(rows[-first % step :: step], np.float32)
        for first, rows, _ in embeddings.blocks()
    ]
    return np.concatenate(samples)
