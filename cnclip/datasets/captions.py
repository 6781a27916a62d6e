"""Data sets in which each image has its texts: tables with image files, tar and Parquet files.

A table (JSON Lines or CSV, `metadata.jsonl` as Hugging Face's imagefolder) has a column of file
names and one of texts; an image's id is its file name. A sample of a tar file has a `.txt`, or a
`.json` with such a column; its id is its name. A Parquet file has a column of images and one of
texts; an image's id is the number of its row. A text's id is its number.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, Where
from ..sources.columns import IMAGE_COLUMNS, TEXT_COLUMNS, Columns, Id
from ..sources.lines import BYTE_ORDER_MARK, parse_object
from ..sources.parquet_files import DamagedParquet, ParquetTable, RowGroup, RowGroups
from ..sources.problems import ProblemKind, Problems
from ..sources.refs import Content, ImageStore, located_inside
from ..sources.tables import read_table
from ..sources.tar_files import TAR_SUFFIX, Sample, read_tar, refuse_compressed, tar_images
from . import shards
from .retrieval import RetrievalData, TextRow, is_utf8, usable_texts

PARQUET_SUFFIX = ".parquet"
METADATA = ("metadata.jsonl", "metadata.csv")
_COLUMNS = Columns(image=IMAGE_COLUMNS, text=TEXT_COLUMNS)


class CaptionedData(RetrievalData):
    """A split whose files are read once, before anything is yielded.

    The numbers of texts and images are kept in memory, the images are not.
    """

    turns_images = True

    def __init__(self, name: str, split: str, files: list[Path]) -> None:
        super().__init__(name, split or "all")
        self._files = files
        self._found: tuple[ImageStore, Problems] | None = None
        self._texts: list[str] = []
        self._image_of = array("q")

    @abstractmethod
    def _read(self, problems: Problems) -> ImageStore:
        """Read the files: add the texts, return the images."""

    def _add_texts(self, texts: Iterable[str], image: int) -> None:
        for text in texts:
            self._texts.append(text)
            self._image_of.append(image)

    def locate(self, problems: Problems) -> ImageStore:
        """The images."""
        if self._found is None:
            found = Problems()
            self._found = (self._read(found), found)
        problems.add_all(self._found[1])
        return self._found[0]

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts, numbered."""
        images = self.locate(problems)
        for number, (text, image) in enumerate(zip(self._texts, self._image_of, strict=True)):
            yield TextRow(number, text, (images.ids[image],), images.where(image))

    def files(self) -> list[Path]:
        """The files."""
        return self._files

    def count_images(self) -> int | None:
        """The number of images, once the files were read."""
        return None if self._found is None else len(self._found[0].ids)


def folder_splits(place: Path) -> list[str]:
    """The splits in a folder with tables; an empty name for one that is not split."""
    if _table(place) is not None:
        return [""]
    return sorted({path.parent.name for name in METADATA for path in place.glob(f"*/{name}")})


def _table(place: Path) -> Path | None:
    """The table: the path itself; or in a folder the one of a usual name, or the only one."""
    if not place.is_dir():
        return place if place.is_file() else None
    for name in METADATA:
        if (place / name).is_file():
            return place / name
    for kind in ("*.jsonl", "*.csv"):
        files = list(place.glob(kind))
        if len(files) == 1:
            return files[0]
    return None


