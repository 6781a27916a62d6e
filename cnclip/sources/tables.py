"""Lists and tables as rows: .txt, .csv, .tsv, .jsonl and Parquet files.

A list has a path, a URL or a text on each line. Of a table some columns are read. The first line of
a CSV file has the names of the columns; each object of a JSON Lines file may have its own.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from .._text import first_line
from ..errors import DatasetError, Where
from .parquet_files import PARQUET_SUFFIX, ParquetTable
from .rows import Columns, ProblemKind, Problems, Row

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = frozenset({".txt", ".jsonl", PARQUET_SUFFIX, *_DELIMITERS})
_BUFFER = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An image of a data set, in base64, has a few hundred kB.
MAX_LINE = 256 << 20


def read_table(path: Path, name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    """The rows of a list or table. Values are as the file has them: of any type, or None.

    Raises:
        DatasetError: the file cannot be read, or lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == PARQUET_SUFFIX:
        yield from ParquetTable(path, name, columns).read(problems)
        return
    try:
        with path.open("rb", _BUFFER) as file:
            if suffix in _DELIMITERS:
                yield from _csv_rows(file, _DELIMITERS[suffix], name, columns, problems)
            elif suffix == ".txt":
                yield from read_list(file, name, columns, problems)
            else:
                yield from _object_rows(file, name, columns, problems)
    except OSError as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=name) from error


def read_list(file: IO[bytes], name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    """The lines of a list: images if columns of images are wanted, otherwise texts."""
    for line in read_lines(file, name, problems):
        if columns.image:
            yield Row(line.number, os.fsdecode(line.content), None, None)
        else:
            text = line.content.decode("utf-8", "surrogateescape")
            yield Row(line.number, None, text, None)


def _csv_rows(
    file: IO[bytes], delimiter: str, name: str, columns: Columns, problems: Problems
) -> Iterator[Row]:
    names: list[str] = []
    places: list[int | None] = []  # of the chosen columns
    # Bytes that are not UTF-8 become lone surrogates.
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                where = Where(file=name, line=reader.line_num)
                problems.add(ProblemKind.DAMAGED, where, f"not CSV: {error}")
                continue
            if values is None:
                return
            if not any(value.strip() for value in values):
                continue
            if not names:
                names = [value.strip() for value in values]
                chosen = columns.choose(names)
                hint = "; the first line must have the names of the columns, in UTF-8"
                columns.check(chosen, names, Where(file=name, line=reader.line_num), hint)
                places = [None if one is None else names.index(one) for one in chosen]
            elif len(values) == len(names):
                yield _row(reader.line_num, places, values)
            else:
                where = Where(file=name, line=reader.line_num)
                reason = f"expected {len(names)} columns, found {len(values)}"
                problems.add(ProblemKind.DAMAGED, where, reason)


def _object_rows(file: IO[bytes], name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    for number, value in read_objects(file, name, problems):
        chosen = columns.choose(value)
        # A row with an image and no text is used for the image.
        main = chosen.image if columns.image else chosen.text
        if main is None or (columns.id_required and chosen.id is None):
            kind = ProblemKind.NO_IMAGE if columns.image else ProblemKind.NO_TEXT
            reason = columns.missing(chosen, list(value)) or ""
            problems.add(kind, Where(file=name, line=number), reason)
            continue
        yield _row(number, chosen, value)


def _row(number: int, keys: Iterable[Any], values: Any) -> Row:
    image, text, id = keys
    return Row(
        number,
        None if image is None else values[image],
        None if text is None else values[text],
        None if id is None else values[id],
    )


class Line(NamedTuple):
    """A line of a file."""

    content: bytes  # without the end of the line
    number: int  # from 1
    start: int  # the offset of the content, in bytes from where reading began


def read_lines(file: IO[bytes], name: str, problems: Problems) -> Iterator[Line]:
    """The lines of a file that are not empty.

    A byte order mark and Windows' line ends are reported and removed.
    """
    number = end = 0
    windows = False
    while line := file.readline(MAX_LINE):
        number += 1
        start = end
        end += len(line)
        if number == 1 and line.startswith(BYTE_ORDER_MARK):
            _remark(problems, name, number, "begins with a byte order mark")
            line = line[len(BYTE_ORDER_MARK) :]
            start += len(BYTE_ORDER_MARK)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            reason = f"a line of more than {MAX_LINE} bytes"
            problems.add(ProblemKind.DAMAGED, Where(file=name, line=number), reason)
            while rest := file.readline(MAX_LINE):
                end += len(rest)
                if rest.endswith(b"\n"):
                    break
            continue
        if line.endswith(b"\r\n"):
            if not windows:
                _remark(problems, name, number, "ends in CR LF, as may lines that follow")
            windows = True
        line = line.rstrip(b"\r\n")
        if line.strip():
            yield Line(line, number, start)


def _remark(problems: Problems, name: str, number: int, reason: str) -> None:
    problems.add(ProblemKind.FORMAT, Where(file=name, line=number), reason, skipped=False)


def read_objects(
    file: IO[bytes], name: str, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, each after the number of its line."""
    for line in read_lines(file, name, problems):
        value = parse_object(line.content)
        if isinstance(value, dict):
            yield line.number, value
        else:
            problems.add(value[0], Where(file=name, line=line.number), value[1])


def parse_object(content: bytes) -> dict[str, Any] | tuple[ProblemKind, str]:
    """The JSON object that a text is, or the kind of problem and the reason why it is not one."""
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return ProblemKind.NOT_UTF8, f"not UTF-8: byte {error.start + 1}"
    except (ValueError, RecursionError) as error:
        return ProblemKind.DAMAGED, f"not JSON: {first_line(error)}"
    if isinstance(value, dict):
        return value
    return ProblemKind.BAD_VALUE, f"expected a JSON object, found {type(value).__name__}"
