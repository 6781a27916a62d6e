"""Items from the files that `cnclip.sources` reads: their ids, and the errors of bad rows."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .._text import printable
from ..datasets.chinese_clip import TsvData
from ..sources.columns import Columns, Row
from ..sources.folder import ImageFile, image_file, spelled, walk
from ..sources.problems import Problem, Problems, with_problems
from ..sources.refs import ImageRef, ImageStore, Slices, is_url, located
from ..sources.tables import read_list, read_table
from ..sources.tar_files import read_tar
from ..sources.tsv_files import TsvImages
from ..sources.zip_files import ZipImages
from .items import Item

STDIN = "stdin"


def spelled_id(id: int | str) -> str:
    """An id as it is recorded: characters that cannot be encoded are escaped."""
    return str(id).encode("utf-8", "backslashreplace").decode()


class Container(NamedTuple):
    """A file with several items. When it is written again, all its images count as new.

    Attributes:
        path: As it is recorded.
        size: In bytes.
        mtime_ns: When it was written.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Container:
        """The container at a path.

        Raises:
            OSError: there is none.
        """
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


def file_item(path: str) -> Item:
    """The item of an image file; its id is the absolute path."""
    return _file_item(image_file(path), None)


def _file_item(file: ImageFile, id: str | None) -> Item:
    shown = spelled(file.path)
    image = ImageRef(file.path) if file.error is None else None
    name = shown if id is None else id
    return Item(name, shown, file.size, file.mtime_ns, image, error=file.error)


def image_item(value: str, id: str | None = None, folder: str = "") -> Item:
    """The item of a path, relative to a folder, or of a URL, which is also the default id."""
    if not is_url(value):
        return _file_item(image_file(os.path.join(folder, value)), id)
    place = located(value)
    if isinstance(place, Path):
        return _file_item(image_file(place), id)
    name = spelled_id(value)
    return Item(name if id is None else id, name, image=ImageRef(value))


def folder_items(path: str, left_out: Counter[str]) -> Iterator[Item]:
    """The images in a folder."""
    return (_file_item(file, None) for file in walk(path, left_out))


def tar_items(path: str) -> Iterator[Item]:
    """The images of a tar file, as WebDataset makes them. Ids are `PATH:SAMPLE`."""
    container, problems = Container.of(path), Problems()
    images = Slices([Path(path)], [container.path])
    for key, sample in read_tar(Path(path), container.path, problems, texts=False).items():
        if sample.image is not None:
            images.add(key, *sample.image)
    yield from container.images(images, named=True)
    yield from container.skipped(problems.found)


def tsv_items(path: str) -> Iterator[Item]:
    """The images of a `SPLIT_imgs.tsv`, by their ids there."""
    container, problems = Container.of(path), Problems()
    with open(path, "rb", 1 << 20) as file:
        store = TsvImages.of(file, container.path, problems, Path(path))
    yield from container.images(store, named=False)
    yield from container.skipped(problems.found)


def zip_items(path: str) -> Iterator[Item]:
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


def table_items(path: str, columns: Columns) -> Iterator[Item]:
    """The items of a list or table. The default id is an image's path or URL, or `PATH:ROW`."""
    container = Container.of(path)
    read = partial(read_table, Path(path), container.path, columns)
    return _row_items(read, container, os.path.dirname(path))


def stdin_items(content: bytes, columns: Columns) -> Iterator[Item]:
    """The items of a list from stdin; paths are relative to the current folder."""
    read = partial(read_list, io.BytesIO(content), STDIN, columns)
    return _row_items(read, Container(STDIN, 0, 0), "")


def _row_items(
    read: Callable[[Problems], Iterator[Row]], container: Container, folder: str
) -> Iterator[Item]:
    for row in with_problems(read):
        if isinstance(row, Problem):
            yield from container.skipped([row])
            continue
        id = None if row.id is None or row.id == "" else spelled_id(row.id)
        place = f"{container.path}:{row.number}"
        value = row.text if row.image is None else row.image
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
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
    if isinstance(value, UnicodeDecodeError):
        return container.failed(name, "the text is not UTF-8")
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None or isinstance(value, str) else f"{value!r:.60}"
        return container.failed(name, f"expected a string, found {found}")
    if row.image is not None:
        return image_item(value, id, folder)
    try:
        value.encode()
    except UnicodeEncodeError:
        return Item(name, container.path, error="the text is not UTF-8")
    return Item(name, container.path, text=value)
