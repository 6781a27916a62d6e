"""Parquet files. Images are read a row group at a time, when the first of a group is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .._checks import requires_extra
from .._files import check_file
from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from ..preprocessors.image import located
from .images import Content, ImageRef, ImageStore, ProcessLock, located_inside
from .rows import Chosen, Columns, ProblemKind, Problems, Row

PARQUET_SUFFIX = ".parquet"
# Row groups of images that a process keeps: shuffling more of them at once reads them repeatedly.
GROUPS_KEPT = 8
_LARGE_GROUP = 128 << 20
# pyarrow's types of columns by their names.
_TEXTS = ("string", "large_string", "string_view")
_LISTS = ("list", "large_list", "list_view", "large_list_view", "fixed_size_list")
_CONTENTS = ("binary", "large_binary", "binary_view", "fixed_size_binary")
# Rows without images that are in memory at once.
_ROWS_AT_ONCE = 4096


def pyarrow_modules(extra: str = "bulk") -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.

    Args:
        extra: The extra of cnclip that installs it for the caller.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    with requires_extra(extra, "pyarrow"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


class RowGroup(ImageStore):
    """The images of a row group, read when the first is needed, dropped with the last reference.

    Pickled without them.
    """

    def __init__(
        self, path: Path, name: str, number: int, column: str, first_row: int, inside: bool
    ) -> None:
        """Take the place of the images: the row group and its first row, both from 0.

        With `inside`, images outside the file's folder are refused.
        """
        self._path, self._name, self._number = path, name, number
        self._column, self._first_row, self._inside = column, first_row, inside
        self._lock = ProcessLock()
        self._values: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        path = Path(os.path.abspath(self._path))
        place = (path, self._name, self._number, self._column, self._first_row)
        return RowGroup, (*place, self._inside)

    def content(self, number: int) -> Content:
        """The image file's bytes, or the path or URL in the row."""
        try:
            value = _value(self._read()[number])
        except IndexError as error:
            raise ImageError("the file has changed since it was listed") from error
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and value:
            folder = self._path.parent
            return located_inside(value, folder) if self._inside else located(value, folder)
        if not isinstance(value, bytes) or not value:
            raise ImageError("the row has no image")
        return value

    def _read(self) -> Any:
        arrow, _ = pyarrow_modules()
        with self._lock:
            if self._values is None:
                try:
                    with open_parquet(self._path) as file:
                        table = file.read_row_group(self._number, [self._column], use_threads=False)
                except MemoryError:
                    raise
                except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
                    reason = f"row group {self._number} cannot be read: {first_line(error)}"
                    raise ImageError(reason) from error
                self._values = table.column(0)
            return self._values

    def release(self) -> None:
        """Drop the images from memory."""
        with self._lock:
            self._values = None

    def where(self, number: int) -> Where:
        """The file and the row, from 1."""
        return Where(file=self._name, line=self._first_row + number + 1)


