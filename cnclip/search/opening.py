"""Opens a collection by its address, and the model that it was made with."""

from __future__ import annotations

from ..errors import InvalidInputError, ModelNotFoundError
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from .collection import Collection
from .index import Index


def open_collection(address: str, milvus_collection: str = "cnclip") -> Collection:
    """A collection.

    Args:
        address: A file that `cnclip index` wrote, or a URL of Milvus.
        milvus_collection: The collection's name in Milvus.

    Raises:
        IndexNotFoundError, IndexFileError, MilvusError: it cannot be opened; names it.
        As `Index.load` and `Index.connect`.
    """
    if "://" in address:
        return Index.connect(address, milvus_collection)
    return Index.load(address)


def model_of(collection: Collection, model: str | None = None) -> str:
    """The name of the model to search with: `model`, or what the collection names.

    Raises:
        InvalidInputError: neither is there.
    """
    named = model or (collection.model or {}).get("name")
    if not named:
        raise InvalidInputError(f"{collection.name}: names no model; --model does")
    return str(named)


def open_model(
    collection: Collection,
    model: str | None = None,
    *,
    device: str = "gpu",
    precision: str | None = None,
    num_threads: int | None = None,
) -> MultiModalEmbeddingPipeline:
    """The model to search a collection with.

    Args:
        collection: What is searched.
        model: By default what the collection names.
        device: As of `pipeline`.
        precision: By default that of the collection.
        num_threads: CPU threads; by default one per core.

    Raises:
        InvalidInputError: the collection names no model, and `model` is None.
        ModelNotFoundError: there is no such model; says so of one that the collection names.
        As `pipeline`.
    """
    named = model_of(collection, model)
    try:
        return pipeline(
            model=named,
            device=device,
            precision=precision or collection.precision,
            num_threads=num_threads,
        )
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"{error}; {collection.name} was made with it: --model says where it is"
        ) from error
