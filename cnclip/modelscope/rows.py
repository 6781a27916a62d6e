"""Rows of a data set of images and texts, with the interface of `datasets.Dataset` for them.

Images are decoded when a row is read. `MsDataset` and the trainer use these rows.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._checks import requires_extra
from .._text import counted
from ..datasets.captions import FolderData, ParquetData
from ..datasets.indexed import (
    FILE_SUFFIX,
    IMAGE_IDS,
    IMAGE_NAMES,
    TEXT_IDS,
    TEXT_NAMES,
    FolderTable,
    TableData,
)
from ..datasets.pairs import PairData
from ..datasets.retrieval import RetrievalData
from ..errors import DatasetError, ImageError, InputTypeError, InvalidInputError, Where
from ..preprocessors.decoding import decode_image
from ..sources.images import read_inner
from ..sources.parquet_files import DamagedParquet, ParquetTable
from ..sources.rows import IMAGE_COLUMNS, TEXT_COLUMNS, Chosen, Columns, Id, Problems
from ..sources.tables import TextFormat, column_names

Row = dict[str, Any]
# Places of the columns of a `PairPart`, and their usual names, which are those of MUGE.
TEXT, TEXT_ID, IMAGE, IMAGE_ID = range(4)
USUAL = ["query", "query_id", "image", "image_id"]


class ListPart(NamedTuple):
    """The items of a list, in one column."""

    items: list[Any]

    @property
    def size(self) -> int:
        """The number of items."""
        return len(self.items)

    def value(self, number: int, place: int) -> Any:
        """An item."""
        return self.items[number]


class PairPart(NamedTuple):
    """The pairs of a data set; a text with several images has several rows.

    Attributes:
        pairs: The pairs.
        ids: By the places of columns, ids that the pairs do not have: one for each image number.
    """

    pairs: PairData
    ids: dict[int, Sequence[Any]]

    @property
    def size(self) -> int:
        """The number of pairs."""
        return len(self.pairs.pairs)

    def value(self, number: int, place: int) -> Any:
        """The value of a pair in a column."""
        image, text = self.pairs.pairs[number].tolist()
        if place in self.ids:
            return self.ids[place][image]
        if place == TEXT:
            return self.pairs.texts[text]
        if place == TEXT_ID:
            return self.pairs.text_ids[text]
        return self.pairs.image_ids[image] if place == IMAGE_ID else self.image(image)

    def image(self, image: int) -> Image.Image:
        """An image by its number."""
        try:
            content = self.pairs.read(image)
            if isinstance(content, Image.Image):
                return content
            return decode_image(read_inner(content), turned=self.pairs.turns_images)
        except ImageError as error:
            raise error.at(self.pairs.where(image)) from error

    def file(self, number: int) -> Any:
        """The image of a pair for `datasets`: its file, not decoded, if it has one."""
        content = self.pairs.read(int(self.pairs.pairs[number, 0]))
        if isinstance(content, Image.Image):
            return content
        return {"bytes": read_inner(content), "path": None}


class Rows:
    """Rows by their numbers. An index is an int, a slice, several ints, or a column's name.

    Attributes:
        parts: Where the rows are, one part after another.
        column_names: The names of the columns.
        numbers: int64 [n], the numbers of the rows in the parts.
    """

    def __init__(
        self,
        parts: Sequence[ListPart | PairPart],
        columns: Sequence[str],
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        self.parts, self.column_names = parts, list(columns)
        self._ends = np.cumsum([part.size for part in parts])
        self.numbers = np.arange(self._ends[-1]) if numbers is None else numbers

    @staticmethod
    def joined(some: Sequence[Rows]) -> Rows:
        """The rows of several, one after another."""
        names = some[0].column_names
        parts: list[ListPart | PairPart] = []
        numbers, start = [], 0
        for rows in some:
            if rows.column_names != names:
                columns = " and ".join(", ".join(one) for one in (names, rows.column_names))
                raise DatasetError(f"the splits have different columns: {columns}")
            parts += rows.parts
            numbers.append(rows.numbers + start)
            start += int(rows._ends[-1])
        return Rows(parts, names, np.concatenate(numbers))

    @cached_property
    def pairs(self) -> PairData | None:
        """The pairs, for training, where one data set has them."""
        if len(self.parts) != 1 or not isinstance(self.parts[0], PairPart):
            return None
        pairs = self.parts[0].pairs
        is_whole = len(self) == len(pairs.pairs) and bool((np.diff(self.numbers) == 1).all())
        return pairs if is_whole else pairs.select(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        return len(self), len(self.column_names)

    def _located(self, number: int) -> tuple[Any, int]:
        """The part that has a row, and the row's number in it."""
        place = int(self.numbers[number])
        index = int(np.searchsorted(self._ends, place, side="right"))
        part = self.parts[index]
        return part, place - int(self._ends[index]) + part.size

    def _value(self, number: int, column: str) -> Any:
        part, place = self._located(number)
        return part.value(place, self.column_names.index(column))

    def __getitem__(self, key: Any) -> Any:
        """A row as a dict; the values of a column as a list; or of several rows a dict of lists."""
        if isinstance(key, str):
            if key not in self.column_names:
                raise KeyError(f"no column {key!r}; it has {', '.join(self.column_names)}")
            return [self._value(number, key) for number in range(len(self))]
        if isinstance(key, slice):
            return self._columns(range(*key.indices(len(self))))
        if isinstance(key, Iterable):
            return self._columns([self._number(one) for one in key])
        return self._row(self._number(key))

    def __iter__(self) -> Iterator[Row]:
        return (self._row(number) for number in range(len(self)))

    def _number(self, index: Any) -> int:
        number = _integer(index)
        if not -len(self) <= number < len(self):
            raise IndexError(self._no_row(number))
        return number % len(self)

    def _no_row(self, number: int) -> str:
        return f"no row {number}: there are {len(self)}"

    def _row(self, number: int) -> Row:
        return {name: self._value(number, name) for name in self.column_names}

    def _columns(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        return {name: [self._value(n, name) for n in numbers] for name in self.column_names}

    def select(self, indices: Iterable[int]) -> Rows:
        """Some of the rows, by their numbers."""
        found = np.fromiter(map(_integer, indices), np.int64)
        outside = found[(found < -len(self)) | (found >= len(self))]
        if len(outside):
            raise InvalidInputError(self._no_row(int(outside[0])), item="indices")
        return Rows(self.parts, self.column_names, self.numbers[found])

    def shuffle(self, seed: int | None = None) -> Rows:
        """The rows in random order."""
        return self.select(np.random.default_rng(seed).permutation(len(self)))

    def take(self, n: int) -> Rows:
        """The first `n` rows, or all."""
        return self.select(range(min(n, len(self))))

    def skip(self, n: int) -> Rows:
        """The rows after the first `n`."""
        return self.select(range(min(n, len(self)), len(self)))

    def rename_columns(self, column_mapping: Mapping[str, str]) -> Rows:
        """The rows with other names of columns, old names to new ones."""
        for name in column_mapping:
            if name not in self.column_names:
                raise DatasetError(f"no column {name!r}; it has {', '.join(self.column_names)}")
        names = [column_mapping.get(name, name) for name in self.column_names]
        if len(set(names)) < len(names):
            raise DatasetError(f"two columns would have the same name: {', '.join(names)}")
        return Rows(self.parts, names, self.numbers)

    def rename_column(self, original_column_name: str, new_column_name: str) -> Rows:
        """The rows with another name of a column; raises as `rename_columns`."""
        return self.rename_columns({original_column_name: new_column_name})

    def to_hf_dataset(self) -> Any:
        """The rows as a `datasets.Dataset`, which copies the images' files into its cache."""
        with requires_extra("datasets", "datasets"):
            import datasets
        if isinstance(self.parts[0], ListPart):
            return datasets.Dataset.from_dict({self.column_names[0]: self[self.column_names[0]]})
        ids = [self.column_names[place] for place in (TEXT_ID, IMAGE_ID)]
        integers = {name for name in ids if all(isinstance(one, int) for one in self[name])}
        features = {name: datasets.Value("string") for name in self.column_names}
        features |= dict.fromkeys(integers, datasets.Value("int64"))
        features[self.column_names[IMAGE]] = datasets.Image()
        return datasets.Dataset.from_generator(
            _file_rows,
            features=datasets.Features(features),
            gen_kwargs={"rows": self, "strings": [name for name in ids if name not in integers]},
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self), 'rows')}: {self.column_names})"


