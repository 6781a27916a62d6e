"""Images in tar files, zips and Chinese-CLIP's TSV files, read on threads where they lie."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets import Problems, layouts, tsv
from ..datasets.classification import SUFFIXES
from ..datasets.problems import Problem
from ..datasets.retrieval import ImageRow
from ..datasets.stores import ImageStore
from ..errors import DatasetError, ImageError
from .items import MAX_FILE, Given, Item, printable, reason, spelled

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class Holder(NamedTuple):
    """A file that holds images. When it is written again, all of them are new.

    Attributes:
        path: As it is recorded.
        size: In bytes.
        mtime_ns: When it was written.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Holder:
        """The holder at a path.

        Raises:
            OSError: there is none.
        """
        state = os.stat(path)
        return cls(spelled(os.path.abspath(path)), state.st_size, state.st_mtime_ns)

    def item(self, id: str) -> Item:
        """An image in it."""
        return Item(id, *self)

    def failed(self, where: str, what: str) -> Item:
        """What is wrong in it."""
        item = self.item(spelled_id(where))
        item.error = printable(what)
        return item


def tar_items(path: str) -> Iterator[Item]:
    """The images of a tar file, as WebDataset makes them. Ids are `PATH:SAMPLE`."""
    holder = Holder.of(path)
    problems = Problems()
    store = layouts.find(path).open(None).locate(problems)
    for number in range(len(store.ids)):
        yield _stored(holder, store, number, f"{holder.path}:{spelled_id(store.ids[number])}")
    for problem in problems.found:
        # A text is not looked for here; `left out` are only samples that have nothing else.
        if problem.skipped and "no image beside" not in problem.what:
            yield _problem(holder, problem)


def tsv_items(path: str) -> Iterator[Item]:
    """The images of a `SPLIT_imgs.tsv`, by their ids there."""
    holder = Holder.of(path)
    problems = Problems()
    place = Path(path)
    split = place.name.removesuffix(tsv.IMAGES)
    store = tsv.TsvData(place.parent, split, split).locate(problems)
    for number, image_id in enumerate(store.ids):
        yield _stored(holder, store, number, spelled_id(image_id))
    for problem in problems.found:
        if problem.skipped:
            yield _problem(holder, problem)


def zip_items(path: str) -> Iterator[Item]:
    """The images of a zip, `PATH:NAME`; of Chinese-CLIP's TSV files in one, by their ids."""
    holder = Holder.of(path)
    if splits := tsv.splits(Path(path)):
        for split in splits:
            yield from _zipped_tsv(holder, path, split)
        return
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise DatasetError(f"{path}: not a zip, or damaged: {reason(error)}") from error
    # It is closed with the last item: threads read ahead of who takes the results.
    for entry in archive.infolist():
        parts = entry.filename.split("/")
        hidden = parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)
        if hidden or os.path.splitext(parts[-1])[1].lower() not in SUFFIXES:
            continue
        item = holder.item(f"{holder.path}:{spelled_id(entry.filename)}")
        if entry.file_size == 0:
            item.error = "an empty file"
        else:
            item.read = _Member(path, entry, archive)
        yield item


class _Member:
    """Reads a file of a zip. In another process that opens the zip again."""

    def __init__(
        self, path: str, entry: zipfile.ZipInfo, archive: zipfile.ZipFile | None = None
    ) -> None:
        self._path, self._entry, self._archive = path, entry, archive

    def __reduce__(self) -> tuple[Any, ...]:
        return _Member, (os.path.abspath(self._path), self._entry)

    def __call__(self) -> bytes:
        try:
            archive = self._archive or _opened_zip(self._path, *_version(self._path))
            with archive.open(self._entry) as file:
                # What the zip says of the size may be wrong.
                content = file.read(MAX_FILE + 1)
        except _ZIP_ERRORS as error:
            raise ImageError(f"cannot be read in the zip: {reason(error)}") from error
        if len(content) > MAX_FILE:
            raise ImageError(f"a file of more than {MAX_FILE} bytes")
        return content


@lru_cache(8)
def _opened_zip(path: str, *version: int) -> zipfile.ZipFile:
    """A zip, opened once in a process until it is written anew."""
    return zipfile.ZipFile(path)


def _version(path: str) -> tuple[int, int, int]:
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


def _zipped_tsv(holder: Holder, path: str, split: str) -> Iterator[Item]:
    """Lines that may be compressed, so that they are read here and not on threads."""
    problems = Problems()
    told = 0
    for row in tsv.TsvData(Path(path), split, split).images(problems):
        for problem in problems.found[told:]:
            if problem.skipped:
                yield _problem(holder, problem)
        told = len(problems.found)
        yield _row(holder, row)
    for problem in problems.found[told:]:
        if problem.skipped:
            yield _problem(holder, problem)


def _row(holder: Holder, row: ImageRow) -> Item:
    content = row.content
    assert isinstance(content, bytes)
    item = holder.item(spelled_id(row.image_id))
    item.read = Given(content)
    return item


def _stored(holder: Holder, store: ImageStore, number: int, id: str) -> Item:
    item = holder.item(id)
    item.read = _Stored(store, number)
    return item


class _Stored:
    """Reads an image of a store. To another process goes what it needs alone."""

    def __init__(self, store: ImageStore, number: int) -> None:
        self._store, self._number = store, number

    def __reduce__(self) -> tuple[Any, ...]:
        reader = self._store.reader(self._number)
        return partial, (reader,)

    def __call__(self) -> Any:
        return self._store.content(self._number)


def _problem(holder: Holder, problem: Problem) -> Item:
    # It begins with the file's name, which stands in the path already.
    inner = problem.where.partition(":")[2]
    return holder.failed(f"{holder.path}:{inner}" if inner else holder.path, problem.what)


def spelled_id(id: int | str) -> str:
    """An id as it is recorded: what is not Unicode in it is written out."""
    return str(id).encode("utf-8", "backslashreplace").decode()
