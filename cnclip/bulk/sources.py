"""The sources that a caller names, and their items: the images and texts to embed.

`open_sources` finds the kind of each source. A source is a function that yields its items; files
are read by `cnclip.sources`.
"""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .._text import first_line, is_utf8, printable
from ..datasets.chinese_clip import TsvData
from ..errors import CnclipError, DatasetError, ImageError, InvalidInputError
from ..preprocessors.image import is_url, located
from ..sources.images import (
    ImageFile,
    ImageRef,
    ImageStore,
    Slices,
    expand,
    image_file,
    is_pattern,
    spelled,
    walk,
)
from ..sources.parquet_files import PARQUET_SUFFIX
from ..sources.rows import IMAGE_SUFFIXES, Columns, Problem, Problems, Row, with_problems
from ..sources.tables import TABLE_SUFFIXES, read_list, read_table
from ..sources.tar_files import TAR_SUFFIX, read_tar
from ..sources.tsv_files import TSV_SUFFIX, TsvImages
from ..sources.zip_files import ZIP_SUFFIX, ZipImages
from .items import Item
from .options import Kind

STDIN = "-"
# One source, or several.
Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
# Yields the items of a source, the same ones at each call.
_Source = Callable[[], Iterator[Item]]


@dataclass
class SourceList:
    """Sources by their names, as these are recorded, in order.

    `left_out` counts the files of folders without the suffix of an image, by their suffixes.
    """

    kind: Kind
    sources: dict[str, _Source] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def names(self) -> list[str]:
        """The sources' names."""
        return list(self.sources)

    def items(self) -> Iterator[Item]:
        """All items. A path that is repeated is left out; another item with the same id fails.

        If one of several files cannot be read, it is an item with an error.

        Raises:
            DatasetError: the only source cannot be read; or it has no items, or a folder has none.
                That is more likely a mistake than intended, and would drop all its embeddings.
        """
        self.left_out.clear()
        seen: set[int] = set()
        for name, source in self.sources.items():
            for item in self._items_of(name, source):
                # 64 bits: ten million items take 650 MB here already.
                key = hash(item.id)
                if key in seen:
                    if item.id == item.path:
                        continue
                    item = item._replace(error=item.error or "another item has this id")
                seen.add(key)
                yield item

    def _items_of(self, name: str, source: _Source) -> Iterator[Item]:
        found = False
        try:
            for item in source():
                found = True
                yield item
            if not found:
                reason = f"holds no {self.kind}{_hint(name)}"
                raise DatasetError(reason, file=name)
        except (DatasetError, OSError) as error:
            alone = not found and len(self.sources) == 1
            if alone or os.path.isdir(name):
                raise
            reason = error.reason if isinstance(error, CnclipError) else first_line(error)
            yield Item(name, name, error=printable(reason))


def _hint(name: str) -> str:
    """The archives in a folder without images."""
    for suffix in (TSV_SUFFIX, TAR_SUFFIX, PARQUET_SUFFIX, ZIP_SUFFIX):
        if os.path.isdir(name) and list(Path(name).glob(f"*{suffix}")):
            return f"; to embed its *{suffix} files, name them"
    return ""


def open_sources(
    sources: Sources,
    kind: Kind = "images",
    *,
    column: str | None = None,
    id_column: str | None = None,
) -> SourceList:
    """Find the kind of each source.

    Args:
        sources: One path, or several. Of images: a folder, which is read with its subfolders; an
            image or its URL; a list (.txt) of paths or URLs, or `-` for stdin; a .jsonl, .csv,
            .tsv or Parquet file with a column of them; Chinese-CLIP's `SPLIT_imgs.tsv`; a tar file
            as WebDataset makes them; a zip. Of texts: .txt, `-`, .jsonl, .csv, .tsv or Parquet.
            A pattern names several: `shards/*.tar` or `shards/{000..012}.tar`.
        kind: The kind of the items.
        column: The tables' column; by default the first with a usual name.
        id_column: The tables' column of ids; by default `id`, `image_id` or `text_id`.

    Raises:
        DatasetError: there is no such file, or it is of unknown kind.
        InvalidInputError: no source.
    """
    columns = Columns.of(kind, column, id_column)
    found = SourceList(kind)
    for one in [sources] if isinstance(sources, str | os.PathLike) else sources:
        path = os.fspath(one)
        if path == STDIN:
            content = sys.stdin.buffer.read()
            found.sources.setdefault(STDIN, partial(_stdin_items, content, columns))
        elif kind == "images" and is_url(path):
            found.sources.setdefault(image_item(path).path, partial(_url_items, path))
        else:
            for file in _files(os.path.expanduser(path)):
                absolute = os.path.abspath(file)
                found.sources.setdefault(spelled(absolute), _source(absolute, found, columns))
    if not found.sources:
        raise InvalidInputError("expected at least one", item="sources")
    return found