def _integer(index: Any) -> int:
    try:
        return operator.index(index)
    except TypeError as error:
        reason = f"expected a row's number or a column's name, got {type(index).__name__}"
        raise InputTypeError(reason, item="index") from error


def _file_rows(rows: Rows, strings: list[str]) -> Iterator[Row]:
    """The rows with the files of images, not decoded; `strings` are columns of ids."""
    image = rows.column_names[IMAGE]
    for number in range(len(rows)):
        part, place = rows._located(number)
        values = {
            name: part.value(place, column)
            for column, name in enumerate(rows.column_names)
            if column != IMAGE
        }
        yield {image: part.file(place)} | values | {name: str(values[name]) for name in strings}


# --- Opening -------------------------------------------------------------------------------------


def open_rows(data: RetrievalData, problems: Problems) -> Rows:
    """The pairs of a data set, with the names that its columns have.

    Args:
        data: The data set.
        problems: Gets the rows that cannot be used, which are left out.
    """
    if isinstance(data, FolderData):
        data = FolderTable(data)
    pairs = PairData(data, problems)
    if isinstance(data, ParquetData):
        return _parquet_rows(pairs, data.files())
    names = _names_of_table(data) if isinstance(data, TableData) else USUAL
    return Rows([PairPart(pairs, {})], names)