class FolderData(CaptionedData):
    """A table, and images in its folder."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        table = _table(place) or _table(place / split)
        assert table is not None  # folder_splits found it
        super().__init__(name, split, [table])

    def _read(self, problems: Problems) -> ImageStore:
        (table,) = self._files
        ids: list[Id] = []
        lines = array("q")
        # None for a file that does not exist.
        numbers: dict[str, int | None] = {}
        for row in read_table(table, table.name, _COLUMNS, problems):
            where = Where(file=table.name, line=row.number)
            name = row.image
            if not isinstance(name, str) or not name or "\0" in name or not is_utf8(name):
                reason = f"file_name: expected a file's name, found {name!r:.60}"
                problems.add(ProblemKind.NO_IMAGE, where, reason)
                continue
            if name not in numbers:
                numbers[name] = len(ids) if _exists(name, table.parent, where, problems) else None
                if numbers[name] is not None:
                    ids.append(name)
                    lines.append(row.number)
            texts = list(usable_texts(row.text, name, where, problems))
            number = numbers[name]
            if number is not None:
                self._add_texts(texts, number)
        return _FolderImages(table, ids, np.frombuffer(lines, np.int64))

    def files(self) -> list[Path]:
        """The table and the images."""
        return list(self.locate(Problems()).files())


def _exists(name: str, folder: Path, where: Where, problems: Problems) -> bool:
    try:
        place = located_inside(name, folder)
    except ImageError as error:
        problems.add(ProblemKind.NO_IMAGE, where, f"file_name: {error.reason}")
        return False
    if isinstance(place, Path) and not place.is_file():
        problems.add(ProblemKind.NO_IMAGE, where, f"there is no image {name}")
        return False
    return True


class _FolderImages(ImageStore):
    def __init__(self, table: Path, names: list[Id], lines: NDArray[np.int64]) -> None:
        """Take the images' names, and the number of the line that names each first."""
        self.ids = names
        self._table, self._lines = table, lines

    def content(self, number: int) -> Content:
        """The image's path."""
        return located_inside(str(self.ids[number]), self._table.parent)

    def where(self, number: int) -> Where:
        """The table and the line."""
        return Where(file=self._table.name, line=int(self._lines[number]))

    def files(self) -> Iterable[Path]:
        """The table and the images."""
        yield self._table
        for number in range(len(self.ids)):
            content = self.content(number)
            if isinstance(content, Path):
                yield content


def tar_splits(place: Path) -> list[str]:
    """The splits of tar files; an empty name for files that are not split.

    Raises:
        DatasetError: there are only compressed tar files, or not all that a pattern names.
    """
    found = list(shards.splits(place, TAR_SUFFIX))
    if not found and place.is_dir():
        refuse_compressed(*sorted(place.glob("*.t*")))
    return found


class TarData(CaptionedData):
    """Tar files as WebDataset makes them."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split, shards.files_of(place, TAR_SUFFIX, split))

    def _read(self, problems: Problems) -> ImageStore:
        names = shards.short_names(self._files)
        found: list[tuple[int, str, tuple[int, int]]] = []
        for number, (path, name) in enumerate(zip(self._files, names, strict=True)):
            for key, sample in read_tar(path, name, problems, texts=True).items():
                where = Where(file=name, member=key)
                texts = list(_sample_texts(sample, key, where, problems))
                if sample.image is None:
                    reason = f"no image with the text: {key}.jpg or the like"
                    problems.add(ProblemKind.NO_IMAGE, where, reason)
                    continue
                self._add_texts(texts, len(found))
                found.append((number, key, sample.image))
        return tar_images(self._files, names, found)


def _sample_texts(sample: Sample, key: str, where: Where, problems: Problems) -> Iterator[str]:
    contents = sample.texts or {}
    if "txt" in contents:
        try:
            text = contents["txt"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            reason = f"the text is not UTF-8: byte {error.start + 1}"
            problems.add(ProblemKind.NOT_UTF8, where, reason)
            return
        yield from usable_texts(text.strip(), key, where, problems)
    elif "json" in contents:
        value = parse_object(contents["json"].removeprefix(BYTE_ORDER_MARK))
        if isinstance(value, dict):
            column = _COLUMNS.choose(value).text
            found = None if column is None else value[column]
            yield from usable_texts(found, key, where, problems)
        else:
            problems.add(value[0], where, value[1])
    elif sample.image is not None:
        reason = "no text with the image: .txt or .json"
        problems.add(ProblemKind.NO_TEXT, where, reason, skipped=False)


def parquet_splits(place: Path) -> list[str]:
    """The splits of Parquet files; an empty name for files that are not split.

    Raises:
        DatasetError: a file that a pattern names does not exist.
    """
    return list(shards.splits(place, PARQUET_SUFFIX))


class ParquetData(CaptionedData):
    """Parquet files, as Hugging Face's data sets."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split, shards.files_of(place, PARQUET_SUFFIX, split))

    def _read(self, problems: Problems) -> ImageStore:
        groups: list[RowGroup] = []
        starts = [0]
        for path, name in zip(self._files, shards.short_names(self._files), strict=True):
            try:
                table = ParquetTable(path, name, _COLUMNS, inside=True)
            except DamagedParquet as error:
                problems.add(ProblemKind.DAMAGED, Where(file=name), error.reason)
                continue
            table.report_large_groups(problems)
            start = starts[-1]
            for row in table.read(problems, images=False):
                where = Where(file=name, line=row.number)
                image = start + row.number - 1
                self._add_texts(usable_texts(row.text, f"row {image}", where, problems), image)
            groups += table.groups
            starts += [start + end for end in table.ends]
        return RowGroups(self._files, groups, starts)
