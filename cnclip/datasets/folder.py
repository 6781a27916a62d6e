"""A folder of images with a JSON Lines or CSV file, as Hugging Face's imagefolder.

`metadata.jsonl` has a line for each image, `{"file_name": "1.jpg", "text": "一只猫"}`; `text` may
be a list. `metadata.csv` begins with the columns' names, `file_name,text`; an image with several
texts has several rows. An image's id is its file name, a text's id its number.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .ids import Id
from .lines import line_number, read_objects
from .problems import Problems
from .retrieval import ImageRow, RetrievalData, TextRow
from .stores import ImageStore

METADATA = ("metadata.jsonl", "metadata.csv")
IMAGE_KEYS = ("file_name", "image", "path", "file", "filepath", "img", "图片")
TEXT_KEYS = ("text", "texts", "caption", "captions", "label", "title", "文本")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout; an empty name for what is not split."""
    if _metadata(place) is not None:
        return [""]
    return sorted({path.parent.name for name in METADATA for path in place.glob(f"*/{name}")})


def _metadata(place: Path) -> Path | None:
    """The file of rows: the one that was given; or a folder's, of a usual name, or the only one."""
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


class FolderData(RetrievalData):
    """A split in this layout."""

    turns_images = True

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split or "all")
        metadata = _metadata(place) or _metadata(place / split)
        assert metadata is not None  # `splits` saw it
        self._metadata = metadata

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts, numbered."""
        number = 0
        for where, image, value in self._rows(problems):
            for text in usable_texts(value_of(value, TEXT_KEYS), image, where, problems):
                yield TextRow(number, text, (image,), where)
                number += 1

    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images that a line names and that are there, each once."""
        seen: set[str] = set()
        for where, image, _ in self._rows(problems):
            if image in seen:
                continue
            seen.add(image)
            path = self._metadata.parent / image
            if not path.is_file():
                problems.add(where, f"there is no image {image}")
                continue
            yield ImageRow(image, path, where)

    def locate(self, problems: Problems) -> ImageStore:
        """The images by their names."""
        names: list[Id] = []
        numbers = array("q")
        for row in self.images(problems):
            names.append(row.image_id)
            numbers.append(line_number(row.where))
        return _FolderImages(self._metadata, names, np.frombuffer(numbers, np.int64))

    def files(self) -> list[Path]:
        """The file of rows and the images."""
        return [
            self._metadata,
            *(row.content for row in self.images(Problems()) if isinstance(row.content, Path)),
        ]

    def _rows(self, problems: Problems) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for where, value in self._objects(problems):
            name = value_of(value, IMAGE_KEYS)
            if not isinstance(name, str) or not name or "\0" in name:
                problems.add(where, f"file_name: expected a file's name, found {name!r:.60}")
            elif leads_out(name):
                problems.add(where, f"file_name: {name!r:.60} leads out of the folder")
            else:
                yield where, name, value

    def _objects(self, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self._metadata
        try:
            if delimiter := _DELIMITERS.get(path.suffix.lower()):
                with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
                    yield from _read_table(text, delimiter, path.name, problems)
            else:
                with path.open("rb") as file:
                    yield from read_objects(file, path.name, problems)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error}") from error


class _FolderImages(ImageStore):
    def __init__(self, metadata: Path, names: list[Id], numbers: NDArray[np.int64]) -> None:
        """Take the images' names, and the number of the line that names each first."""
        self.ids = names
        self._metadata, self._numbers = metadata, numbers

    def content(self, image: int) -> Path:
        """The image's path."""
        return self._metadata.parent / str(self.ids[image])

    def where(self, image: int) -> str:
        """The file of rows and the line."""
        return f"{self._metadata.name}:{self._numbers[image]}"

    def files(self) -> Iterable[Path]:
        """The file of rows and the images."""
        yield self._metadata
        yield from map(self.content, range(len(self.ids)))


def value_of(row: dict[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of the keys that a row has."""
    return next((row[key] for key in keys if key in row), None)


def usable_texts(texts: Any, image: str, where: str, problems: Problems) -> Iterator[str]:
    """The strings that are not empty: one, or those of a list."""
    for text in texts if isinstance(texts, list) else [texts]:
        if not isinstance(text, str):
            problems.add(where, f"text: expected a string, found {text!r:.60}")
        elif not text.strip():
            problems.add(where, f"the text of {image} is empty")
        else:
            yield text


def leads_out(name: str) -> bool:
    """Whether a path that a data set names lies elsewhere than in the data set's folder."""
    return Path(name).is_absolute() or ".." in Path(name).parts


def _read_table(
    file: Iterable[str], delimiter: str, name: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a CSV file: (`name:number of the last line`, row). Damaged rows are named."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            problems.add(f"{name}:{reader.line_num}", f"not CSV: {error}")
            continue
        if row is None:
            return
        where = f"{name}:{reader.line_num}"
        if not any(field.strip() for field in row):
            continue
        if columns is None:
            columns = [field.strip() for field in row]
            _check_columns(columns, where)
        elif len(row) != len(columns):
            problems.add(where, f"expected {len(columns)} columns, found {len(row)}")
        elif not _is_utf8(row):
            problems.add(where, "not UTF-8")
        else:
            yield where, dict(zip(columns, row, strict=True))


def _is_utf8(row: list[str]) -> bool:
    """Whether it can be encoded; bytes that could not be decoded stand in it as surrogates."""
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_columns(columns: list[str], where: str) -> None:
    for what, keys in (("images", IMAGE_KEYS), ("texts", TEXT_KEYS)):
        if not set(columns) & set(keys):
            raise DatasetError(
                f"{where}: no column of {what} ({', '.join(keys)}); the first line must name the "
                f"columns, in UTF-8; found {columns!s:.200}"
            )
