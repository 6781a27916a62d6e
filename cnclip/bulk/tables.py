"""Lists and tables of images or texts: .txt, .jsonl, .csv, .tsv and Parquet files.

A .txt has one on each line; of the others one column is taken, of a usual name or of the one that
is asked for. An image is a path, a URL, or in Parquet a file's bytes as well; paths are those from
the table's folder.
"""

from __future__ import annotations

import csv
import io
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any, NamedTuple

from ..datasets import Problems
from ..datasets.folder import IMAGE_KEYS, TEXT_KEYS
from ..datasets.lines import read_lines, read_objects
from ..errors import DatasetError, ImageError, MissingExtraError
from .archives import Holder, spelled_id
from .items import Given, Item, Kind, file_item, printable, reason

ID_KEYS = ("id", "image_id", "text_id")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = frozenset({".txt", ".jsonl", ".parquet", *_DELIMITERS})
_URL = re.compile(r"(https?|file|data):", re.IGNORECASE)
# Texts or paths of a Parquet file that are in memory at once.
_ROWS_AT_ONCE = 4096


class Columns(NamedTuple):
    """Which columns are wanted; of several names the first that there is.

    Attributes:
        kind: What the values are.
        values: Names for the column of images or texts.
        ids: Names for the column of ids, which there need not be unless it was asked for.
        id_needed: Whether it was.
    """

    kind: Kind
    values: Sequence[str]
    ids: Sequence[str]
    id_needed: bool

    @classmethod
    def of(cls, kind: Kind, column: str | None, id_column: str | None) -> Columns:
        """The usual names, or those that were asked for."""
        usual = IMAGE_KEYS if kind == "images" else TEXT_KEYS
        return cls(
            kind,
            usual if column is None else (column,),
            ID_KEYS if id_column is None else (id_column,),
            id_column is not None,
        )

    def choose(self, names: Sequence[str], where: str) -> tuple[str, str | None]:
        """The names of both columns among those of a table.

        Raises:
            DatasetError: one is not there.
        """
        value = next((name for name in self.values if name in names), None)
        key = next((name for name in self.ids if name in names), None)
        for missing, wanted in ((value is None, self.values), (not key, self.ids)):
            if missing and (wanted is self.values or self.id_needed):
                found = ", ".join(names)
                raise DatasetError(f"{where}: no column {' or '.join(wanted)}; found {found:.300}")
        assert value is not None
        return value, key


class _Cell(NamedTuple):
    """A value of the column: where it stands, its id, and itself; or only what is wrong."""

    where: str
    id: Any
    value: Any
    error: str | None = None


def table_items(path: str, columns: Columns) -> Iterator[Item]:
    """The items of a list or table.

    Args:
        path: The file.
        columns: What is wanted of it.

    Yields:
        Items. Lines that cannot be used have their error.

    Raises:
        DatasetError: the file cannot be read, or has no such column.
        MissingExtraError: pyarrow is not installed.
    """
    holder = Holder.of(path)
    try:
        if path.lower().endswith(".parquet"):
            yield from _parquet_items(path, holder, columns)
            return
        with open(path, "rb", 1 << 20) as file:
            suffix = os.path.splitext(path)[1].lower()
            if suffix in _DELIMITERS:
                cells = _table_cells(file, holder.path, _DELIMITERS[suffix], columns)
            elif suffix == ".jsonl":
                cells = _object_cells(file, holder.path, columns)
            else:
                cells = _line_cells(file, holder.path, columns.kind)
            for cell in cells:
                yield _item(cell, holder, os.path.dirname(path), columns.kind)
    except OSError as error:
        raise DatasetError(f"{holder.path}: cannot be read: {reason(error)}") from error


def stream_items(content: bytes, kind: Kind) -> Iterator[Item]:
    """The items of a list that was read from stdin; paths are those from here."""
    for cell in _line_cells(io.BytesIO(content), "stdin", kind):
        yield _item(cell, Holder("stdin", 0, 0), "", kind)


def _item(cell: _Cell, holder: Holder, folder: str, kind: Kind) -> Item:
    if cell.error is not None:
        return holder.failed(cell.where, cell.error)
    id = None if cell.id is None or cell.id == "" else spelled_id(cell.id)
    value = cell.value
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None or isinstance(value, str) else f"{value!r:.60}"
        return holder.failed(cell.where if id is None else id, f"expected a string, found {found}")
    if kind == "images":
        return image_item(value, id, folder)
    item = Item(cell.where if id is None else id, holder.path, text=value)
    try:
        value.encode()
    except UnicodeEncodeError:
        item.text, item.error = None, "the text is not UTF-8"
    return item


def is_url(value: str) -> bool:
    """Whether it is a URL of a kind that images are fetched from."""
    return _URL.match(value) is not None


def image_item(value: str, id: str | None = None, folder: str = "") -> Item:
    """The item of a path, taken from a folder, or of a URL."""
    scheme = _URL.match(value)
    if scheme is None:
        return file_item(os.path.join(folder, value), id)
    if scheme[1].lower() == "file":
        inner = urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(value).path)
        return file_item(os.fsdecode(inner), id)
    name = spelled_id(value)
    return Item(name if id is None else id, name, read=Given(value))


def _told(problems: Problems, seen: list[int]) -> Iterator[_Cell]:
    """The lines that were left out since this was last asked."""
    for problem in problems.found[seen[0] :]:
        if problem.skipped:
            yield _Cell(problem.where, None, None, problem.what)
    seen[0] = len(problems.found)


