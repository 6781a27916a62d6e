"""`connect`: a collection in Milvus or Milvus Lite, with the methods of an index file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import requires_extra
from .._text import first_line, hide_secrets, printable
from ..errors import IndexNotFoundError, InvalidInputError, MilvusError
from .collection import Collection
from .hits import Hit
from .moved import is_gone

# Where pymilvus, Milvus Lite and its server write what is also raised.
_LOGGERS = ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc._server")

# Milvus's limits.
_MAX_STRING_BYTES = 65_535
_REQUEST_ROWS = 1000
_REQUEST_IDS = 500

_MAX_NAMED = 10  # collections in a message


def is_milvus(address: str) -> bool:
    """Whether an address is that of Milvus: a URL, or a file of Milvus Lite."""
    return "://" in address or address.endswith(".db")


def connect(
    uri: str,
    collection: str = "cnclip",
    *,
    dim: int | None = None,
    model: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    contents: str = "images",
    temperature: float | None = None,
    image_options: Mapping[str, str] | None = None,
    token: str | None = None,
    database: str | None = None,
    timeout: float = 10.0,
) -> MilvusIndex:
    """Open a collection in Milvus, or create it.

    Args:
        uri: `'http://host:19530'`, or the path of a Milvus Lite file, which ends in `.db`.
        collection: The name of the collection. Creating it requires `dim`.
        dim: The number of columns of the vectors.
        model: The model of the vectors; compared with the model of an existing collection.
        precision: The precision of the vectors, for a new collection.
        contents: `'images'` or `'texts'`, for a new collection.
        temperature: The model's temperature, for probabilities.
        image_options: How the images were decoded, for a new collection, see `Collection`.
        token: `'user:password'`, or an API key; by default `$MILVUS_TOKEN`.
        database: The name of the database; by default `$MILVUS_DATABASE`, else Milvus's default.
        timeout: Seconds to wait for the server.

    Raises:
        MissingExtraError: pymilvus is not installed.
        MilvusError: the server does not respond, or cnclip did not create the collection.
        ModelMismatchError: the collection has vectors of another model.
        IndexNotFoundError: there is no such file of Milvus Lite, and `dim` is missing.
        InvalidInputError: there is no such collection, and `dim` is missing.
    """
    if dim is None and "://" not in uri and not os.path.exists(uri):
        raise IndexNotFoundError("no such file", file=uri)
    milvus = _pymilvus()
    token = os.environ.get("MILVUS_TOKEN", "") if token is None else token
    database = os.environ.get("MILVUS_DATABASE", "") if database is None else database
    with _milvus_errors(uri):
        client = milvus.MilvusClient(uri, token=token, db_name=database, timeout=timeout)
        exists = client.has_collection(collection)
        others = [] if exists or dim is not None else client.list_collections()
    index = MilvusIndex(client, uri, collection)
    index.temperature = temperature
    if exists:
        index._read_properties(model, precision, contents, image_options or {})
        return index
    if dim is None:
        client.close()
        found = f"; it has {', '.join(sorted(others)[:_MAX_NAMED])}" if others else ""
        raise InvalidInputError(f"has no collection {collection}{found}", file=hide_secrets(uri))
    index.dim, index.model = dim, None if model is None else dict(model)
    index.precision, index.contents = precision, contents
    index.image_options = dict(image_options or {})
    index._create()
    return index


def hide_logs(*addresses: str) -> None:
    """Have pymilvus and Milvus Lite log nothing, if one of the addresses is that of Milvus.

    The commands print the errors that they raise.
    """
    if not any(map(is_milvus, addresses)):
        return
    _pymilvus()  # sets the levels of its loggers
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class MilvusIndex(Collection):
    """Vectors of one model in a collection in Milvus, opened by `connect`.

    The model is stored with every vector, so that a collection knows it.
    Vectors are found as soon as they are added. Milvus decides the order of equal scores.
    """

    def __init__(self, client: Any, uri: str, collection: str) -> None:
        """Use `connect`."""
        self._client = client
        self.uri = hide_secrets(uri)
        self.collection = collection
        self.thresholds = {}
        self.image_options = {}

    @property
    def name(self) -> str:
        """The address and the name of the collection."""
        return f"{self.uri}, collection {self.collection}"

    def __len__(self) -> int:
        with _milvus_errors(self.uri, self.collection):
            rows = self._client.query(
                self.collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _add(
        self,
        matrix: NDArray[np.float32],
        ids: Sequence[str],
        paths: Sequence[str],
        texts: Sequence[str | None] | None,
    ) -> None:
        _check_strings(ids, paths, texts)
        known = self._known(ids)
        if known:
            reason = f"{next(iter(known))!r} is in the collection already; remove it first"
            raise InvalidInputError(reason, item="ids")
        self._write(matrix, ids, paths, texts)

    def replace(
        self,
        rows: ArrayLike,
        ids: Sequence[str],
        paths: Sequence[str],
        texts: Sequence[str | None] | None = None,
    ) -> int:
        """Add vectors, or replace those with the same ids.

        Args:
            rows: float [n, dim], rows of unit length.
            ids: n different ids.
            paths: n files or URLs.
            texts: n texts, for a collection of texts.

        Returns:
            The number of ids that are new.

        Raises:
            InvalidInputError: a value is invalid, or an id is that of another file which exists,
                such as a relative path in another folder. Nothing is changed.
        """
        matrix = self._check_vectors(rows, "rows")
        _check_strings(ids, paths, texts)
        known = self._known(ids)
        for id, path in zip(ids, paths, strict=True):
            former = known.get(id, path)
            if former != path and not is_gone(former) and os.path.isabs(former):
                reason = (
                    f"{id!r} is in the collection already, of {former}; embed with --ids absolute, "
                    "or use another collection"
                )
                raise InvalidInputError(reason, item="ids")
        self._write(matrix, ids, paths, texts)
        return len(ids) - len(known)

    def items(self) -> Iterator[tuple[str, str]]:
        """The id and the path of every vector."""
        with _milvus_errors(self.uri, self.collection):
            found = self._client.query_iterator(
                self.collection,
                batch_size=_REQUEST_ROWS,
                filter="",
                output_fields=["id", "path"],
                consistency_level="Strong",
            )
            try:
                while rows := found.next():
                    yield from ((row["id"], row["path"]) for row in rows)
            finally:
                found.close()

    def _write(
        self,
        matrix: NDArray[np.float32],
        ids: Sequence[str],
        paths: Sequence[str],
        texts: Sequence[str | None] | None,
    ) -> None:
        model = json.dumps(self._properties(), ensure_ascii=False)
        with _milvus_errors(self.uri, self.collection):
            for start in range(0, len(ids), _REQUEST_ROWS):
                rows = [
                    {
                        "id": ids[i],
                        "path": paths[i],
                        "text": "" if texts is None else texts[i] or "",
                        "model": model,
                        "vector": matrix[i],
                    }
                    for i in range(start, min(start + _REQUEST_ROWS, len(ids)))
                ]
                self._client.upsert(self.collection, rows)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove vectors by their ids; returns the number of those that existed."""
        unique = list(dict.fromkeys(ids))
        for id in unique:
            _check_string(id, "ids")
        known = list(self._known(unique))
        with _milvus_errors(self.uri, self.collection):
            for start in range(0, len(known), _REQUEST_IDS):
                self._client.delete(self.collection, ids=known[start : start + _REQUEST_IDS])
        return len(known)

    def _search(self, queries: NDArray[np.float32], k: int) -> list[list[Hit]]:
        with _milvus_errors(self.uri, self.collection):
            results = self._client.search(
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
                    row["entity"]["path"],
                    float(row["distance"]),
                    row["id"],
                    row["entity"]["text"] if texts else None,
                )
                for row in rows
            ]
            for rows in results
        ]

    def item(self, id: str) -> tuple[Hit, NDArray[np.float32]] | None:
        """As `Collection.item`."""
        fields = ["path", "text", "vector"]
        with _milvus_errors(self.uri, self.collection):
            rows = self._client.get(self.collection, ids=[id], output_fields=fields)
        if not rows:
            return None
        text = rows[0]["text"] if self.contents == "texts" else None
        return Hit(rows[0]["path"], 1.0, id, text), np.asarray(rows[0]["vector"], np.float32)

    def _known(self, ids: Sequence[str]) -> dict[str, str]:
        """The paths by the ids that the collection has, in the order of `ids`."""
        found: dict[str, str] = {}
        with _milvus_errors(self.uri, self.collection):
            for start in range(0, len(ids), _REQUEST_IDS):
                asked = list(ids[start : start + _REQUEST_IDS])
                rows = self._client.get(self.collection, ids=asked, output_fields=["id", "path"])
                known = {row["id"]: row["path"] for row in rows}
                found |= {id: known[id] for id in asked if id in known}
        return found

    def _create(self) -> None:
        kinds = _pymilvus().DataType
        with _milvus_errors(self.uri, self.collection):
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=_MAX_STRING_BYTES)
            for field in ("path", "text", "model"):
                schema.add_field(field, kinds.VARCHAR, max_length=_MAX_STRING_BYTES)
            schema.add_field("vector", kinds.FLOAT_VECTOR, dim=self.dim)
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
            self._client.create_collection(self.collection, schema=schema, index_params=index)

    def _read_properties(
        self,
        model: Mapping[str, Any] | None,
        precision: str,
        contents: str,
        image_options: Mapping[str, str],
    ) -> None:
        """Read the properties from a vector; an empty collection gets these."""
        with _milvus_errors(self.uri, self.collection):
            fields = {
                field["name"]: field
                for field in self._client.describe_collection(self.collection)["fields"]
            }
        if not {"id", "path", "text", "model", "vector"} <= set(fields):
            reason = "was not created by cnclip: it lacks fields"
            raise MilvusError(reason, item=f"collection {self.collection}", file=self.uri)
        self.dim = int(fields["vector"]["params"]["dim"])
        with _milvus_errors(self.uri, self.collection):
            self._client.load_collection(self.collection)
            rows = self._client.query(self.collection, filter="", limit=1, output_fields=["model"])
        stored = json.loads(rows[0]["model"]) if rows else {}
        self.model = stored.get("model", model)
        self.precision = stored.get("precision", precision)
        self.contents = stored.get("contents", contents)
        self.image_options = stored.get("image_options", {}) if rows else dict(image_options)
        self.check_model(model)

    def _properties(self) -> dict[str, Any]:
        found = {"model": self.model, "precision": self.precision, "contents": self.contents}
        return {**found, **({"image_options": self.image_options} if self.image_options else {})}


