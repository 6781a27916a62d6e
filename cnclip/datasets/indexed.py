"""Tables whose rows have ids of texts and images; ModelScope's data sets, which an index describes.

A data set of ModelScope's hub has a file `NAME.json`, the index:

    {"default": {"train": {"meta": "train.csv", "file": "train.zip"}, ...}}

For each subset and split it names a CSV file and a zip or folder of images. The CSV file has a
column of images, whose name may end in `:FILE`, a column of texts, and perhaps the columns
`image_id` and `query_id` (or `text_id`). A text with several images has several rows.
"""

from __future__ import annotations

import json
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._files import open_file, read_at_most
from .._text import is_utf8, value_text
from ..errors import DatasetError, ImageError, Where
from ..sources.images import Content, ImageStore, located_inside
from ..sources.names import with_slashes
from ..sources.rows import IMAGE_COLUMNS, TEXT_COLUMNS, Columns, Id, ProblemKind, Problems, id_of
from ..sources.tables import TextFormat, read_table
from ..sources.zip_files import ZIP_SUFFIX, ZipImages, all_members, open_zip
from .captions import METADATA, FolderData
from .retrieval import RetrievalData, TextRow, usable_texts

# What ModelScope appends to the name of a column of files.
FILE_SUFFIX = ":FILE"
IMAGE_NAMES = (
    *(name + FILE_SUFFIX for name in ("image", "img", "input", *IMAGE_COLUMNS)),
    *IMAGE_COLUMNS,
)
TEXT_NAMES = ("query", *TEXT_COLUMNS)
TEXT_IDS, IMAGE_IDS = ("query_id", "text_id"), ("image_id",)
_HINT = "; rename the columns to image and text"
_MAX_INDEX = 1 << 20


class _Row(NamedTuple):
    """A row of a table. Nothing has checked the values."""

    line: int
    image: Any
    text: Any
    text_id: Any
    image_id: Any


class TableData(RetrievalData):
    """A split that is a table and the images that it names, in a folder or zip.

    An image's id is its `image_id`, or else its file name; a text's its `query_id`, or else its
    number. Rows are read once; the texts are kept in memory.
    """

    turns_images = True

    def __init__(self, place: Path, name: str, split: str, encoding: str | None = None) -> None:
        super().__init__(place, name, split or "all", encoding)
        self._read: tuple[ImageStore, list[TextRow], Problems] | None = None

    @abstractmethod
    def sources(self) -> tuple[Path, Path]:
        """The table, and the folder or zip of images."""

    def locate(self, problems: Problems) -> ImageStore:
        """The images that the rows name.

        Raises:
            DatasetError: the table cannot be read or lacks a column, or the zip cannot be read.
        """
        return self._rows(problems)[0]

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts, with the images of all rows that have the text's id."""
        yield from self._rows(problems)[1]

    def files(self) -> list[Path]:
        """The table and the zip, or the table and the images."""
        table, images = self.sources()
        if not images.is_dir():
            return [table, images]
        store = self.locate(Problems())
        contents = (store.content(number) for number in range(len(store.ids)))
        return [table, *(content for content in contents if isinstance(content, Path))]

    def count_images(self) -> int | None:
        """The number of images, once the table was read."""
        return None if self._read is None else len(self._read[0].ids)

    def _rows(self, problems: Problems) -> tuple[ImageStore, list[TextRow]]:
        if self._read is None:
            found = Problems()
            table, images = self.sources()
            reader = _TableReader(table, _files_of(images, self.encoding), found)
            for row in _read_rows(table, self.encoding, found):
                reader.add(row)
            self._read = (reader.store(), reader.text_rows(), found)
        problems.add_all(self._read[2])
        return self._read[:2]


