"""LMDB databases as cn_clip makes them: images in base64 by their ids, and pickled pairs."""

from __future__ import annotations

import binascii
import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .._files import open_file
from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from ..preprocessors.image import MAX_FILE
from .images import ImageStore
from .lmdb_tree import LmdbTree
from .rows import Id, ProblemKind, Problems, id_of
from .tsv_files import decode_base64

# Bytes of a pickled pair, and of the base64 of an image, with some white space.
_MAX_PAIR = 1 << 20
_MAX_BASE64 = MAX_FILE * 4 // 3 + 100
# The operations of pickles of such a pair. With others, a few bytes take all memory or run for
# hours: a bytearray or a dict, whose keys may be tuples of tuples.
_PAIR_OPERATIONS = frozenset(
    {"PROTO", "FRAME", "MARK", "STOP", "TUPLE", "TUPLE3", "MEMOIZE"}
    | {"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}
    | {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)


def _open(path: Path) -> BinaryIO:
    return open_file(path / "data.mdb", buffering=0)


def _entries(path: Path, max_value: int) -> Iterator[tuple[bytes, bytes | None]]:
    try:
        with _open(path) as file:
            yield from LmdbTree(file.fileno()).entries(max_value)
    except (OSError, ValueError) as error:
        raise DatasetError(_damaged(error), file=path) from error


def _damaged(error: Exception) -> str:
    return f"not an LMDB, or damaged: {first_line(error)}"


class LmdbImages(ImageStore):
    """Images by their keys. Whether one is base64 is only known when it is read."""

    def __init__(self, path: Path, name: str, problems: Problems) -> None:
        """Read the keys of the database in a folder.

        Raises:
            DatasetError: the database is damaged.
        """
        self.ids: list[Id] = []
        self._path, self._name = path, name
        # Keys that are spelled otherwise than their ids.
        self._other_keys: dict[int, bytes] = {}
        for key, _ in _entries(path, 0):
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

    def content(self, number: int) -> bytes:
        """The image file's bytes."""
        key = self._other_keys.get(number) or str(self.ids[number]).encode()
        try:
            with _open(self._path) as file:
                found, value = LmdbTree(file.fileno()).find(key, _MAX_BASE64)
        except (OSError, ValueError) as error:
            raise ImageError(f"{self._path}: {_damaged(error)}") from error
        if not found:
            raise ImageError(f"{self._path} no longer has the key {key!r:.60}")
        if value is None:
            raise ImageError(f"a file of more than {MAX_FILE} bytes")
        try:
            return decode_base64(value)
        except binascii.Error as error:
            raise ImageError(f"not base64: {first_line(error)}") from error

    def where(self, number: int) -> Where:
        """The database and the key."""
        return Where(file=self._name, member=str(self.ids[number]))


def read_pairs(path: Path, name: str, problems: Problems) -> Iterator[tuple[Where, Id, Id, str]]:
    """The pairs of a database: each with its place, the image's id, the text's id and the text."""
    for key, value in _entries(path, _MAX_PAIR):
        if key == b"num_samples":
            continue
        where = Where(file=name, member=key.decode("utf-8", "replace"))
        pair = None if value is None else _parse_pair(value)
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