def _pymilvus() -> Any:
    with requires_extra("milvus", "pymilvus"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pymilvus
    return pymilvus


@contextlib.contextmanager
def _milvus_errors(uri: str, collection: str | None = None) -> Iterator[None]:
    """Raise a MilvusError for an exception of pymilvus."""
    milvus = _pymilvus()
    try:
        yield
    except (milvus.MilvusException, ConnectionError, ImportError, ValueError) as error:
        # ImportError: Milvus Lite is not installed. ValueError: the URI is invalid.
        message = hide_secrets(getattr(error, "message", ""))
        reason = printable(message) or first_line(error)
        if isinstance(error, milvus.exceptions.ConnectionConfigException) and os.path.exists(uri):
            reason += "; another program may have opened it, or another version written it"
        item = None if collection is None else f"collection {collection}"
        raise MilvusError(reason, item=item, file=hide_secrets(uri)) from error


def _check_strings(
    ids: Sequence[str], paths: Sequence[str], texts: Sequence[str | None] | None
) -> None:
    for name, values in (("ids", ids), ("paths", paths), ("texts", texts or ())):
        for value in values:
            _check_string(value or "", name)


def _check_string(value: str, name: str) -> None:
    """Refuse a string that Milvus cannot store: not UTF-8, as some file names, or too long."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        reason = f"{value!r} is not UTF-8, which Milvus requires; use its file: URL"
        raise InvalidInputError(reason, item=name) from error
    if size > _MAX_STRING_BYTES:
        reason = f"{value[:40]!r}... has more than {_MAX_STRING_BYTES} bytes"
        raise InvalidInputError(reason, item=name)