def _line_cells(file: IO[bytes], name: str, kind: Kind) -> Iterator[_Cell]:
    problems, seen = Problems(), [0]
    for line in read_lines(file, name, problems):
        yield from _told(problems, seen)
        # Bytes of paths are kept; texts with such bytes are refused later.
        value = os.fsdecode(line.content) if kind == "images" else _decoded(line.content)
        yield _Cell(line.where, None, value)
    yield from _told(problems, seen)


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _object_cells(file: IO[bytes], name: str, columns: Columns) -> Iterator[_Cell]:
    problems, seen = Problems(), [0]
    for where, row in read_objects(file, name, problems):
        yield from _told(problems, seen)
        try:
            value, key = columns.choose(list(row), where)
        except DatasetError as error:
            yield _Cell(where, None, None, str(error).removeprefix(f"{where}: "))
        else:
            texts = row[value] if isinstance(row[value], list) else [row[value]]
            yield from _cells(where, row[key] if key else None, texts)
    yield from _told(problems, seen)


def _cells(where: str, id: Any, values: Sequence[Any]) -> Iterator[_Cell]:
    """A row's cells: of several values, each has a number behind its row's name."""
    if len(values) == 1:
        yield _Cell(where, id, values[0])
        return
    for number, value in enumerate(values, 1):
        own = None if id is None or id == "" else f"{id}:{number}"
        yield _Cell(f"{where}:{number}", own, value)


def _table_cells(file: IO[bytes], name: str, delimiter: str, columns: Columns) -> Iterator[_Cell]:
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        names: list[str] = []
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield _Cell(f"{name}:{reader.line_num}", None, None, f"not CSV: {error}")
                continue
            if row is None:
                return
            where = f"{name}:{reader.line_num}"
            if not any(field.strip() for field in row):
                continue
            if not names:
                names = [field.strip() for field in row]
                value, key = columns.choose(names, where)
            elif len(row) != len(names):
                what = f"expected {len(names)} columns, found {len(row)}"
                yield _Cell(where, None, None, what)
            else:
                yield _Cell(where, row[names.index(key)] if key else None, row[names.index(value)])


def _parquet_items(path: str, holder: Holder, columns: Columns) -> Iterator[Item]:
    arrow, parquet = pyarrow_modules()
    try:
        # Threads that read ahead would be missing after a fork.
        file = parquet.ParquetFile(path, pre_buffer=False)
        schema = {field.name: field.type for field in file.schema_arrow}
        value, key = columns.choose(list(schema), holder.path)
        end = 0
        with file:
            for group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(group).num_rows
                if _is_content(schema[value]):
                    column = _LazyColumn(path, group, value)
                    ids = _column(file, group, key) if key else iter([None] * (end - start))
                    for row, id in enumerate(ids):
                        where = f"{holder.path}:{start + row + 1}"
                        item = holder.item(where if id is None else spelled_id(id))
                        item.read = partial(column.read, row)
                        yield item
                    continue
                ids = _column(file, group, key) if key else iter([None] * (end - start))
                pairs = zip(_column(file, group, value), ids, strict=True)
                for row, (found, id) in enumerate(pairs, start + 1):
                    values = found if isinstance(found, list) else [found]
                    for cell in _cells(f"{holder.path}:{row}", id, values):
                        yield _item(cell, holder, os.path.dirname(path), columns.kind)
    except arrow.ArrowException as error:
        raise DatasetError(f"{holder.path}: damaged, or not Parquet: {reason(error)}") from error


def _is_content(kind: Any) -> bool:
    """Whether a column holds files' bytes, or {bytes, path} as Hugging Face's data sets."""
    types = pyarrow_modules()[0].types
    return bool(types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _column(file: Any, group: int, name: str) -> Iterator[Any]:
    """The values of a column in a row group."""
    for batch in file.iter_batches(_ROWS_AT_ONCE, [group], columns=[name], use_threads=False):
        try:
            yield from batch.column(0).to_pylist()
        except UnicodeDecodeError:
            yield from map(_value, batch.column(0))


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


class _LazyColumn:
    """A row group's images, read when one is first asked for: not at all where all are known.

    Its items share it, so that it is gone with the last of them.
    """

    def __init__(self, path: str, group: int, name: str) -> None:
        self._path, self._group, self._name = path, group, name
        self._lock = threading.Lock()
        self._column: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _LazyColumn, (os.path.abspath(self._path), self._group, self._name)

    def read(self, row: int) -> bytes | str:
        arrow, parquet = pyarrow_modules()
        with self._lock:
            if self._column is None:
                try:
                    with parquet.ParquetFile(self._path, pre_buffer=False) as file:
                        table = file.read_row_group(self._group, [self._name], use_threads=False)
                except (arrow.ArrowException, OSError) as error:
                    what = f"row group {self._group} cannot be read: {reason(error)}"
                    raise ImageError(what) from error
                self._column = table.column(0)
        value = self._column[row].as_py()
        if isinstance(value, dict):
            if not value.get("bytes") and value.get("path"):
                item = image_item(value["path"], None, os.path.dirname(self._path))
                if item.error is not None or item.read is None:
                    raise ImageError(f"{printable(item.path)}: {item.error}")
                return item.read()
            value = value.get("bytes")
        if not isinstance(value, bytes) or not value:
            raise ImageError("the row has no image")
        return value


def pyarrow_modules() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow") from error
    return pyarrow, pyarrow.parquet
