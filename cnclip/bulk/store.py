"""Writes a folder of embeddings: resumes, and keeps the embeddings of unchanged items.

Embeddings of different models are never mixed. Shards never change, and the same items give the
same bytes, whenever they are written.

While a run is under way, `manifest.json` is that of the last run that ended, with all its shards;
`unfinished.json` names the shards of this run. A run that was interrupted finds its items in both.
At the end the manifest is replaced, and files that it does not name are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import lock_folder, write_durably
from ..errors import EmbeddingsError
from ..sources import pyarrow_modules
from .folder import (
    MANIFEST,
    SUFFIXES,
    UNFINISHED,
    Manifest,
    Shard,
    check_shard,
    load_lines,
    load_vectors,
    path_of,
    schema,
)
from .items import Item, ItemKind, Outcome

logger = logging.getLogger("cnclip")

# A run that is killed loses this much work, and a batch, at most.
SECONDS_BETWEEN_COMMITS = 5.0
# Shards whose lines are in memory, about 2 MB each: the order of the items may have changed.
_SHARDS_KEPT = 256
_LINES_AT_ONCE = 8192
# Digits of the checksum in a shard's name: 48 bits.
_DIGITS = 12
_ITEM_COLUMNS = ("id", "path", "text", "size", "mtime_ns")
_OUTCOME_COLUMNS = ("width", "height", "bytes", "error")
# The files that runs write, and the temporary files that a killed run leaves.
_RUN_FILES = re.compile(
    r"\d{5,}-[0-9a-f]{12}\.(npy|parquet)"
    r"|\.(\d{5,}-[0-9a-f]{12}\.(npy|parquet)|manifest\.json|unfinished\.json)\.[0-9a-f]{8}\.tmp"
)


class Store:
    """A folder of embeddings that is being written. One run at a time writes a folder.

    Methods raise an OSError that names a file which cannot be written.

    Attributes:
        folder: The folder.
        wanted: Its manifest, without shards.
        earlier: The items of earlier runs.
    """

    def __init__(
        self,
        folder: Path,
        wanted: Manifest,
        *,
        retry: bool = False,
        replace_sources: bool = False,
        rebuild: bool = False,
    ) -> None:
        """Read what earlier runs have written to a folder that is locked, see `locked`.

        Args:
            folder: The folder.
            wanted: Its manifest, without shards.
            retry: Embed items again that failed in an earlier run.
            replace_sources: Drop embeddings of sources that `wanted` does not name.
            rebuild: Drop embeddings of another model or of other sources, and damaged manifests.

        Raises:
            EmbeddingsError: the folder holds embeddings of another model or of sources that are
                not listed any more, or is damaged.
            OSError: it cannot be read or written.
        """
        self.folder, self.wanted = folder, wanted
        read = self._read_usable if rebuild else Manifest.read
        self._last_manifest = read(folder / MANIFEST)
        unfinished = read(folder / UNFINISHED)
        manifests = [one for one in (self._last_manifest, unfinished) if one is not None]
        shards = [shard for one in manifests for shard in one.shards]
        if not manifests:
            self._check_other_files()
        # Failures alone are no reason to refuse anything, and are tried again.
        manifests = [one for one in manifests if one.rows > 0]
        for one in manifests:
            self._check_earlier(one, replace_sources=replace_sources)
        known = [shard for one in manifests for shard in one.shards]
        self.earlier = EarlierItems(folder, wanted, known, retry=retry)
        # Shards of an interrupted run, which the next run finds too if this one is interrupted.
        self._interrupted = [] if unfinished is None else unfinished.shards
        self._shards: list[Shard] = []
        self._partial: Shard | None = None
        self._open_shard: list[Outcome] = []
        # A folder that cannot be written is noticed before any work.
        self._write_unfinished()
        self._committed = time.monotonic()
        self._remove_others(shards)

    def _read_usable(self, path: Path) -> Manifest | None:
        """The manifest in a file, unless it is damaged or of another model or other sources.

        A manifest that is not used is removed, since the files that it names will be.
        """
        with contextlib.suppress(EmbeddingsError):
            found = Manifest.read(path)
            if found is None or (
                not found.differences(self.wanted) and found.sources == self.wanted.sources
            ):
                return found
        path.unlink()
        return None

    def _check_other_files(self) -> None:
        """Refuse a folder of other files, which is more likely a mistake than intended."""
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(".") and not _RUN_FILES.fullmatch(path.name):
                reason = f"holds other files, such as {path.name}; name a new or an empty folder"
                raise EmbeddingsError(reason, file=self.folder)

    def _check_earlier(self, earlier: Manifest, *, replace_sources: bool) -> None:
        if differences := earlier.differences(self.wanted):
            raise EmbeddingsError(
                "holds embeddings that cannot be mixed with these: "
                f"{'; '.join(differences)}; write to another folder",
                file=self.folder,
            )
        gone = [name for name in earlier.sources if name not in set(self.wanted.sources)]
        if gone and not replace_sources:
            raise EmbeddingsError(
                f"was made of {gone[0]}{', ...' if len(gone) > 1 else ''} as well; "
                "name all sources again, or ask to replace them (replace=True, --replace)",
                file=self.folder,
            )

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Append outcomes, which do not extend beyond the end of a shard.

        Full shards are written; every few seconds the rest is too, so that a run that is killed
        resumes after it.
        """
        self._open_shard += outcomes
        if len(self._open_shard) == self.wanted.shard_items:
            self._write_full()
        if time.monotonic() - self._committed >= SECONDS_BETWEEN_COMMITS:
            self.commit()

    def _write_full(self) -> None:
        self._shards.append(self._write())
        self._open_shard = []

    def _write(self) -> Shard:
        """Write the open shard, unless its files exist. It counts once `unfinished.json` names it.

        Raises:
            OSError: a file cannot be written; names it.
        """
        outcomes = self._open_shard
        vectors = [outcome.vector for outcome in outcomes if outcome.vector is not None]
        rows = np.empty((len(vectors), self.wanted.model["embed_dim"]), self.wanted.dtype)
        for row, vector in zip(rows, vectors, strict=True):
            row[:] = vector
        contents = dict(zip(SUFFIXES, (_npy(rows), _parquet(outcomes)), strict=True))
        sums = {suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()}
        both = hashlib.sha256("".join(sums[suffix] for suffix in SUFFIXES).encode()).hexdigest()
        name = f"{len(self._shards):05}-{both[:_DIGITS]}"
        shard = Shard(name, len(rows), len(outcomes), sums)
        if name not in self.earlier.intact:
            for suffix, content in contents.items():
                write_durably(path_of(self.folder, shard, suffix), content)
            self.earlier.intact.add(name)
        return shard

    def commit(self) -> None:
        """Write everything that was added, and name it in `unfinished.json`."""
        self._write_unfinished(self._write() if self._open_shard else None)
        self._committed = time.monotonic()

    def _write_unfinished(self, partial: Shard | None = None) -> None:
        """Write `unfinished.json`. `partial` replaces the previous partial shard."""
        named = [*self._shards, *([partial] if partial is not None else []), *self._interrupted]
        unique = list({shard.name: shard for shard in named}.values())
        replace(self.wanted, shards=unique).write(self.folder / UNFINISHED)
        if self._partial is not None and self._partial not in unique:
            self._remove(self._partial)
        self._partial = partial

    def finish(self) -> None:
        """Write the rest and the manifest, and remove everything else."""
        if self._open_shard:
            self._write_full()
        replace(self.wanted, shards=self._shards).write(self.folder / MANIFEST)
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        self._remove_others(self._shards)

    def _remove(self, shard: Shard) -> None:
        """Remove a shard that only this run has named."""
        if self._last_manifest is not None and shard in self._last_manifest.shards:
            return
        self.earlier.intact.discard(shard.name)
        for suffix in SUFFIXES:
            path_of(self.folder, shard, suffix).unlink(missing_ok=True)

    def _remove_others(self, shards: Sequence[Shard]) -> None:
        """Remove all files of runs except these shards and the manifests."""
        wanted = {shard.name for shard in shards}
        for path in list(self.folder.iterdir()):
            if _RUN_FILES.fullmatch(path.name) and path.stem not in wanted:
                path.unlink(missing_ok=True)


