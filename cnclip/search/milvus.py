"""A collection in Milvus, or in Milvus Lite, which answers as an index on disk does."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidInputError, MilvusError, MissingExtraError
from .collection import Collection, Hit

# What Milvus takes of a string at most, in bytes, and in one request.
_LONGEST = 65_535
_REQUEST_ROWS = 1000
_REQUEST_IDS = 500


class MilvusIndex(Collection):
    """Vectors of one model in a collection of Milvus's: `Index.connect`.

    Every vector has with it whose it is, so that a collection tells its model wherever it was
    filled. `add`, `remove`, `search` and `find` are those of `Index`; what is added is found at
    once. Ties of equal scores are Milvus's to order.

    Attributes:
        uri: Where Milvus is.
        collection: The collection's name.
    """

    def __init__(self, client: Any, uri: str, collection: str) -> None:
        """Use `connect`."""
        self._client = client
        self.uri = uri
        self.collection = collection
        self.thresholds = {}

    @classmethod
    def connect(
        cls,
        uri: str,
        collection: str = "cnclip",
        *,
        dim: int | None = None,
        model: Mapping[str, Any] | None = None,
        precision: str = "fp32",
        contents: str = "images",
        temperature: float | None = None,
        token: str = "",
        timeout: float = 10.0,
    ) -> MilvusIndex:
        """Open a collection, or make it.

        Args:
            uri: `'http://host:19530'`, or the path of a file of Milvus Lite's, ending in `.db`.
            collection: Its name. Where there is none yet, it is made, which needs `dim`.
            dim: Columns of its vectors.
            model: Whose vectors these are; compared with what the collection holds.
            precision: What they are computed in, of a new collection.
            contents: `'images'` or `'texts'`, of a new collection.
            temperature: The model's, for probabilities.
            token: `'user:password'`, or an API key.
            timeout: Seconds to wait for the server.

        Raises:
            MissingExtraError: pymilvus is not installed.
            MilvusError: the server does not answer, or the collection is not one of cnclip's.
            ModelMismatchError: the collection holds vectors of another model.
            InvalidInputError: there is no such collection, and no `dim`.
        """
        milvus = _pymilvus()
        with _told(uri):
            client = milvus.MilvusClient(uri, token=token, timeout=timeout)
            there = client.has_collection(collection)
        index = cls(client, uri, collection)
        index.temperature = temperature
        if there:
            index._read(model, precision, contents)
            return index
        if dim is None:
            raise InvalidInputError(
                f"{uri}: has no collection {collection!r}; to make it, give dim"
            )
        index.dim, index.model = dim, None if model is None else dict(model)
        index.precision, index.contents = precision, contents
        index._make()
        return index

    @property
    def name(self) -> str:
        """What messages call the collection."""
        return f"{self.uri}, collection {self.collection}"

    def __len__(self) -> int:
        with _told(self.name):
            rows = self._client.query(
                self.collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def add(
        self,
        rows: ArrayLike,
        ids: Sequence[str],
        paths: Sequence[str] | None = None,
        texts: Sequence[str | None] | None = None,
        *,
        model: Mapping[str, Any] | None = None,
        precision: str | None = None,
    ) -> None:
        """Add vectors: see `Collection.add`. Ids that are there already are refused."""
        self.check_model(model, precision)
        matrix = self._checked(rows, "rows")
        self._check_items(len(matrix), ids, paths, texts)
        names = [_utf8(one, "ids") for one in ids]
        places = names if paths is None else [_utf8(one, "paths") for one in paths]
        words = [""] * len(names) if texts is None else [_utf8(t or "", "texts") for t in texts]
        there = self._there(names)
        if there:
            raise InvalidInputError(f"ids: {there[0]!r} is in the collection already")
        whose = json.dumps(self._whose(), ensure_ascii=False)
        with _told(self.name):
            for start in range(0, len(names), _REQUEST_ROWS):
                some = range(start, min(start + _REQUEST_ROWS, len(names)))
                lines = [
                    {
                        "id": names[i],
                        "path": places[i],
                        "text": words[i],
                        "model": whose,
                        "vector": matrix[i],
                    }
                    for i in some
                ]
                self._client.insert(self.collection, lines)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove vectors: see `Collection.remove`."""
        there = self._there([_utf8(one, "ids") for one in dict.fromkeys(ids)])
        with _told(self.name):
            for start in range(0, len(there), _REQUEST_IDS):
                self._client.delete(self.collection, ids=there[start : start + _REQUEST_IDS])
        return len(there)

    def _search(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
        with _told(self.name):
            found = self._client.search(
                self.collection,
                data=list(queries),
                limit=k,
                output_fields=["path", "text"],
                consistency_level="Strong",
            )
        texts = self.contents == "texts"
        return [
            [
                Hit(
                    one["entity"]["path"],
                    float(one["distance"]),
                    one["id"],
                    one["entity"]["text"] if texts else None,
                )
                for one in line
            ]
            for line in found
        ]

    def _there(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that the collection has."""
        found = []
        with _told(self.name):
            for start in range(0, len(ids), _REQUEST_IDS):
                some = list(ids[start : start + _REQUEST_IDS])
                rows = self._client.get(self.collection, ids=some, output_fields=["id"])
                have = {row["id"] for row in rows}
                found += [one for one in some if one in have]
        return found

    def _make(self) -> None:
        kinds = _pymilvus().DataType
        with _told(self.name):
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=_LONGEST)
            for field in ("path", "text", "model"):
                schema.add_field(field, kinds.VARCHAR, max_length=_LONGEST)
            schema.add_field("vector", kinds.FLOAT_VECTOR, dim=self.dim)
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
            self._client.create_collection(self.collection, schema=schema, index_params=index)

    def _read(self, model: Mapping[str, Any] | None, precision: str, contents: str) -> None:
        """Learn from the collection what it is; of an empty one, take what is given."""
        with _told(self.name):
            fields = {
                field["name"]: field
                for field in self._client.describe_collection(self.collection)["fields"]
            }
        if not {"id", "path", "text", "model", "vector"} <= set(fields):
            raise MilvusError(f"{self.name}: not one of cnclip's, by its fields")
        self.dim = int(fields["vector"]["params"]["dim"])
        with _told(self.name):
            self._client.load_collection(self.collection)
            rows = self._client.query(self.collection, filter="", limit=1, output_fields=["model"])
        whose = json.loads(rows[0]["model"]) if rows else {}
        self.model = whose.get("model", model)
        self.precision = whose.get("precision", precision)
        self.contents = whose.get("contents", contents)
        self.check_model(model)

    def _whose(self) -> dict[str, Any]:
        return {"model": self.model, "precision": self.precision, "contents": self.contents}


def _pymilvus() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pymilvus
    except ImportError as error:
        raise MissingExtraError("milvus", "pymilvus") from error
    return pymilvus


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What pymilvus raises as MilvusError, with the collection's name."""
    milvus = _pymilvus()
    try:
        yield
    except milvus.MilvusException as error:
        raise MilvusError(f"{what}: {getattr(error, 'message', '') or error}") from error
    except (ConnectionError, ImportError, ValueError) as error:
        # Milvus Lite that is not installed, a URI that is none.
        raise MilvusError(f"{what}: {error}") from error


def _utf8(name: str, what: str) -> str:
    """A string that Milvus can hold.

    Raises:
        InvalidInputError: it is no UTF-8, as of file names, or too long.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{what}: {name!r} is not UTF-8, which Milvus needs; give its file: URL"
        ) from error
    if length > _LONGEST:
        raise InvalidInputError(f"{what}: {name[:40]!r}... has more than {_LONGEST} bytes")
    return name
