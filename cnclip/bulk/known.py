"""What was embedded by earlier runs, found again by items that did not change since."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbeddingsError
from .items import Item, Kind, Outcome, key_of
from .manifest import Manifest, Shard
from .shard_files import check_shard, load_lines, load_vectors

logger = logging.getLogger("cnclip")

# Shards whose lines are in memory, about 2 MB each: lists may name items in another order now.
_SHARDS_KEPT = 256
_LINES_AT_ONCE = 8192


class Known:
    """Items of earlier runs. In memory are 16 bytes for each.

    Attributes:
        intact: The names of the shards that are there and undamaged.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, shards: Iterable[Shard], *, retry: bool
    ) -> None:
        """Read the shards' lines. One that is missing or damaged is told in the log.

        Args:
            folder: Where they lie.
            manifest: What they were made with.
            shards: The shards; a name may come twice.
            retry: Forget the items that failed.
        """
        self._folder, self._manifest, self._retry = folder, manifest, retry
        self._kind: Kind = manifest.kind
        self.intact: set[str] = set()
        self._shards: list[Shard] = []
        keys, places = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int32)]
        for shard in shards:
            if shard.name in self.intact:
                continue
            try:
                check_shard(folder, shard)
                own, lines = self._keys(load_lines(folder, shard))
            except EmbeddingsError as error:
                logger.warning("%s: its items are embedded anew", error)
                continue
            self.intact.add(shard.name)
            keys.append(own)
            places.append(np.stack([np.full_like(lines, len(self._shards)), lines], 1))
            self._shards.append(shard)
        self._sorted = np.concatenate(keys)
        order = np.argsort(self._sorted, kind="stable")
        self._sorted, self._places = self._sorted[order], np.concatenate(places)[order]
        self._table = lru_cache(_SHARDS_KEPT)(self._load)

    def _keys(self, table: Any) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """The keys of a shard's items, and the numbers of their lines."""
        keys, lines = [], []
        for number, (row, id, path, size, mtime_ns, text, error) in enumerate(_columns(table)):
            # Why a text failed is seen before it would be looked for.
            if (self._retry and error is not None) or (self._kind == "texts" and row is None):
                continue
            keys.append(key_of(self._kind, id, path, size, mtime_ns, text))
            lines.append(number)
        return np.array(keys, np.uint64), np.array(lines, np.int32)

    def _load(self, shard: int) -> tuple[Any, NDArray[Any]]:
        """A shard's lines and embeddings."""
        found = self._shards[shard]
        vectors = load_vectors(self._folder, found, self._manifest)
        return load_lines(self._folder, found), vectors

    def take(self, outcome: Outcome) -> None:
        """Set what is known of an item, also its error, and `known`.

        Raises:
            EmbeddingsError: a shard is gone or was damaged since.
        """
        item = outcome.item
        key = np.uint64(key_of(self._kind, item.id, item.path, item.size, item.mtime_ns, item.text))
        place = int(np.searchsorted(self._sorted, key))
        while place < len(self._sorted) and self._sorted[place] == key:
            shard, line = self._places[place].tolist()
            if self._is_line(item, shard, line):
                self._fill(outcome, shard, line)
                return
            place += 1

    def _is_line(self, item: Item, shard: int, line: int) -> bool:
        table, _ = self._table(shard)
        names = ("text",) if self._kind == "texts" else ("id", "path", "size", "mtime_ns")
        return all(table.column(name)[line].as_py() == getattr(item, name) for name in names)

    def _fill(self, outcome: Outcome, shard: int, line: int) -> None:
        table, vectors = self._table(shard)
        for name in ("width", "height", "bytes", "error"):
            setattr(outcome, name, table.column(name)[line].as_py())
        row = table.column("row")[line].as_py()
        outcome.vector = None if row is None else np.array(vectors[row])
        outcome.known = True


def _columns(table: Any) -> Iterable[tuple[Any, ...]]:
    names = ("row", "id", "path", "size", "mtime_ns", "text", "error")
    for start in range(0, table.num_rows, _LINES_AT_ONCE):
        some = table.slice(start, _LINES_AT_ONCE)
        yield from zip(*(some.column(name).to_pylist() for name in names), strict=True)