def _npy(rows: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()


def _parquet(outcomes: Sequence[Outcome]) -> bytes:
    arrow, parquet = pyarrow_modules()
    wanted = schema()
    columns: dict[str, list[Any]] = {
        name: [getattr(outcome.item, name) for outcome in outcomes] for name in _ITEM_COLUMNS
    }
    columns |= {name: [getattr(outcome, name) for outcome in outcomes] for name in _OUTCOME_COLUMNS}
    rows = itertools.count()
    columns["row"] = [None if outcome.vector is None else next(rows) for outcome in outcomes]
    arrays = [arrow.array(columns[field.name], field.type) for field in wanted]
    content = io.BytesIO()
    table = arrow.Table.from_arrays(arrays, schema=wanted)
    parquet.write_table(table, content, compression="zstd")
    return content.getvalue()


class EarlierItems:
    """Items of earlier runs. They take 16 bytes each in memory.

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
        keys, places = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int32)]
        for shard in shards:
            if shard.name in self.intact:
                continue
            try:
                check_shard(folder, shard)
                own, lines = self._keys(load_lines(folder, shard))
            except EmbeddingsError as error:
                logger.warning("%s; embedding its items again", error)
                continue
            self.intact.add(shard.name)
            keys.append(own)
            places.append(np.stack([np.full_like(lines, len(self._shards)), lines], 1))
            self._shards.append(shard)
        unsorted = np.concatenate(keys)
        order = np.argsort(unsorted, kind="stable")
        self._sorted, self._places = unsorted[order], np.concatenate(places)[order]
        self._table = lru_cache(_SHARDS_KEPT)(self._load)

    def _keys(self, table: Any) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """The keys of a shard's items, and the numbers of their lines."""
        keys, lines = [], []
        for number, (row, id, path, size, mtime_ns, text, error) in enumerate(_lines_of(table)):
            # A text that failed has its error before it is looked up.
            if (self._retry and error is not None) or (self._kind == "texts" and row is None):
                continue
            keys.append(_key(self._kind, id, path, size, mtime_ns, text))
            lines.append(number)
        return np.array(keys, np.uint64), np.array(lines, np.int32)

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
        item = outcome.item
        key = np.uint64(_key(self._kind, item.id, item.path, item.size, item.mtime_ns, item.text))
        place = int(np.searchsorted(self._sorted, key))
        while place < len(self._sorted) and self._sorted[place] == key:
            shard, line = self._places[place].tolist()
            if self._is_line(item, shard, line):
                self._copy(outcome, shard, line)
                return
            place += 1

    def _is_line(self, item: Item, shard: int, line: int) -> bool:
        table, _ = self._table(shard)
        names = ("text",) if self._kind == "texts" else ("id", "path", "size", "mtime_ns")
        return all(table.column(name)[line].as_py() == getattr(item, name) for name in names)

    def _copy(self, outcome: Outcome, shard: int, line: int) -> None:
        table, vectors = self._table(shard)
        for name in ("width", "height", "bytes", "error"):
            setattr(outcome, name, table.column(name)[line].as_py())
        row = table.column("row")[line].as_py()
        outcome.vector = None if row is None else np.array(vectors[row])
        outcome.restored = True


def _key(kind: ItemKind, id: str, path: str, size: Any, mtime_ns: Any, text: str | None) -> int:
    """64 bits that differ if an item has changed: of a text, if its content has changed."""
    name = text or "" if kind == "texts" else f"{id}\0{path}\0{size}\0{mtime_ns}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _lines_of(table: Any) -> Iterator[tuple[Any, ...]]:
    names = ("row", "id", "path", "size", "mtime_ns", "text", "error")
    for start in range(0, table.num_rows, _LINES_AT_ONCE):
        some = table.slice(start, _LINES_AT_ONCE)
        yield from zip(*(some.column(name).to_pylist() for name in names), strict=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Create a folder if it does not exist, and lock it for this process.

    If nothing was recorded when the block ends, because it failed, the folder is as before.

    Raises:
        EmbeddingsError: another run writes to it.
        OSError: it cannot be created; names it.
    """
    existed = folder.exists()
    try:
        lock = lock_folder(folder)
    except BlockingIOError as error:
        raise EmbeddingsError("another run writes to it", file=folder) from error
    with lock:
        try:
            yield folder
        except BaseException:
            _remove_empty(folder, existed=existed)
            raise


def _remove_empty(folder: Path, *, existed: bool) -> None:
    """Remove the traces of a run that recorded nothing."""
    with contextlib.suppress(EmbeddingsError, OSError):
        unfinished = Manifest.read(folder / UNFINISHED)
        if unfinished is not None and not unfinished.shards:
            (folder / UNFINISHED).unlink()
        if not existed:
            folder.rmdir()  # unless it holds files