def _names_of_table(data: TableData) -> list[str]:
    table, _ = data.sources()
    columns = Columns(image=IMAGE_NAMES, text=TEXT_NAMES)
    if table.suffix.lower() == ".txt":
        return USUAL
    found = column_names(table, table.name, columns, TextFormat(data.encoding))
    ids = [Columns(id=names).choose(found).id for names in (TEXT_IDS, IMAGE_IDS)]
    return _names(columns.choose(found), ids)


def _parquet_rows(pairs: PairData, files: list[Path]) -> Rows:
    """The rows of Parquet files, whose ids are in columns."""
    columns = Columns(image=IMAGE_COLUMNS, text=TEXT_COLUMNS)
    ids: dict[int, list[Any]] = {TEXT_ID: [], IMAGE_ID: []}
    names = USUAL
    for file in files:
        try:
            chosen = ParquetTable(file, file.name, columns).chosen
            of_text, of_image = (_ids_in(file, one) for one in (TEXT_IDS, IMAGE_IDS))
        except DamagedParquet:  # reported when the pairs were read
            continue
        names = _names(chosen, [of_text[0], of_image[0]])
        ids[TEXT_ID] += of_text[1]
        ids[IMAGE_ID] += of_image[1]
    number = len(pairs.image_ids)
    complete: dict[int, Sequence[Any]] = {
        place: values
        for place, values in ids.items()
        if len(values) == number and None not in values
    }
    return Rows([PairPart(pairs, complete)], names)


def _ids_in(file: Path, names: tuple[str, ...]) -> tuple[str | None, list[Any]]:
    """The column of ids of a Parquet file, and its values."""
    table = ParquetTable(file, file.name, Columns(id=names))
    name = table.chosen.id
    return name, [] if name is None else [row.id for row in table.read(Problems(), images=False)]


def _names(chosen: Chosen, ids: Sequence[str | None]) -> list[str]:
    """The names of rows' columns: the file's, but `image` for a column of file names."""
    image = (chosen.image or USUAL[IMAGE]).removesuffix(FILE_SUFFIX)
    image = USUAL[IMAGE] if image == "file_name" else image
    found = [chosen.text, ids[0], image, ids[1]]
    return [name or usual for name, usual in zip(found, USUAL, strict=True)]


# --- Rows of other software -----------------------------------------------------------------------


class RowPairs(PairData):
    """Pairs out of rows that other software made: any sequence of dicts with an image and a text.

    The texts are read once. An image is read from its row when it is needed.
    """

    def __init__(self, rows: Any, name: str, split: str, image: str, text: str) -> None:
        """Take the rows, names for messages, and the names of the two columns."""
        self._rows, self._column = rows, image
        self.name, self.split = name, split
        self.turns_images = False
        self.texts = _texts_of(rows, text, image, name)
        self.text_ids = list(range(len(self.texts)))
        self.image_ids: Sequence[Id] = range(len(self.texts))
        self.groups = None
        numbers = np.arange(len(self.texts), dtype=np.int64)
        self.pairs = np.stack([numbers, numbers], axis=1)
        self.fingerprint = self._fingerprint([])

    def read(self, image: int) -> bytes | Path | Image.Image:
        """The image of a row: decoded already, or a file's bytes or path."""
        value = self._rows[image][self._column]
        if isinstance(value, Mapping):  # Hugging Face's image that is not decoded
            value = value.get("bytes") or value.get("path")
        if isinstance(value, Image.Image | bytes | Path):
            return value
        if isinstance(value, str):
            return Path(value)
        if isinstance(value, np.ndarray):
            return Image.fromarray(value)
        raise ImageError(f"expected an image, found {type(value).__name__}", self.where(image))

    def where(self, image: int) -> Where:
        """The number of a row, from 1."""
        return Where(file=self.name, line=image + 1)


def _texts_of(rows: Any, text: str, image: str, name: str) -> list[str]:
    count = len(rows)
    if count == 0:
        raise DatasetError("there are no rows", item=name)
    first = rows[0]
    if not isinstance(first, Mapping):
        reason = f"expected rows that are dicts, found {type(first).__name__}"
        raise DatasetError(reason, item=name)
    check_columns(list(first), image, text, name)
    columns = getattr(rows, "column_names", None)
    # Of a table of Hugging Face, a column is read without its images.
    texts = rows[text] if columns else (rows[number][text] for number in range(count))
    found = []
    for number, value in enumerate(texts, 1):
        if not isinstance(value, str) or not value.strip():
            raise DatasetError(
                f"column {text!r}: expected a text, found {value!r:.60}", file=name, line=number
            )
        found.append(value)
    return found


def check_columns(found: Sequence[str], image: str, text: str, name: str) -> None:
    """Refuse rows without the columns of images and texts that are wanted."""
    for kind, wanted in (("img", image), ("text", text)):
        if wanted not in found:
            raise DatasetError(
                f"column_map: no column {wanted!r} for {kind!r}; it has {', '.join(found)}",
                item=name,
            )
