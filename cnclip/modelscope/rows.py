"""Rows of a data set of images and texts, with the interface of `datasets.Dataset` for them.

Images are decoded when a row is read. `MsDataset` and the trainer use these rows.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

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


class Names(NamedTuple):
    """The names of the columns of rows; those of MUGE by default."""

    text: str = "query"
    text_id: str = "query_id"
    image: str = "image"
    image_id: str = "image_id"


class Rows(ABC):
    """Rows by their numbers. An index is an int, a slice, several ints, or a column's name.

    Attributes:
        column_names: The names of the columns.
    """

    column_names: list[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def value(self, number: int, column: str) -> Any:
        """The value of a row in a column.

        Raises:
            ImageError: it is an image that cannot be read. The error has its place.
        """

    @abstractmethod
    def select(self, indices: Iterable[int]) -> Self:
        """Some of the rows, by their numbers.

        Raises:
            InvalidInputError: there is no such row.
        """

    @abstractmethod
    def rename_columns(self, column_mapping: Mapping[str, str]) -> Self:
        """The rows with other names of columns, old names to new ones.

        Raises:
            DatasetError: there is no such column, or two would have the same name.
        """

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        return len(self), len(self.column_names)

    def __getitem__(self, key: Any) -> Any:
        """A row as a dict; the values of a column as a list; or of several rows a dict of lists.

        Raises:
            IndexError: there is no such row.
            KeyError: there is no such column.
            ImageError: an image cannot be read.
        """
        if isinstance(key, str):
            if key not in self.column_names:
                raise KeyError(f"no column {key!r}; it has {', '.join(self.column_names)}")
            return [self.value(number, key) for number in range(len(self))]
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

    def numbers(self, indices: Iterable[int]) -> NDArray[np.int64]:
        """The numbers of rows: int64 [n], from 0.

        Raises:
            InvalidInputError: there is no such row.
        """
        found = np.fromiter(map(_integer, indices), np.int64)
        outside = found[(found < -len(self)) | (found >= len(self))]
        if len(outside):
            raise InvalidInputError(self._no_row(int(outside[0])), item="indices")
        return np.where(found < 0, found + len(self), found)

    def _row(self, number: int) -> Row:
        return {name: self.value(number, name) for name in self.column_names}

    def _columns(self, numbers: Iterable[int]) -> dict[str, list[Any]]:
        chosen = list(numbers)
        return {name: [self.value(n, name) for n in chosen] for name in self.column_names}

    def shuffle(self, seed: int | None = None) -> Self:
        """The rows in random order."""
        return self.select(np.random.default_rng(seed).permutation(len(self)).tolist())

    def take(self, n: int) -> Self:
        """The first `n` rows, or all."""
        return self.select(range(min(n, len(self))))

    def skip(self, n: int) -> Self:
        """The rows after the first `n`."""
        return self.select(range(min(n, len(self)), len(self)))

    def rename_column(self, original_column_name: str, new_column_name: str) -> Self:
        """The rows with another name of a column; raises as `rename_columns`."""
        return self.rename_columns({original_column_name: new_column_name})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self), 'rows')}: {self.column_names})"


def _integer(index: Any) -> int:
    try:
        return operator.index(index)
    except TypeError as error:
        reason = f"expected a row's number or a column's name, got {type(index).__name__}"
        raise InputTypeError(reason, item="index") from error


def renamed(names: Sequence[str], mapping: Mapping[str, str]) -> list[str]:
    """Names of columns after some of them were changed.

    Raises:
        DatasetError: there is no such column, or two would have the same name.
    """
    for name in mapping:
        if name not in names:
            raise DatasetError(f"no column {name!r}; it has {', '.join(names)}")
    found = [mapping.get(name, name) for name in names]
    if len(set(found)) < len(found):
        raise DatasetError(f"two columns would have the same name: {', '.join(found)}")
    return found


class ListRows(Rows):
    """The items of a list, in one column."""

    def __init__(self, items: Sequence[Any], column: str) -> None:
        self.column_names = [column]
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    def value(self, number: int, column: str) -> Any:
        """An item."""
        return self._items[number]

    def select(self, indices: Iterable[int]) -> Self:
        """Some of the items."""
        items = [self._items[number] for number in self.numbers(indices)]
        return type(self)(items, self.column_names[0])

    def rename_columns(self, column_mapping: Mapping[str, str]) -> Self:
        """The items with another name of their column."""
        return type(self)(self._items, renamed(self.column_names, column_mapping)[0])


class PairRows(Rows):
    """The pairs of a data set; a text with several images has several rows.

    Attributes:
        pairs: The pairs, for training.
        names: The names of the columns.
    """

    def __init__(
        self, pairs: PairData, names: Names, ids: dict[str, Sequence[Any]] | None = None
    ) -> None:
        """Take the pairs, the names of the columns, and ids that the pairs do not have.

        `ids` has, by the name of a column, a value for each image number.
        """
        self.pairs, self.names, self._ids = pairs, names, ids or {}
        self.column_names = list(names)

    def __len__(self) -> int:
        return len(self.pairs.pairs)

    def value(self, number: int, column: str) -> Any:
        """The value of a pair in a column, see `Rows.value`."""
        image, text = self.pairs.pairs[number].tolist()
        if column in self._ids:
            return self._ids[column][image]
        if column == self.names.text:
            return self.pairs.texts[text]
        if column == self.names.text_id:
            return self.pairs.text_ids[text]
        return self.pairs.image_ids[image] if column == self.names.image_id else self.image(image)

    def image(self, image: int) -> Image.Image:
        """An image by its number.

        Raises:
            ImageError: it cannot be read. The error has its place.
        """
        try:
            content = self.pairs.read(image)
            if isinstance(content, Image.Image):
                return content
            return decode_image(read_inner(content), turned=self.pairs.turns_images)
        except ImageError as error:
            raise error.at(self.pairs.where(image)) from error

    def select(self, indices: Iterable[int]) -> Self:
        """Some of the pairs, see `Rows.select`."""
        return self.numbered(self.numbers(indices))

    def numbered(self, numbers: NDArray[np.int64]) -> Self:
        """Some of the pairs, whose numbers were checked."""
        return type(self)(self.pairs.select(numbers), self.names, self._ids)

    def rename_columns(self, column_mapping: Mapping[str, str]) -> Self:
        """The pairs with other names of columns, see `Rows.rename_columns`."""
        found = renamed(self.column_names, column_mapping)
        new = dict(zip(self.column_names, found, strict=True))
        ids = {new[name]: values for name, values in self._ids.items()}
        return type(self)(self.pairs, Names(*found), ids)

    def to_hf_dataset(self) -> Any:
        """The rows as a `datasets.Dataset`, which copies the images' files into its cache.

        Raises:
            MissingExtraError: datasets is not installed.
            ImageError: an image cannot be read.
        """
        with requires_extra("datasets", "datasets"):
            import datasets
        ids = (self.names.text_id, self.names.image_id)
        integers = {name for name in ids if all(isinstance(one, int) for one in self[name])}
        features = {name: datasets.Value("string") for name in self.column_names}
        features |= dict.fromkeys(integers, datasets.Value("int64"))
        features[self.names.image] = datasets.Image()
        return datasets.Dataset.from_generator(
            _file_rows,
            features=datasets.Features(features),
            gen_kwargs={"rows": self, "strings": [name for name in ids if name not in integers]},
        )


def _file_rows(rows: PairRows, strings: list[str]) -> Iterator[Row]:
    """The rows with the files of images, not decoded; `strings` are columns of ids."""
    names = [name for name in rows.column_names if name != rows.names.image]
    for number in range(len(rows)):
        content = rows.pairs.read(int(rows.pairs.pairs[number, 0]))
        file: Any = content
        if not isinstance(content, Image.Image):
            file = {"bytes": read_inner(content), "path": None}
        values = {name: rows.value(number, name) for name in names}
        values |= {name: str(values[name]) for name in strings}
        yield {rows.names.image: file} | values


# --- Opening -------------------------------------------------------------------------------------


def open_rows(data: RetrievalData, problems: Problems) -> PairRows:
    """The pairs of a data set, with the names that its columns have.

    Args:
        data: The data set.
        problems: Gets the rows that cannot be used, which are left out.

    Raises:
        DatasetError: it cannot be read in any order, lacks a column, or nothing in it can be used.
    """
    if isinstance(data, FolderData):
        data = FolderTable(data)
    pairs = PairData(data, problems)
    if isinstance(data, TableData):
        return PairRows(pairs, _names_of_table(data))
    if isinstance(data, ParquetData):
        return _parquet_rows(pairs, data.files())
    return PairRows(pairs, Names())


def _names_of_table(data: TableData) -> Names:
    table, _ = data.sources()
    columns = Columns(image=IMAGE_NAMES, text=TEXT_NAMES)
    if table.suffix.lower() == ".txt":
        return Names()
    found = column_names(table, table.name, columns, TextFormat(data.encoding))
    return _names(columns.choose(found), _id_columns(found))


def _parquet_rows(pairs: PairData, files: list[Path]) -> PairRows:
    """The rows of Parquet files, whose ids are in columns."""
    columns = Columns(image=IMAGE_COLUMNS, text=TEXT_COLUMNS)
    ids: dict[str, list[Any]] = {}
    names = Names()
    for file in files:
        try:
            chosen = ParquetTable(file, file.name, columns).chosen
            of_text = _ids_in(file, TEXT_IDS)
            of_image = _ids_in(file, IMAGE_IDS)
        except DamagedParquet:  # reported when the pairs were read
            continue
        names = _names(chosen, (of_text[0], of_image[0]))
        for name, values in ((names.text_id, of_text[1]), (names.image_id, of_image[1])):
            ids.setdefault(name, []).extend(values)
    number = len(pairs.image_ids)
    complete = {
        name: values for name, values in ids.items() if len(values) == number and None not in values
    }
    return PairRows(pairs, names, dict(complete))


def _ids_in(file: Path, names: tuple[str, ...]) -> tuple[str | None, list[Any]]:
    """The column of ids of a Parquet file, and its values."""
    table = ParquetTable(file, file.name, Columns(id=names))
    name = table.chosen.id
    return name, [] if name is None else [row.id for row in table.read(Problems(), images=False)]


def _id_columns(found: Sequence[str]) -> tuple[str | None, str | None]:
    text_id = Columns(id=TEXT_IDS).choose(found).id
    return text_id, Columns(id=IMAGE_IDS).choose(found).id


def _names(chosen: Chosen, ids: tuple[str | None, str | None]) -> Names:
    """The names of rows' columns: the file's, but `image` for a column of file names."""
    usual = Names()
    image = (chosen.image or usual.image).removesuffix(FILE_SUFFIX)
    image = usual.image if image == "file_name" else image
    return Names(
        chosen.text or usual.text, ids[0] or usual.text_id, image, ids[1] or usual.image_id
    )


# --- Rows of other software -----------------------------------------------------------------------


class RowPairs(PairData):
    """Pairs out of rows that other software made: any sequence of dicts with an image and a text.

    The texts are read once. An image is read from its row when it is needed.
    """

    def __init__(self, rows: Any, name: str, split: str, image: str, text: str) -> None:
        """Take the rows, names for messages, and the names of the two columns.

        Raises:
            DatasetError: there are no rows, or a row lacks a column or has no text.
        """
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
    """Refuse rows without the columns of images and texts that are wanted.

    Raises:
        DatasetError: a column is missing.
    """
    for kind, wanted in (("img", image), ("text", text)):
        if wanted not in found:
            raise DatasetError(
                f"column_map: no column {wanted!r} for {kind!r}; it has {', '.join(found)}",
                item=name,
            )