class RowGroups(ImageStore):
    """The images of several row groups. The last few that were read stay in memory."""

    def __init__(self, groups: list[RowGroup], starts: list[int]) -> None:
        """Take all row groups in order, the number of each group's first row, and of the end."""
        self.ids = range(starts[-1])
        sizes = [end - start for start, end in pairwise(starts)]
        self.groups: NDArray[np.int64] = np.repeat(np.arange(len(groups), dtype=np.int64), sizes)
        self._row_groups, self._starts = groups, starts
        self._recent: list[RowGroup] = []
        self._lock = ProcessLock()

    def single(self, number: int) -> tuple[ImageStore, int]:
        """The row group, and the number of the row in it."""
        index = int(self.groups[number])
        return self._row_groups[index], number - self._starts[index]

    def content(self, number: int) -> Content:
        """The image file's bytes, or the path or URL in the row."""
        group, row = self.single(number)
        assert isinstance(group, RowGroup)
        with self._lock:
            if group in self._recent:
                self._recent.remove(group)
            self._recent.append(group)
            dropped = self._recent.pop(0) if len(self._recent) > GROUPS_KEPT else None
        if dropped is not None:
            dropped.release()
        return group.content(row)

    def where(self, number: int) -> Where:
        """The file and the row, from 1."""
        group, row = self.single(number)
        return group.where(row)


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, which can be used after a fork."""
    check_file(path)
    # Threads that read ahead would be missing after a fork.
    return pyarrow_modules()[1].ParquetFile(path, pre_buffer=False)


def parquet_in_memory(file: IO[bytes]) -> Any:
    """A `pyarrow.parquet.ParquetFile` of the content of an open file, which is read first.

    The memory belongs to Arrow. If it were an object of Python, a thread of Arrow that drops it
    while Python ends would end the process.

    Raises:
        OSError: it cannot be read.
    """
    arrow, parquet = pyarrow_modules()
    size = os.fstat(file.fileno()).st_size
    buffer = arrow.allocate_buffer(size)
    view = memoryview(buffer).cast("B")
    done = 0
    while done < size and (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
        done += count
    return parquet.ParquetFile(arrow.BufferReader(buffer.slice(0, done)), pre_buffer=False)


class DamagedParquet(DatasetError):
    """A file is damaged, or is not a Parquet file."""


class ParquetTable:
    """A Parquet file, of which some columns are read.

    Images are files' bytes, Hugging Face's {bytes, path}, or paths and URLs; texts are strings or
    lists of strings.

    Attributes:
        groups: The images of each row group; empty if images are not wanted.
        ends: The number of each group's last row, from 1.
    """

    def __init__(self, path: Path, name: str, columns: Columns, *, inside: bool = False) -> None:
        """Read the metadata of a file. With `inside`, images outside its folder are refused.

        Raises:
            DamagedParquet: the file is damaged.
            DatasetError: it lacks a column.
            MissingExtraError: pyarrow is not installed.
        """
        arrow, _ = pyarrow_modules()
        self._path, self._name = path, name
        try:
            with open_parquet(path) as file:
                self._metadata, schema = file.metadata, file.schema_arrow
        except MemoryError:
            raise
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = f"damaged, or not Parquet: {first_line(error)}"
            raise DamagedParquet(reason, file=name) from error
        self._chosen, self._has_contents = _choose(schema, columns, Where(file=name))
        sizes = [self._metadata.row_group(n).num_rows for n in range(self._metadata.num_row_groups)]
        self.ends = list(accumulate(sizes))
        image = self._chosen.image
        self.groups = [
            RowGroup(path, name, number, image, first_row, inside)
            for number, first_row in enumerate([0, *self.ends[:-1]])
            if image is not None
        ]

    @property
    def chosen(self) -> Chosen:
        """The columns that are read."""
        return self._chosen

    def read(self, problems: Problems, *, images: bool = True) -> Iterator[Row]:
        """The rows, in order. A value that cannot be read is an exception.

        The bytes of images are never read here. Without `images`, rows have none.
        """
        arrow, _ = pyarrow_modules()
        lazy = images and self._has_contents
        wanted = Chosen(
            self._chosen.image if images and not lazy else None, self._chosen.text, self._chosen.id
        )
        with open_parquet(self._path) as file:
            for group, (start, end) in enumerate(pairwise([0, *self.ends])):
                row = -1
                try:
                    rows = _read_columns(file, group, wanted, start, end)
                    for row, values in enumerate(rows):
                        image = ImageRef(self.groups[group], row) if lazy else values[0]
                        yield Row(start + row + 1, image, *values[1:])
                except MemoryError:
                    raise
                except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
                    reason = f"row group {group} is damaged: {first_line(error)}"
                    where = Where(file=self._name, line=start + row + 2)
                    problems.add(ProblemKind.DAMAGED, where, reason)

    def report_large_groups(self, problems: Problems) -> None:
        """Add a remark where reading images in random order needs much memory."""
        largest = 0
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            if group.total_byte_size <= _LARGE_GROUP:
                # pyarrow aborts the process on damaged metadata of a column.
                continue
            parts = [group.column(index) for index in range(group.num_columns)]
            sizes = [
                part.total_uncompressed_size
                for part in parts
                if part.path_in_schema.partition(".")[0] == self._chosen.image
            ]
            largest = max(largest, sum(sizes))
        if largest > _LARGE_GROUP:
            problems.add(
                ProblemKind.FORMAT,
                Where(file=self._name),
                f"has a row group with {largest >> 20} MB of images: every process reads row "
                f"groups as a whole, and keeps {GROUPS_KEPT}",
                skipped=False,
            )


def _choose(schema: Any, columns: Columns, where: Where) -> tuple[Chosen, bool]:
    """The columns of a wanted name and a fitting type, and whether the images are bytes."""
    types: dict[str, Any] = {}
    for field in schema:  # of several columns of a name, the first is used
        types.setdefault(field.name, field.type)
    texts = [name for name, column in types.items() if _is_text(column)]
    lists = [
        name
        for name, column in types.items()
        if _name_of(column) in _LISTS and _is_text(column.value_type)
    ]
    empty = [name for name, column in types.items() if _name_of(column) == "null"]
    contents = [name for name, column in types.items() if _is_content(column)]
    chosen = Chosen(
        columns.choose(contents).image
        or columns.choose(texts).image
        or columns.choose([*lists, *empty]).image,
        columns.choose([*texts, *lists]).text or columns.choose(empty).text,
        columns.choose(list(types)).id,
    )
    columns.check(chosen, [f"{name}: {column}" for name, column in types.items()], where)
    return chosen, chosen.image in contents


def _is_text(column: Any) -> bool:
    return _name_of(column.value_type if _name_of(column) == "dictionary" else column) in _TEXTS


def _is_content(column: Any) -> bool:
    if _name_of(column) == "struct":
        return any(column.get_field_index(name) >= 0 for name in ("bytes", "path"))
    return _name_of(column) in _CONTENTS


def _name_of(column: Any) -> str:
    """The name of a column's type without parameters, such as `list` and `string`."""
    return re.split(r"\W", str(column))[0]


def _read_columns(
    file: Any, group: int, wanted: Chosen, start: int, end: int
) -> Iterator[tuple[Any, ...]]:
    """The values of the columns, row by row; None for those that are not wanted."""
    names = [name for name in wanted if name is not None]
    if not names:
        yield from repeat((None, None, None), end - start)
        return
    for batch in file.iter_batches(_ROWS_AT_ONCE, [group], columns=names, use_threads=False):
        nothing = [None] * batch.num_rows
        yield from zip(
            *(nothing if name is None else _values(_first(batch, name)) for name in wanted),
            strict=True,
        )


def _first(batch: Any, name: str) -> Any:
    return batch.column(batch.schema.get_all_field_indices(name)[0])


def _values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # not UTF-8, or a time that Python has no type for
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:
        return error
