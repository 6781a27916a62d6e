"""Bulk embedding: to a folder that a second run brings up to date, or to whoever iterates."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError, Where
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..pipelines.stream import IMAGE_BATCH
from ..progress import progress
from ..sources import ProblemKind, Problems, pyarrow_modules
from .items import Kind, Outcome
from .manifest import DTYPES, Manifest, Shard, model_identity
from .output import Output, locked
from .sources import SourceList, Sources, open_sources
from .stream import Take, embed_items

SHARD_ITEMS = 8192
MAX_SHARD = 1 << 20
# Work that a killed run loses at most, besides a batch.
SECONDS_BETWEEN_COMMITS = 5.0
# Failed items that a report names; all are in the folder.
MAX_FAILED = 1000

Advance = Callable[[list[Outcome]], None]
Embedded = Callable[[Take], tuple[int | None, Generator[list[Outcome], None, None]]]


@dataclass
class Report:
    """What a run did.

    Attributes:
        output: The folder.
        kind: "images" or "texts".
        dim: Columns of the embeddings.
        items: Items of the sources.
        rows: Embeddings in the folder.
        embedded: Those that this run made.
        kept: Those that were there before.
        failed: Items that could not be embedded, those of earlier runs included.
        first_failed: (id, error) of the first of them.
        left_out: Files of folders that are no images by their names: how many of each ending.
    """

    output: Path
    kind: Kind
    dim: int
    items: int = 0
    rows: int = 0
    embedded: int = 0
    kept: int = 0
    failed: int = 0
    first_failed: list[tuple[str, str]] = field(default_factory=list, repr=False)
    left_out: dict[str, int] = field(default_factory=dict, repr=False)

    def add(self, items: list[Outcome]) -> None:
        """Count items that are done."""
        self.items += len(items)
        for item in items:
            if item.error is not None:
                self.failed += 1
                if len(self.first_failed) < MAX_FAILED:
                    self.first_failed.append((item.item.id, item.error))
            elif item.known:
                self.kept += 1
            else:
                self.embedded += 1
        self.rows = self.embedded + self.kept


def embed(
    sources: Sources,
    model: str | Path | MultiModalEmbeddingPipeline,
    *,
    output: str | os.PathLike[str],
    kind: Kind = "images",
    dtype: Literal["float16", "float32"] = "float16",
    precision: str = "fp32",
    device: str = "gpu",
    num_threads: int | None = None,
    column: str | None = None,
    id_column: str | None = None,
    batch_size: int = IMAGE_BATCH,
    shard_items: int = SHARD_ITEMS,
    retry: bool = False,
    replace: bool = False,
    show_progress: bool = False,
) -> Report:
    """Embed images or texts of any number to a folder, see docs/embedding.md.

    What the folder holds afterwards is what the sources hold now. A run that was cut off goes on
    where it was, and a later one embeds only what is new or changed: files by their size and
    time, texts by their words. Until it ends, the folder stays as the last run left it.

    Args:
        sources: One path, or several, see `open_sources`.
        model: As `pipeline` takes it, or an open pipeline; `precision`, `device` and `num_threads`
            are not used then.
        output: The folder, made if need be.
        kind: "images" or "texts".
        dtype: What is stored.
        precision: As of `pipeline`.
        device: As of `pipeline`.
        num_threads: As of `pipeline`.
        column: The tables' column of images or texts.
        id_column: The tables' column of ids.
        batch_size: Images that go through the model together.
        shard_items: Items of a shard.
        retry: Try again what failed in an earlier run and has not changed.
        replace: Let go what came of sources that are not named any more.
        show_progress: On stderr.

    Returns:
        What was done. Items that failed are counted, named, and recorded in the folder.

    Raises:
        DatasetError: a source is missing, of no known kind, or empty.
        InvalidInputError: another argument is not one of those above.
        EmbeddingsError: the folder holds something else, or another run writes there.
        OSError: the folder cannot be written, as where the disk is full; what was done is kept.
        MissingExtraError: pyarrow is not installed.
        KeyboardInterrupt: Ctrl-C, seen between batches.
    """
    check_storage(dtype, shard_items)
    opened = open_checked(sources, kind, column, id_column)
    with locked(Path(output)) as folder:
        embedder = _open_model(model, precision, device, num_threads)
        _check_batch_size(batch_size, embedder)
        wanted = Manifest(
            kind,
            model_identity(embedder),
            embedder.model.precision,
            dtype,
            opened.names,
            int(shard_items),
        )

        def embedded(take: Take) -> tuple[int | None, Generator[list[Outcome], None, None]]:
            return _count(opened) if show_progress else None, embed_items(
                embedder,
                opened.items(),
                kind,
                batch_size=int(batch_size),
                cut_every=int(shard_items),
                take=take,
            )

        report = write_folder(
            folder, wanted, embedded, retry=retry, replace=replace, show_progress=show_progress
        )
    report.left_out = dict(opened.left_out)
    return report


def check_storage(dtype: str, shard_items: int) -> None:
    """Refuse what cannot be stored.

    Raises:
        InvalidInputError: one of the arguments is not as `embed` takes it.
        MissingExtraError: pyarrow is not installed.
    """
    if dtype not in DTYPES:
        raise InvalidInputError(f"dtype: expected {' or '.join(DTYPES)}, got {dtype!r}")
    check_count("shard_items", shard_items, MAX_SHARD)
    pyarrow_modules()


def write_folder(
    folder: Path,
    wanted: Manifest,
    embedded: Embedded,
    *,
    retry: bool,
    replace: bool,
    show_progress: bool,
) -> Report:
    """Bring a folder up to date, see `embed`.

    Args:
        folder: It is there, and locked.
        wanted: What is to be made, yet without shards.
        embedded: Called with what knows the items of earlier runs; gives the number of items, if
            that is known, and them in lists, none of which goes beyond the end of a shard.
        retry: As of `embed`.
        replace: As of `embed`.
        show_progress: On stderr.
    """
    place = Output(folder, wanted, retry=retry, replace_sources=replace)
    report = Report(folder, wanted.kind, wanted.model["embed_dim"])
    total, made = embedded(place.known.take)
    with contextlib.closing(made) as lists, _told(wanted.kind, total, show_progress) as tell:
        shards = _write(lists, place, wanted.shard_items, report, tell)
    place.finish(shards)
    return report


def _write(
    lists: Iterator[list[Outcome]],
    place: Output,
    shard_items: int,
    report: Report,
    tell: Advance,
) -> list[Shard]:
    """Write what comes, shard by shard; what is committed ends where a list does."""
    shards: list[Shard] = []
    growing: list[Outcome] = []
    committed = time.monotonic()

    def commit() -> None:
        place.commit(shards, place.write(len(shards), growing) if growing else None)

    try:
        for items in lists:
            growing += items
            report.add(items)
            tell(items)
            if len(growing) == shard_items:
                shards.append(place.write(len(shards), growing))
                growing = []
            if time.monotonic() - committed >= SECONDS_BETWEEN_COMMITS:
                commit()
                committed = time.monotonic()
    except KeyboardInterrupt:
        commit()
        raise
    if growing:
        shards.append(place.write(len(shards), growing))
    return shards


def iter_embeddings(
    sources: Sources,
    model: str | Path | MultiModalEmbeddingPipeline,
    *,
    kind: Kind = "images",
    precision: str = "fp32",
    device: str = "gpu",
    num_threads: int | None = None,
    column: str | None = None,
    id_column: str | None = None,
    batch_size: int = IMAGE_BATCH,
    problems: Problems | None = None,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Embed images or texts of any number, and write nothing.

    Args:
        sources: As of `embed`, and so are the other arguments.
        model: The same.
        kind: The same.
        precision: The same.
        device: The same.
        num_threads: The same.
        column: The same.
        id_column: The same.
        batch_size: The same.
        problems: Gets the items that cannot be embedded, which are left out.

    Yields:
        (ids, vectors): a few items' names, and float32 [n, d], rows of unit length.

    Raises:
        DatasetError: a source is missing, of no known kind, or empty.
        InvalidInputError: another argument is not one of those above.
    """
    opened = open_checked(sources, kind, column, id_column)
    embedder = _open_model(model, precision, device, num_threads)
    _check_batch_size(batch_size, embedder)
    items = opened.items()
    for some in embed_items(
        embedder, items, kind, batch_size=int(batch_size), cut_every=SHARD_ITEMS
    ):
        for item in some:
            if item.error is not None and problems is not None:
                problems.add(ProblemKind.UNREADABLE_IMAGE, Where(file=item.item.id), item.error)
        good = [item for item in some if item.vector is not None]
        if good:
            yield [item.item.id for item in good], np.stack([item.vector for item in good])  # type: ignore[misc]