class IndexedData(TableData):
    """A split of a data set with ModelScope's index. With several subsets, SUBSET/SPLIT."""

    @staticmethod
    def splits(place: Path) -> list[str]:
        """The splits that the index names."""
        return sorted(_splits(place)) if place.is_dir() else []

    def sources(self) -> tuple[Path, Path]:
        """The table, and the folder or zip of images."""
        index, entry = _splits(self._place)[self.split]
        if not entry.get("meta"):
            reason = f"split {self.split} has no table: expected a CSV file as 'meta'"
            raise DatasetError(reason, file=index)
        table = _inside(index, entry["meta"])
        images = _inside(index, entry["file"]) if entry.get("file") else table.parent
        return table, images


class FolderTable(TableData):
    """A table in the folder of its images, with the ids of its rows."""

    def __init__(self, folder: FolderData) -> None:
        """Take the table of a data set that `FolderData` found."""
        (self._table,) = folder.tables()
        super().__init__(self._table, folder.name, folder.split, folder.encoding)

    @staticmethod
    def splits(place: Path) -> list[str]:
        """The splits of `FolderData`."""
        return FolderData.splits(place)

    def sources(self) -> tuple[Path, Path]:
        """The table and its folder."""
        return self._table, self._table.parent


# --- The index -----------------------------------------------------------------------------------

Entry = dict[str, Any]


def _splits(place: Path) -> dict[str, tuple[Path, Entry]]:
    """The index and the entry of each split; none for a folder without an index."""
    for path in sorted(place.glob("*.json")):
        subsets = _parse_index(path) if path.is_file() and path.name not in METADATA else {}
        if subsets:
            several = len(subsets) > 1
            return {
                f"{subset}/{split}" if several else split: (path, entry)
                for subset, splits in subsets.items()
                for split, entry in splits.items()
            }
    return {}


def _parse_index(path: Path) -> dict[str, dict[str, Entry]]:
    """The splits of each subset; empty for a file that is not an index."""
    try:
        with open_file(path) as file:
            content = read_at_most(file, _MAX_INDEX)
        value = None if content is None else json.loads(content)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    found: dict[str, dict[str, Entry]] = {}
    for subset, splits in value.items():
        if not isinstance(splits, dict):
            return {}
        entries = {
            split: entry
            for split, entry in splits.items()
            if isinstance(entry, dict) and (entry.get("meta") or entry.get("file"))
        }
        if entries:
            found[subset] = entries
    return found


def _inside(index: Path, value: Any) -> Path:
    """The file or folder that an entry of the index names, in its folder.

    Raises:
        DatasetError: it names something else, or does not exist.
    """
    if not isinstance(value, str):
        raise DatasetError(f"expected a file's name, found {value_text(value)}", file=index)
    try:
        place = located_inside(value, index.parent)
    except ImageError as error:
        raise DatasetError(error.reason, file=index) from error
    if not isinstance(place, Path) or not place.exists():
        raise DatasetError(f"names {value!r:.100}, which does not exist", file=index)
    return place


# --- Rows ----------------------------------------------------------------------------------------


def _columns(ids: tuple[str, ...]) -> Columns:
    return Columns(image=IMAGE_NAMES, text=TEXT_NAMES, id=ids, hint=_HINT)


def _read_rows(table: Path, encoding: str | None, problems: Problems) -> Iterator[_Row]:
    """The rows with both ids: the reader of tables returns one, so that it runs twice."""
    format = TextFormat(encoding)
    by_text = read_table(table, table.name, _columns(TEXT_IDS), problems, format)
    by_image = read_table(table, table.name, _columns(IMAGE_IDS), Problems(), format)
    for row, other in zip(by_text, by_image, strict=True):
        yield _Row(row.number, row.image, row.text, row.id, other.id)


class _Files:
    """The images in a folder or zip, by their names."""

    def __init__(self, place: Path, members: dict[str, zipfile.ZipInfo] | None) -> None:
        self.place, self.members = place, members

    def find(self, name: Any) -> str | None:
        """The reason why there is no such image, or None."""
        if not isinstance(name, str) or not name or "\0" in name or not is_utf8(name):
            return f"column of images: expected a file's name, found {value_text(name)}"
        if self.members is not None:
            known = with_slashes(name) in self.members
            return None if known else f"there is no image {name} in {self.place.name}"
        try:
            path = located_inside(name, self.place)
        except ImageError as error:
            return f"column of images: {error.reason}"
        known = not isinstance(path, Path) or path.is_file()
        return None if known else f"there is no image {name}"


