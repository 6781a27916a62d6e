"""The folder that a run writes: shards that never change, and a manifest that is replaced at once.

While a run is under way, the manifest is that of the last one that came to its end, with all its
shards; `unfinished.json` has the shards of this one. A run that was cut off finds its items in
both. At the end the manifest is replaced and what it does not name is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import EmbeddingsError
from .items import Outcome
from .known import Known
from .manifest import MANIFEST, UNFINISHED, Manifest, Shard
from .shard_files import SUFFIXES, path_of, write_shard

logger = logging.getLogger("cnclip")

# What runs put into the folder, with what a killed one left under the name of a temporary file.
_OURS = re.compile(
    r"\d{5,}-[0-9a-f]{12}\.(npy|parquet)"
    r"|\.(\d{5,}-[0-9a-f]{12}\.(npy|parquet)|manifest\.json|unfinished\.json)\.[0-9a-f]{8}\.tmp"
)


class Output:
    """A folder of embeddings, to be written by one run at a time.

    Attributes:
        known: What earlier runs have embedded.
        before: The manifest of the last run that came to its end.
    """

    def __init__(
        self, folder: Path, wanted: Manifest, *, retry: bool, replace_sources: bool
    ) -> None:
        """Look at what is there.

        Args:
            folder: It is there, and locked.
            wanted: What is to be made, yet without shards.
            retry: Try again what failed.
            replace_sources: Let items go whose sources are not named any more.

        Raises:
            EmbeddingsError: it holds something else, or is damaged.
            OSError: it cannot be read or written.
        """
        self._folder, self._wanted = folder, wanted
        self.before = Manifest.read(folder / MANIFEST)
        unfinished = Manifest.read(folder / UNFINISHED)
        earlier = [one for one in (self.before, unfinished) if one is not None]
        named = set(wanted.sources)
        for one in earlier:
            if one.items == 0:
                continue
            if told := one.differences(wanted):
                raise EmbeddingsError(
                    f"{folder}: holds embeddings that cannot be mixed with these: "
                    f"{'; '.join(told)}; write to another folder"
                )
            gone = [name for name in one.sources if name not in named]
            if gone and not replace_sources:
                raise EmbeddingsError(
                    f"{folder}: was made of {gone[0]}{', ...' if len(gone) > 1 else ''} as well; "
                    "name all sources again, or ask to replace them (replace=True, --replace)"
                )
        shards = [shard for one in earlier for shard in one.shards]
        self.known = Known(folder, wanted, shards, retry=retry)
        self._earlier = [] if unfinished is None else unfinished.shards
        self._partial: Shard | None = None
        # That nothing can be written here is to be seen before any work.
        self.commit([])
        self._remove_others(shards)

    def write(self, number: int, items: Sequence[Outcome]) -> Shard:
        """Write a shard, which counts once it is committed.

        Raises:
            OSError: it cannot be written.
        """
        return write_shard(self._folder, number, items, self._wanted, self.known.intact)

    def commit(self, shards: Sequence[Shard], partial: Shard | None = None) -> None:
        """Note how far the run has come.

        Args:
            shards: Those that are complete.
            partial: The one that is to grow; the one before it is removed.

        Raises:
            OSError: it cannot be written.
        """
        noted = [*shards, *([partial] if partial is not None else []), *self._earlier]
        # What an earlier run had beyond this point is to be found by the next one too.
        unique = list({shard.name: shard for shard in noted}.values())
        replace(self._wanted, shards=unique).write(self._folder / UNFINISHED)
        if self._partial is not None and self._partial not in unique:
            self._remove(self._partial)
        self._partial = partial

    def finish(self, shards: Sequence[Shard]) -> Manifest:
        """End the run with these shards.

        Raises:
            OSError: the manifest cannot be written.
        """
        manifest = replace(self._wanted, shards=list(shards))
        manifest.write(self._folder / MANIFEST)
        (self._folder / UNFINISHED).unlink(missing_ok=True)
        self._remove_others(shards)
        return manifest

    def _remove(self, shard: Shard) -> None:
        """Remove a shard that nothing names any more."""
        if self.before is not None and shard in self.before.shards:
            return
        self.known.intact.discard(shard.name)
        for suffix in SUFFIXES:
            path_of(self._folder, shard, suffix).unlink(missing_ok=True)

    def _remove_others(self, shards: Sequence[Shard]) -> None:
        """Remove what runs have written, but for these shards and the manifests."""
        wanted = {shard.name for shard in shards}
        for path in list(self._folder.iterdir()):
            if _OURS.fullmatch(path.name) and path.stem not in wanted:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """The folder, made if need be, for one process alone; the lock goes with the process.

    Raises:
        EmbeddingsError: another run writes there.
        OSError: it cannot be made; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmbeddingsError(f"{folder}: another run writes there") from error
        except OSError as error:
            # Some network file systems have no locks.
            logger.warning("%s cannot be locked: %s", folder, error)
        yield folder
    finally:
        os.close(descriptor)
