"""Finds the items of earlier runs in a folder of embeddings."""

from __future__ import annotations

import hashlib
import logging
import threading
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbeddingsError
from .folder import Manifest, Shard, check_shard, load_lines, load_vectors
from .outcomes import Item, ItemKind, Outcome, is_path_of

logger = logging.getLogger("cnclip")

# Shards whose lines are in memory, about 2 MB each: the order of the items may have changed.
_SHARDS_KEPT = 256
_LINES_AT_ONCE = 8192
# Values of an outcome that are restored.
RESTORED = ("width", "height", "bytes", "sha256", "error")


class EarlierItems:
    """Items of earlier runs. They take 16 bytes each in memory, images 32.

    Attributes:
        intact: The names of the shards that exist and are undamaged.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, shards: Iterable[Shard], *, retry: bool
    ) -> None:
        """Read the lines of shards. Shards that are missing or damaged are logged and left out.

        With `retry`, items that failed are left out too.
        """
        self._folder, self._manifest, self._retry = folder, manifest, retry
        self._kind = manifest.kind
        self.intact: set[str] = set()
        self._shards: list[Shard] = []
        found = _Places()
        contents = _Places()
        for shard in shards:
            if shard.name in self.intact:
                continue
            try:
                check_shard(folder, shard)
                lines = self._usable(load_lines(folder, shard))
            except EmbeddingsError as error:
                logger.warning("%s; embedding its items again", error)
                continue
            self.intact.add(shard.name)
            for number, (_, id, path, size, mtime_ns, text, sha256, _) in lines:
                place = (len(self._shards), number)
                found.add(_key(self._kind, id, path, size, mtime_ns, text), place)
                if sha256 is not None:
                    contents.add(_content_key(sha256), place)
            self._shards.append(shard)
        found.sort()
        contents.sort()
        self._found, self._contents = found, contents
        self._lines_and_vectors = lru_cache(_SHARDS_KEPT)(self._load)
        self._lock = threading.Lock()

    def _usable(self, table: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The lines of a shard that are restored, with their numbers."""
        for number, line in enumerate(_lines_of(table)):
            row, error = line[0], line[-1]
            # A text that failed has its error before it is looked up.
            if not ((self._retry and error is not None) or (self._kind == "texts" and row is None)):
                yield number, line

    def _table(self, shard: int) -> tuple[Any, NDArray[Any]]:
        """A shard's lines and embeddings, for any thread.

        One thread at a time reads a shard: NumPy parses the header of an array as Python, and
        Python 3.11 fails when threads parse at the same time.
        """
        with self._lock:
            return self._lines_and_vectors(shard)

    def _load(self, shard: int) -> tuple[Any, NDArray[Any]]:
        """A shard's lines and embeddings."""
        found = self._shards[shard]
        vectors = load_vectors(self._folder, found, self._manifest)
        return load_lines(self._folder, found), vectors

    def restore(self, outcome: Outcome) -> None:
        """Fill in the vector or the error of an item of an earlier run, and set `restored`.

        Raises:
            EmbeddingsError: a shard was removed or damaged since.
        """
        if not self._shards:
            return
        item = outcome.item
        key = _key(self._kind, item.id, item.path, item.size, item.mtime_ns, item.text)
        for shard, line in self._found.of(key):
            if self._is_line(item, shard, line):
                self._copy(outcome, shard, line)
                return

    def restore_content(self, outcome: Outcome) -> None:
        """Restore an image that was embedded in an earlier run, maybe from another file.

        Raises:
            EmbeddingsError: a shard was removed or damaged since.
        """
        assert outcome.sha256 is not None
        for shard, line in self._contents.of(_content_key(outcome.sha256)):
            table, _ = self._table(shard)
            if table.column("sha256")[line].as_py() == outcome.sha256:
                self._copy(outcome, shard, line)
                return

    def _is_line(self, item: Item, shard: int, line: int) -> bool:
        table, _ = self._table(shard)
        names = ["text"] if self._kind == "texts" else ["id", "size", "mtime_ns"]
        if self._kind == "images":
            path = table.column("path")[line].as_py()
            if path != item.path and not (item.is_file and is_path_of(item.id, path)):
                return False
        return all(table.column(name)[line].as_py() == getattr(item, name) for name in names)

    def _copy(self, outcome: Outcome, shard: int, line: int) -> None:
        table, vectors = self._table(shard)
        for name in RESTORED:
            setattr(outcome, name, table.column(name)[line].as_py())
        row = table.column("row")[line].as_py()
        outcome.vector = None if row is None else np.array(vectors[row])
        outcome.restored = True


def _key(kind: ItemKind, id: str, path: str, size: Any, mtime_ns: Any, text: str | None) -> int:
    """64 bits that differ if an item has changed: of a text, if its content has changed.

    Files that are named by relative paths may have moved with their folder.
    """
    place = "" if is_path_of(id, path) else path
    name = text or "" if kind == "texts" else f"{id}\0{place}\0{size}\0{mtime_ns}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _content_key(sha256: str) -> int:
    """The first 64 bits of a checksum. One that is no hexadecimal number is of no image."""
    try:
        return int(sha256[:16], 16)
    except ValueError:
        return 0


class _Places:
    """Places of lines, the numbers of their shards and lines, by keys of 64 bits."""

    def __init__(self) -> None:
        self._unsorted, self._numbers = array("Q"), array("i")

    def add(self, key: int, place: tuple[int, int]) -> None:
        self._unsorted.append(key)
        self._numbers.extend(place)

    def sort(self) -> None:
        """Sort the keys; afterwards no more are added."""
        keys = np.array(self._unsorted, np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._places = np.array(self._numbers, np.int32).reshape(-1, 2)[order]
        self._unsorted, self._numbers = array("Q"), array("i")

    def of(self, key: int) -> Iterator[tuple[int, int]]:
        """The places of a key."""
        wanted = np.uint64(key)
        place = int(np.searchsorted(self._keys, wanted))
        while place < len(self._keys) and self._keys[place] == wanted:
            shard, line = self._places[place].tolist()
            yield shard, line
            place += 1


def _lines_of(table: Any) -> Iterator[tuple[Any, ...]]:
    names = ("row", "id", "path", "size", "mtime_ns", "text", "sha256", "error")
    for start in range(0, table.num_rows, _LINES_AT_ONCE):
        some = table.slice(start, _LINES_AT_ONCE)
        yield from zip(*(some.column(name).to_pylist() for name in names), strict=True)
