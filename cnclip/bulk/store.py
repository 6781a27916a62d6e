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
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import lock_folder, write_durably
from ..errors import EmbeddingsError
from ..sources import pyarrow_modules
from .earlier import RESTORED, EarlierItems
from .folder import (
    MANIFEST,
    SUFFIXES,
    UNFINISHED,
    Manifest,
    Shard,
    load_lines,
    path_of,
    schema,
)
from .outcomes import Outcome

logger = logging.getLogger("cnclip")

# A run that is killed loses this much work, and a batch, at most.
SECONDS_BETWEEN_COMMITS = 5.0
# Files that show whether a folder has moved.
_IDS_TRIED = 100
# Digits of the checksum in a shard's name: 48 bits.
_DIGITS = 12
_ITEM_COLUMNS = ("id", "path", "text", "size", "mtime_ns", "caption")
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
        former_layout: The layout of the last run that ended, or "cnclip".
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
        self.former_layout = "cnclip" if (m := self._last_manifest) is None else m.layout
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
            advice = "write to another folder"
            if arguments := earlier.arguments_like(self.wanted):
                advice = f"embed as before ({', '.join(arguments)}), or {advice}"
            raise EmbeddingsError(
                "holds embeddings that cannot be mixed with these: "
                f"{'; '.join(differences)}; {advice}",
                file=self.folder,
            )
        gone = [name for name in earlier.sources if name not in set(self.wanted.sources)]
        if gone and not replace_sources and not self._has_moved(earlier):
            raise EmbeddingsError(
                f"was made of {gone[0]}{', ...' if len(gone) > 1 else ''} as well; "
                "name all sources again, or ask to replace them (replace=True, --replace)",
                file=self.folder,
            )

    def _has_moved(self, earlier: Manifest) -> bool:
        """Whether the only source, a folder, is the earlier one in another place.

        Most of some files must be in the new place, and none in the former.
        """
        places = [*earlier.sources, *self.wanted.sources]
        if len(places) != 2 or not earlier.ids == self.wanted.ids == "relative":
            return False
        try:
            ids = load_lines(self.folder, earlier.shards[0]).column("id")[:_IDS_TRIED].to_pylist()
        except EmbeddingsError:
            return False
        before, now = (
            sum(os.path.lexists(os.path.join(place, id)) for id in ids) for place in places
        )
        return before == 0 and 2 * now > len(ids)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Append outcomes, which do not extend beyond the end of a shard.

        Images in formats that are off count for the length of a shard, and are not written: a run
        with their formats embeds them. Full shards are written; every few seconds the rest is too,
        so that a run that is killed resumes after it.
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
        outcomes = [outcome for outcome in self._open_shard if outcome.off is None]
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
    columns |= {name: [getattr(outcome, name) for outcome in outcomes] for name in RESTORED}
    rows = itertools.count()
    columns["row"] = [None if outcome.vector is None else next(rows) for outcome in outcomes]
    arrays = [arrow.array(columns[field.name], field.type) for field in wanted]
    content = io.BytesIO()
    table = arrow.Table.from_arrays(arrays, schema=wanted)
    parquet.write_table(table, content, compression="zstd")
    return content.getvalue()


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