def open_checked(
    sources: Sources, kind: Kind, column: str | None, id_column: str | None
) -> SourceList:
    """`open_sources` of a kind that there is."""
    if kind not in ("images", "texts"):
        raise InvalidInputError(f"kind: expected 'images' or 'texts', got {kind!r}")
    return open_sources(sources, kind, column=column, id_column=id_column)


def _open_model(
    model: str | Path | MultiModalEmbeddingPipeline,
    precision: str,
    device: str,
    num_threads: int | None,
) -> MultiModalEmbeddingPipeline:
    if isinstance(model, MultiModalEmbeddingPipeline):
        return model
    return pipeline(model=model, precision=precision, device=device, num_threads=num_threads)


def _check_batch_size(size: int, embedder: MultiModalEmbeddingPipeline) -> None:
    check_count("batch_size", size, embedder.model.max_image_batch)


def check_count(name: str, value: int, most: int) -> None:
    """Refuse a number that is not from 1 to `most`.

    Raises:
        InvalidInputError: names it.
    """
    if not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise InvalidInputError(f"{name}: expected 1 to {most}, got {value!r}")


def _count(opened: SourceList) -> int:
    """How many items there are; looking through millions of files takes a while, and is told."""
    with progress(f"looking for {opened.kind}", unit="item") as advance:
        total = 0
        for total, _ in enumerate(opened.items(), 1):
            if total % 1000 == 0:
                advance(1000)
    return total


@contextlib.contextmanager
def _told(
    kind: Kind, total: int | None, enabled: bool
) -> Iterator[Callable[[list[Outcome]], None]]:
    """Progress from the first item on that is new, so that rate and time left are those of work."""
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        passed = 0

        def tell(items: list[Outcome]) -> None:
            nonlocal advance, passed
            if advance is None and any(not item.known for item in items if item.error is None):
                advance = stack.enter_context(
                    progress(kind, total, kind[:-1], done=passed, enabled=enabled)
                )
            passed += len(items)
            if advance is not None:
                advance(len(items))

        yield tell
