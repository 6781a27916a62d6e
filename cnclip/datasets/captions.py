"""Data sets in which each image has its texts: tables with image files, tar and Parquet files.

A table (JSON Lines, JSON or CSV, `metadata.jsonl` as Hugging Face's imagefolder) has a column of
file names and one of texts; an image's id is its file name. A sample of a tar file has a `.txt`, or
a `.json` with such a column; its id is its name. A Parquet file has a column of images and one of
texts; an image's id is the number of its row. A text's id is its number.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .._encoding import decode
from .._text import first_line, is_utf8, value_text
from ..errors import ImageError, Where
from ..sources.image_names import ImageNames
from ..sources.images import Content, ImageStore, Slices, expand, located_inside
from ..sources.parquet_files import (
    PARQUET_SUFFIX,
    DamagedParquet,
    ParquetTable,
    RowGroup,
    RowGroups,
)
from ..sources.rows import IMAGE_COLUMNS, TEXT_COLUMNS, Columns, Id, ProblemKind, Problems
from ..sources.tables import TextFormat, parse_object, read_table
from ..sources.tar_files import TAR_SUFFIX, Sample, read_tar, refuse_compressed
from .retrieval import RetrievalData, TextRow, usable_texts

METADATA = ("metadata.jsonl", "metadata.csv")
# Hugging Face's `train-00000-of-00004`, or a usual name at the beginning of the file's name.
_NUMBERED = re.compile(r"(.+?)-\d{5}-of-\d{5}")
_NAMED = re.compile(
    r"(train|training|val|valid|validation|dev|eval|test|testing)(?![a-z])", re.IGNORECASE
)
_COLUMNS = Columns(
    image=IMAGE_COLUMNS, text=TEXT_COLUMNS, hint="; rename the columns to file_name and text"
)


class CaptionedData(RetrievalData):
    """A split whose files are read once, before anything is yielded.

    The texts are kept in memory, and the image that each describes; the images are not.
    """

    turns_images = True

    def __init__(self, place: Path, name: str, split: str, encoding: str | None = None) -> None:
        super().__init__(place, name, split or "all", encoding)
        self._files = self._find_files(split)
        self._found: tuple[ImageStore, Problems] | None = None
        self._texts: list[str] = []
        self._image_of = array("q")

    @abstractmethod
    def _find_files(self, split: str) -> list[Path]: ...

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


def _table(place: Path) -> Path | None:
    """The table: the path itself; or in a folder the one of a usual name, or the only one."""
    if not place.is_dir():
        return place if place.is_file() else None
    for name in METADATA:
        if (place / name).is_file():
            return place / name
    for kind in ("*.jsonl", "*.csv", "*.json"):
        files = list(place.glob(kind))
        if len(files) == 1:
            return files[0]
    return None


class FolderData(CaptionedData):
    """A table, and images in its folder."""

    @staticmethod
    def splits(place: Path) -> list[str]:
        """The folders with a table, or an empty name."""
        if _table(place) is not None:
            return [""]
        return sorted({path.parent.name for name in METADATA for path in place.glob(f"*/{name}")})

    def _find_files(self, split: str) -> list[Path]:
        table = _table(self._place) or _table(self._place / split)
        assert table is not None  # splits found it
        return [table]

    def _read(self, problems: Problems) -> ImageStore:
        (table,) = self._files
        ids: list[Id] = []
        lines = array("q")
        # None for a file that does not exist.
        numbers: dict[str, int | None] = {}
        format = TextFormat(self.encoding)
        for row in read_table(table, table.name, _COLUMNS, problems, format):
            where = Where(file=table.name, line=row.number)
            name = row.image
            if not isinstance(name, str) or not name or "\0" in name or not is_utf8(name):
                reason = f"column of images: expected a file's name, found {value_text(name)}"
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

    def tables(self) -> list[Path]:
        """The table."""
        return self._files

    def files(self) -> list[Path]:
        """The table and the images."""
        images = self.locate(Problems())
        contents = (images.content(number) for number in range(len(images.ids)))
        return [*self._files, *(content for content in contents if isinstance(content, Path))]


def _exists(name: str, folder: Path, where: Where, problems: Problems) -> bool:
    try:
        place = located_inside(name, folder)
    except ImageError as error:
        problems.add(ProblemKind.NO_IMAGE, where, f"column of images: {error.reason}")
        return False
    # Path.is_file would raise for a name that is too long.
    if isinstance(place, Path) and not os.path.isfile(place):
        problems.add(ProblemKind.NO_IMAGE, where, f"there is no image {name}")
        return False
    return True


class _FolderImages(ImageStore):
    def __init__(self, table: Path, names: list[Id], lines: NDArray[np.int64]) -> None:
        self.ids = names
        self._table, self._lines = table, lines

    def content(self, number: int) -> Content:
        return located_inside(str(self.ids[number]), self._table.parent)

    def where(self, number: int) -> Where:
        return Where(file=self._table.name, line=int(self._lines[number]))


class ShardedData(CaptionedData):
    """One or several files of a kind, a folder or a pattern of them."""

    suffix: ClassVar[str]

    @classmethod
    def splits(cls, place: Path) -> list[str]:
        """The splits of the files."""
        return list(_files_by_split(place, cls.suffix))

    def _find_files(self, split: str) -> list[Path]:
        found = _files_by_split(self._place, self.suffix)
        return found[split if split in found else ""]


def _files_by_split(place: Path, suffix: str) -> dict[str, list[Path]]:
    """The files by their splits; an empty name for files that are not split.

    Args:
        place: A file; a folder with files, in it, in `data/` or in a folder for each split; or a
            pattern, `shards/*.tar` or `shards/{000..012}.tar`.
        suffix: The suffix of the files.

    Raises:
        DatasetError: a file that a pattern names does not exist.
    """
    if not place.is_dir():
        return _by_split([place] if place.exists() else expand(str(place)))
    for folder in (place, place / "data"):
        if files := _files(folder, suffix):
            return _by_split(files)
    folders = (path for path in place.iterdir() if path.is_dir())
    return {path.name: files for path in sorted(folders) if (files := _files(path, suffix))}


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    names = [_NUMBERED.match(path.name) or _NAMED.match(path.name) for path in files]
    if not any(names):
        return {"": files}
    found: dict[str, list[Path]] = {}
    for path, name in zip(files, names, strict=True):
        found.setdefault(name[1] if name else path.stem, []).append(path)
    return found


def _short_names(files: list[Path]) -> list[str]:
    """The names of files in messages: their paths from the folder that they share."""
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in files])
    return [os.path.relpath(path, folder) for path in files]


class TarData(ShardedData):
    """Tar files as WebDataset makes them."""

    suffix = TAR_SUFFIX

    @classmethod
    def splits(cls, place: Path) -> list[str]:
        """The splits of the files.

        Raises:
            DatasetError: there are only compressed tar files.
        """
        found = super().splits(place)
        if not found and place.is_dir():
            refuse_compressed(*sorted(place.glob("*.t*")))
        return found

    def _read(self, problems: Problems) -> ImageStore:
        names = _short_names(self._files)
        images = Slices(self._files, names)
        image_names = ImageNames()
        for number, (path, name) in enumerate(zip(self._files, names, strict=True)):
            samples = read_tar(
                path, name, problems, texts=True, encoding=self.encoding, names=image_names
            )
            for key, sample in samples.items():
                if sample.texts is None and _belongs_to_another(key, samples):
                    continue
                where = Where(file=name, member=key)
                texts = list(sample_texts(sample, key, where, problems, self.encoding))
                if sample.image is None:
                    reason = f"no image with the text: {key}.jpg or the like"
                    problems.add(ProblemKind.NO_IMAGE, where, reason)
                    continue
                self._add_texts(texts, len(images.ids))
                images.add(key, *sample.image, file=number)
        # Other members, such as `.cls`, are usual parts of samples.
        image_names.report(problems, Where(file=self.name), all_kinds=False)
        return images


def _belongs_to_another(key: str, samples: dict[str, Sample]) -> bool:
    """Whether an image without a text is a part of a sample, as `7.depth.png` of `7.jpg`."""
    while "." in key.rpartition("/")[2]:
        key = key.rpartition(".")[0]
        if key in samples and samples[key].image is not None:
            return True
    return False


def sample_texts(
    sample: Sample, key: str, where: Where, problems: Problems, encoding: str | None
) -> Iterator[str]:
    """The texts of a sample: the `.txt`, or else the texts in the `.json`."""
    contents = sample.texts or {}
    for suffix in ("txt", "json"):
        if suffix not in contents:
            continue
        try:
            text, decoded = decode(contents[suffix], encoding)
        except UnicodeError as error:
            problems.add(ProblemKind.NOT_UTF8, where, f"the text is {first_line(error)}")
            return
        if decoded.remark is not None:  # once for all texts of the file
            archive = Where(file=where.file)
            problems.add(ProblemKind.ENCODING, archive, f"texts: {decoded.remark}", skipped=False)
        break
    if "txt" in contents:
        yield from usable_texts(text.strip(), key, where, problems)
    elif "json" in contents:
        value = parse_object(text.encode())
        if isinstance(value, dict):
            column = _COLUMNS.choose(value).text
            found = None if column is None else value[column]
            yield from usable_texts(found, key, where, problems)
        else:
            problems.add(value[0], where, value[1])
    elif sample.image is not None:
        reason = "no text with the image: .txt or .json"
        problems.add(ProblemKind.NO_TEXT, where, reason, skipped=False)


class ParquetData(ShardedData):
    """Parquet files, as Hugging Face's data sets."""

    suffix = PARQUET_SUFFIX

    def _read(self, problems: Problems) -> ImageStore:
        groups: list[RowGroup] = []
        starts = [0]
        for path, name in zip(self._files, _short_names(self._files), strict=True):
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
        return RowGroups(groups, starts)