def _files(path: str) -> Sequence[str]:
    if os.path.exists(path) or not is_pattern(path):
        return [path]
    return [str(one) for one in expand(path)]


def _source(path: str, found: SourceList, columns: Columns) -> _Source:
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.lexists(path):
        raise DatasetError("no such file or folder", file=spelled(path))
    is_table = suffix in TABLE_SUFFIXES and os.path.isfile(path)
    if found.kind == "texts":
        if is_table:
            return partial(_table_items, path, columns)
        reason = f"expected a file of texts: {_joined(TABLE_SUFFIXES)}"
        raise DatasetError(reason, file=spelled(path))
    if os.path.isdir(path):
        return lambda: map(_file_item, walk(path, found.left_out))
    if suffix in IMAGE_SUFFIXES or not os.path.isfile(path):
        return lambda: iter([_file_item(image_file(path))])
    if os.path.basename(path).endswith(TSV_SUFFIX):
        return partial(_tsv_items, path)
    if suffix in _ARCHIVES:
        return partial(_ARCHIVES[suffix], path)
    if is_table:
        return partial(_table_items, path, columns)
    suffixes = _joined({*TABLE_SUFFIXES, *_ARCHIVES})
    reason = f"unknown kind of file; expected an image, a folder, SPLIT_imgs.tsv, {suffixes}"
    raise DatasetError(reason, file=spelled(path))


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def spelled_id(id: int | str) -> str:
    """An id as it is recorded: characters that cannot be encoded are escaped."""
    return str(id).encode("utf-8", "backslashreplace").decode()


class Container(NamedTuple):
    """A file with several items. When it is written again, all its images count as new."""

    path: str  # as it is recorded
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Container:
        """The container at a path, which must exist."""
        state = os.stat(path)
        return cls(spelled(os.path.abspath(path)), state.st_size, state.st_mtime_ns)

    def image(self, id: str, image: ImageRef) -> Item:
        """An image in it."""
        return Item(id, *self, image=image)

    def images(self, store: ImageStore, *, named: bool) -> Iterator[Item]:
        """The images of a store. Their ids are those of the store, after the path if `named`."""
        prefix = f"{self.path}:" if named else ""
        for number, id in enumerate(store.ids):
            yield self.image(prefix + spelled_id(id), ImageRef(store, number))

    def failed(self, id: str, reason: str) -> Item:
        """A row that cannot be used."""
        return Item(id, *self, error=printable(reason))

    def skipped(self, problems: Iterable[Problem]) -> Iterator[Item]:
        """The rows that were left out."""
        for problem in problems:
            if problem.skipped:
                inner = problem.where.member or problem.where.line
                id = self.path if inner is None else f"{self.path}:{spelled_id(inner)}"
                yield self.failed(id, problem.reason)


def _file_item(file: ImageFile, id: str | None = None) -> Item:
    """The item of an image file; the default id is the absolute path."""
    shown = spelled(file.path)
    image = ImageRef(file.path) if file.error is None else None
    name = shown if id is None else id
    return Item(name, shown, file.size, file.mtime_ns, image, error=file.error)


