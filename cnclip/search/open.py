"""Opens a collection by its address: an index file or a URL of Milvus."""

from __future__ import annotations

from .collection import Collection
from .index import Index
from .milvus import connect, is_milvus


def open_collection(
    address: str,
    milvus_collection: str = "cnclip",
    *,
    token: str | None = None,
    database: str | None = None,
    mapped: bool = True,
) -> Collection:
    """Open a collection.

    Args:
        address: The path of an index file, a URL of Milvus, or a file of Milvus Lite (`.db`).
        milvus_collection: The name of the collection in Milvus.
        token: As for `connect`.
        database: As for `connect`.
        mapped: As for `Index.load`.

    Raises:
        IndexNotFoundError: there is no such file.
        IndexFileError: the file is not an index, truncated or damaged.
        MilvusError: the server does not respond, or cnclip did not create the collection.
        InvalidInputError: there is no such collection in Milvus.
        MissingExtraError: FAISS or pymilvus is not installed.
    """
    if is_milvus(address):
        return connect(address, milvus_collection, token=token, database=database)
    return Index.load(address, mapped=mapped)
