"""LMDB databases as cn_clip makes them: images in base64 by their ids, and pickled pairs."""

from __future__ import annotations

import binascii
import io
import os
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from .._checks import requires_extra
from .._files import check_file
from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from .images import ImageStore, ProcessLock
from .rows import Id, ProblemKind, Problems, id_of
from .tsv_files import decode_base64

# Bytes of a pickled pair.
_MAX_PAIR = 1 << 20
# The operations of pickles of such a pair. With others, a few bytes take all memory or run for
# hours: a bytearray or a dict, whose keys may be tuples of tuples.
_PAIR_OPERATIONS = frozenset(
    {"PROTO", "FRAME", "MARK", "STOP", "TUPLE", "TUPLE3", "MEMOIZE"}
    | {"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}
    | {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)


class _Database:
    """An LMDB, opened on the first read in each process."""

    def __init__(self, path: str) -> None:
        with requires_extra("lmdb", "lmdb"):
            import lmdb
        self._lmdb = lmdb
        self._path = path
        self._opened: Any = None
        self._process = 0
        self._lock = ProcessLock()

    def entries(self, values: bool) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._open().begin() as transaction:
                cursor = transaction.cursor()
                if values:
                    yield from cursor
                else:
                    yield from ((key, b"") for key in cursor.iternext(values=False))
        except self._lmdb.Error as error:
            raise DatasetError(self._damaged(error), file=self._path) from error

    def get(self, key: bytes) -> bytes:
        try:
            with self._open().begin() as transaction:
                value: bytes | None = transaction.get(key)
        except self._lmdb.Error as error:
            raise ImageError(f"{self._path}: {self._damaged(error)}") from error
        if value is None:
            raise ImageError(f"{self._path} no longer has the key {key!r:.60}")
        return value

    def _open(self) -> Any:
        with self._lock:
            if self._process != os.getpid():
                # A database that was open before a fork must be closed before it can be opened.
                if self._opened is not None:
                    self._opened.close()
                try:
                    check_file(os.path.join(self._path, "data.mdb"))
                except OSError as error:
                    raise self._lmdb.Error(first_line(error)) from error
                self._opened = self._lmdb.open(
                    self._path, readonly=True, lock=False, create=False, readahead=False
                )
                self._process = os.getpid()
            return self._opened

    def _damaged(self, error: Exception) -> str:
        return f"not an LMDB, or damaged: {first_line(error)}"


# A process can open a database only once.
_databases: WeakValueDictionary[str, _Database] = WeakValueDictionary()


def _database(path: Path) -> _Database:
    found = _Database(os.path.realpath(path))
    return _databases.setdefault(os.path.realpath(path), found)


class LmdbImages(ImageStore):
    """Images by their keys. Whether one is base64 is only known when it is read."""

    def __init__(self, path: Path, name: str, problems: Problems) -> None:
        """Read the keys of the database in a folder.

        Raises:
            DatasetError: the database is damaged.
            MissingExtraError: lmdb is not installed.
        """
        self.ids: list[Id] = []
        self._path, self._name = path, name
        # Keys that are spelled otherwise than their ids.
        self._other_keys: dict[int, bytes] = {}
        self._opened: _Database | None = None
        for key, _ in _database(path).entries(values=False):
            if key == b"num_images":
                continue
            shown = key.decode("utf-8", "replace")
            image_id = id_of(shown)
            if image_id is None:
                where = Where(file=name, member=shown)
                problems.add(ProblemKind.BAD_VALUE, where, "the image has no id")
                continue
            if str(image_id).encode() != key:
                self._other_keys[len(self.ids)] = key
            self.ids.append(image_id)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def content(self, number: int) -> bytes:
        """The image file's bytes."""
        if self._opened is None:
            self._opened = _database(self._path)
        key = self._other_keys.get(number) or str(self.ids[number]).encode()
        try:
            return decode_base64(self._opened.get(key))
        except binascii.Error as error:
            raise ImageError(f"not base64: {first_line(error)}") from error

    def where(self, number: int) -> Where:
        """The database and the key."""
        return Where(file=self._name, member=str(self.ids[number]))


def read_pairs(path: Path, name: str, problems: Problems) -> Iterator[tuple[Where, Id, Id, str]]:
    """The pairs of a database: each with its place, the image's id, the text's id and the text."""
    for key, value in _database(path).entries(values=True):
        if key == b"num_samples":
            continue
        where = Where(file=name, member=key.decode("utf-8", "replace"))
        pair = _parse_pair(value)
        if pair is None:
            reason = "not a tuple of image_id, text_id and text"
            problems.add(ProblemKind.DAMAGED, where, reason)
        else:
            yield where, *pair


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings and tuples of them; anything else in a pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def _parse_pair(value: bytes) -> tuple[Id, Id, str] | None:
    if len(value) > _MAX_PAIR:
        return None
    try:
        for operation, argument, _ in pickletools.genops(value):
            if operation.name not in _PAIR_OPERATIONS:
                return None
            # The memo has as many places as the largest number in it.
            if operation.name.endswith("PUT") and int(argument or 0) > len(value):
                return None
        pair = _PlainUnpickler(io.BytesIO(value)).load()
    except MemoryError:
        raise
    except Exception:  # pickle raises a variety of exceptions for a damaged value
        return None
    if not isinstance(pair, tuple) or len(pair) != 3:
        return None
    image_id, text_id, text = id_of(pair[0]), id_of(pair[1]), pair[2]
    if image_id is None or text_id is None or not isinstance(text, str):
        return None
    return image_id, text_id, text