def image_item(value: str, id: str | None = None, folder: str = "") -> Item:
    """The item of a path, relative to a folder, or of a URL, which is also the default id."""
    if not is_url(value):
        return _file_item(image_file(os.path.join(folder, value)), id)
    name = spelled_id(value)
    try:
        place = located(value)
    except ImageError as error:
        return Item(name if id is None else id, name, error=error.reason)
    if isinstance(place, Path):
        return _file_item(image_file(place), id)
    return Item(name if id is None else id, name, image=ImageRef(value))


def _url_items(url: str) -> Iterator[Item]:
    yield image_item(url)


def _tar_items(path: str) -> Iterator[Item]:
    """The images of a tar file, as WebDataset makes them. Ids are `PATH:SAMPLE`."""
    container, problems = Container.of(path), Problems()
    images = Slices([Path(path)], [container.path])
    for key, sample in read_tar(Path(path), container.path, problems, texts=False).items():
        if sample.image is not None:
            images.add(key, *sample.image)
    yield from container.images(images, named=True)
    yield from container.skipped(problems.found)


def _tsv_items(path: str) -> Iterator[Item]:
    """The images of a `SPLIT_imgs.tsv`, by their ids there."""
    container, problems = Container.of(path), Problems()
    with open(path, "rb", 1 << 20) as file:
        store = TsvImages.of(file, container.path, problems, Path(path))
    yield from container.images(store, named=False)
    yield from container.skipped(problems.found)


def _zip_items(path: str) -> Iterator[Item]:
    """The images of a zip, `PATH:NAME`; of Chinese-CLIP's TSV files in one, by their ids."""
    container = Container.of(path)
    splits = TsvData.splits(Path(path))
    for split in splits:
        for row in with_problems(TsvData(Path(path), split, split).images):
            if isinstance(row, Problem):
                yield from container.skipped([row])
            else:
                yield container.image(spelled_id(row.image_id), row.image)
    if not splits:
        yield from container.images(ZipImages.of(Path(path), container.path), named=True)


_ARCHIVES = {TAR_SUFFIX: _tar_items, ZIP_SUFFIX: _zip_items}


def _table_items(path: str, columns: Columns) -> Iterator[Item]:
    """The items of a list or table. The default id is an image's path or URL, or `PATH:ROW`."""
    container = Container.of(path)
    read = partial(read_table, Path(path), container.path, columns)
    return _row_items(read, container, os.path.dirname(path))


def _stdin_items(content: bytes, columns: Columns) -> Iterator[Item]:
    """The items of a list from stdin; paths are relative to the current folder."""
    read = partial(read_list, io.BytesIO(content), "stdin", columns)
    return _row_items(read, Container("stdin", 0, 0), "")


def _row_items(
    read: Callable[[Problems], Iterator[Row]], container: Container, folder: str
) -> Iterator[Item]:
    for row in with_problems(read):
        if isinstance(row, Problem):
            yield from container.skipped([row])
            continue
        # A value that cannot be read is an exception.
        nameless = row.id is None or row.id == "" or isinstance(row.id, Exception)
        id = None if nameless else spelled_id(row.id)
        place = f"{container.path}:{row.number}"
        value = row.text if row.image is None else row.image
        if isinstance(value, list) and len(value) < 2:
            value = value[0] if value else None
        if not isinstance(value, list):
            yield _value_item(value, row, id, place, container, folder)
            continue
        for number, one in enumerate(value, 1):
            inner = None if id is None else f"{id}:{number}"
            yield _value_item(one, row, inner, f"{place}:{number}", container, folder)


def _value_item(
    value: Any, row: Row, id: str | None, place: str, container: Container, folder: str
) -> Item:
    name = place if id is None else id
    if isinstance(value, ImageRef):
        return container.image(name, value)
    if isinstance(value, Exception):
        return container.failed(name, "the text is not UTF-8")
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None or isinstance(value, str) else f"{value!r:.60}"
        return container.failed(name, f"expected a string, found {found}")
    if row.image is not None:
        return image_item(value, id, folder)
    if not is_utf8(value):
        return Item(name, container.path, error="the text is not UTF-8")
    return Item(name, container.path, text=value)