def _files_of(place: Path, encoding: str | None) -> _Files:
    if place.is_dir():
        return _Files(place, None)
    if place.suffix.lower() != ZIP_SUFFIX:
        raise DatasetError("expected a zip or a folder of images", file=place)
    with open_zip(place) as archive:
        members = all_members(archive, encoding)
    return _Files(place, {one.filename: one for one in members if not one.is_dir()})


class _TableReader:
    """Collects the images and texts of rows."""

    def __init__(self, table: Path, files: _Files, problems: Problems) -> None:
        self._table, self._files, self._problems = table, files, problems
        self._names: dict[Id, str | None] = {}  # of images; None for one that does not exist
        self._lines: dict[Id, int] = {}
        self._texts: dict[Id, tuple[str, Where]] = {}
        self._images_of: dict[Id, dict[Id, None]] = {}
        self._count = 0

    def add(self, row: _Row) -> None:
        """Add a row, or a problem."""
        where = Where(file=self._table.name, line=row.line)
        image_id = self._add_image(row, where)
        texts = list(usable_texts(row.text, f"line {row.line}", where, self._problems))
        if image_id is None:
            return
        for text in texts:
            text_id = id_of(row.text_id) if len(texts) == 1 else None
            if text_id is None:
                text_id = self._next_number()
            known, _ = self._texts.setdefault(text_id, (text, where))
            if known != text:
                reason = f"text {text_id} has other words in another row"
                self._problems.add(ProblemKind.DUPLICATE, where, reason)
            else:
                self._images_of.setdefault(text_id, {})[image_id] = None

    def _next_number(self) -> int:
        """A number that is not the id of a text."""
        self._count += 1
        while self._count - 1 in self._texts:
            self._count += 1
        return self._count - 1

    def _add_image(self, row: _Row, where: Where) -> Id | None:
        """The id of a row's image; None if there is none, after a problem was added."""
        reason = self._files.find(row.image)
        if reason is not None:
            self._problems.add(ProblemKind.NO_IMAGE, where, reason)
            return None
        image_id = id_of(row.image_id)
        if image_id is None:
            image_id = str(row.image)
        known = self._names.setdefault(image_id, row.image)
        if known != row.image:
            reason = f"image {image_id} is {known} in another row"
            self._problems.add(ProblemKind.DUPLICATE, where, reason)
            return None
        self._lines.setdefault(image_id, row.line)
        return image_id

    def store(self) -> ImageStore:
        """The images, in the order of the rows."""
        ids = list(self._names)
        names = [str(name) for name in self._names.values()]
        if self._files.members is None:
            lines = np.fromiter(self._lines.values(), np.int64, len(ids))
            return _NamedFiles(self._table, self._files.place, ids, names, lines)
        members = [self._files.members[with_slashes(name)] for name in names]
        images = ZipImages(self._files.place, self._files.place.name, members)
        images.ids = ids
        return images

    def text_rows(self) -> list[TextRow]:
        """The texts, in the order of the rows."""
        return [
            TextRow(text_id, text, tuple(self._images_of[text_id]), where)
            for text_id, (text, where) in self._texts.items()
        ]


class _NamedFiles(ImageStore):
    """Images in a folder, with other ids than their names."""

    def __init__(
        self,
        table: Path,
        folder: Path,
        ids: list[Id],
        names: Iterable[str],
        lines: NDArray[np.int64],
    ) -> None:
        self.ids = ids
        self._table, self._folder, self._names, self._lines = table, folder, list(names), lines

    def content(self, number: int) -> Content:
        return located_inside(self._names[number], self._folder)

    def where(self, number: int) -> Where:
        return Where(file=self._table.name, line=int(self._lines[number]))
