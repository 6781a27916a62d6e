"""Embeddings kept in a folder, a shard at a time, so that a run that was cut off goes on.

A shard is one `.npz`: the ids and rows of the items that were embedded, how many items of the
source it stands for, and what was wrong with the others. `key.json` says what all shards were made
of; where that differs, they are made anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import replaced_atomically
from ..sources import Id

KEY = "key.json"


@dataclass(frozen=True)
class Shard:
    """A run of a source's items.

    Attributes:
        seen: Items of the source that this shard stands for.
        ids: Of those that were embedded.
        rows: Their embeddings, float32 [n, d].
        failed: (where, what, id) of the others.
        last: Whether the source ended here.
    """

    seen: int
    ids: list[Id]
    rows: NDArray[np.float32]
    failed: list[tuple[str, str, Id]]
    last: bool


class Features:
    """The shards of one kind, "images" or "texts", in a folder; or nowhere."""

    def __init__(self, folder: Path | None, kind: str, key: dict[str, Any]) -> None:
        """Look into the folder, and empty it where it holds what was made of something else.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self._folder = None if folder is None else folder / kind
        if self._folder is None:
            return
        text = json.dumps(key, indent=1, sort_keys=True, ensure_ascii=False)
        path = self._folder / KEY
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == text:
                return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        with replaced_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def read(self) -> Iterator[Shard]:
        """The shards that are there, up to the first that is missing or damaged."""
        if self._folder is None:
            return
        number = 0
        while (shard := self._read_shard(number)) is not None:
            yield shard
            if shard.last:
                return
            number += 1

    def _read_shard(self, number: int) -> Shard | None:
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as file:
                told = json.loads(str(file["told"]))
                rows = np.asarray(file["rows"], np.float32)
            return Shard(
                int(told["seen"]),
                list(told["ids"]),
                rows,
                [(str(where), str(what), key) for where, what, key in told["failed"]],
                bool(told["last"]),
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, number: int, shard: Shard) -> None:
        """Keep a shard.

        Raises:
            OSError: it cannot be written.
        """
        if self._folder is None:
            return
        told = {
            "seen": shard.seen,
            "ids": shard.ids,
            "failed": shard.failed,
            "last": shard.last,
        }
        with (
            replaced_atomically(self._path(number)) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, rows=shard.rows, told=np.array(json.dumps(told)))

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:06}.npz"
