"""Lists and tables as rows: .txt, .csv, .tsv, .jsonl, .json and Parquet files.

A list has a path, a URL or a text on each line. Of a table some columns are read. The first line of
a CSV file has the names of the columns; each object of a JSON file may have its own. A JSON file
has an object on each line, an array of objects, or COCO's images and annotations.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from .._encoding import known_encoding, utf8_file
from .._files import open_file, read_at_most
from .._text import first_line, value_text
from ..errors import DatasetError, InvalidInputError, Where
from .parquet_files import PARQUET_SUFFIX, ParquetTable
from .rows import Columns, ProblemKind, Problems, Row

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = frozenset({".txt", ".jsonl", ".json", PARQUET_SUFFIX, *_DELIMITERS})
_BUFFER = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An image of a data set, in base64, has a few hundred kB.
MAX_LINE = 64 << 20
# Of a list or a CSV file: a path, a text, a URL, or a data URL with an image.
MAX_ENTRY = 16 << 20
# A JSON file that is not JSON Lines is in memory as a whole, with several times its size.
MAX_JSON = 1 << 30


class TextFormat(NamedTuple):
    """How text files are written."""

    encoding: str | None = None  # by default as found, see `_encoding.py`
    nul: bool = False  # entries of lists end in NUL bytes, as `find -print0` writes them


AS_FOUND = TextFormat()


def checked_encoding(name: str | None) -> str | None:
    """The name of an encoding as Python has it, or None.

    Raises:
        InvalidInputError: there is no such encoding of texts.
    """
    try:
        return None if name is None else known_encoding(name)
    except UnicodeError as error:
        raise InvalidInputError(first_line(error), item="encoding") from error


def read_table(
    path: Path, name: str, columns: Columns, problems: Problems, format: TextFormat = AS_FOUND
) -> Iterator[Row]:
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
        with open_file(path, _BUFFER) as raw:
            if suffix not in TABLE_SUFFIXES or suffix == ".txt":
                yield from read_list(raw, name, columns, problems, format)
                return
            file = open_text(raw, name, problems, format)
            if suffix in _DELIMITERS:
                yield from _csv_rows(file, _DELIMITERS[suffix], name, columns, problems)
            else:
                lines = suffix == ".jsonl"
                objects = _json_objects(file, name, columns, problems, is_lines=lines)
                yield from _object_rows(objects, name, columns, problems)
    except OSError as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=name) from error


def column_names(
    path: Path, name: str, columns: Columns, format: TextFormat = AS_FOUND
) -> list[str]:
    """The names of a CSV file's columns, or of the keys of a JSON file's first object.

    Raises:
        DatasetError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        with open_file(path, _BUFFER) as raw:
            file = open_text(raw, name, Problems(), format)
            if suffix in _DELIMITERS:
                return _header(file, _DELIMITERS[suffix])
            lines = suffix == ".jsonl"
            objects = _json_objects(file, name, columns, Problems(), is_lines=lines)
            return next((list(value) for _, value in objects), [])
    except (OSError, csv.Error) as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=name) from error


def _header(file: IO[bytes], delimiter: str) -> list[str]:
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        lines = _CsvLines(text, "", Problems())
        for values in csv.reader(lines, delimiter=delimiter, strict=True):
            if any(value.strip() for value in values):
                return [value.strip() for value in values]
    return []


def open_text(
    file: IO[bytes], name: str, problems: Problems, format: TextFormat = AS_FOUND
) -> IO[bytes]:
    """The content of a text file in UTF-8. Another encoding is a remark in `problems`.

    Args:
        file: Seekable, at its beginning.
        name: Its name in messages.
        problems: Gets the remark.
        format: How it is written.

    Raises:
        DatasetError: its encoding is unknown.
    """
    try:
        found, encoding = utf8_file(file, format.encoding, nul=format.nul)
    except UnicodeError as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=name) from error
    if encoding.remark is not None:
        where = Where(file=name)
        problems.add(ProblemKind.ENCODING, where, encoding.remark, skipped=False)
    return found


def read_list(
    file: IO[bytes],
    name: str,
    columns: Columns,
    problems: Problems,
    format: TextFormat = AS_FOUND,
) -> Iterator[Row]:
    """The entries of a list: images if columns of images are wanted, otherwise texts.

    `file` is as for `open_text`.
    """
    text = open_text(file, name, problems, format)
    for line in _entries(text, name, problems) if format.nul else _list_lines(text, name, problems):
        if b"\0" in line.content:
            where = Where(file=name, line=line.number)
            problems.add(ProblemKind.DAMAGED, where, "has a NUL byte")
        elif columns.image:
            yield Row(line.number, os.fsdecode(line.content), None, None)
        else:
            yield Row(line.number, None, line.content.decode("utf-8", "surrogateescape"), None)


def _csv_rows(
    file: IO[bytes], delimiter: str, name: str, columns: Columns, problems: Problems
) -> Iterator[Row]:
    names: list[str] = []
    places: list[int | None] = []  # of the chosen columns
    # Bytes that are not UTF-8 become lone surrogates.
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        lines = _CsvLines(text, name, problems)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
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
                hint = "; the first line must have the names of the columns"
                columns.check(chosen, names, Where(file=name, line=reader.line_num), hint)
                places = [None if one is None else names.index(one) for one in chosen]
            elif any("\0" in value for value in values):
                where = Where(file=name, line=reader.line_num)
                problems.add(ProblemKind.DAMAGED, where, "has a NUL byte")
            elif len(values) == len(names):
                yield _row(reader.line_num, places, values)
            else:
                where = Where(file=name, line=reader.line_num)
                reason = f"expected {len(names)} columns, found {len(values)}"
                problems.add(ProblemKind.DAMAGED, where, reason)


def _json_objects(
    file: IO[bytes], name: str, columns: Columns, problems: Problems, *, is_lines: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON file, whose name says `is_lines`; its beginning may say otherwise.

    Raises:
        DatasetError: the file is not JSON, is too large, or has no objects that could be rows.
    """
    head = file.peek(_BUFFER).removeprefix(BYTE_ORDER_MARK).lstrip()  # type: ignore[attr-defined]
    if not head.startswith(b"[") and (is_lines or _begins_with_a_row(head)):
        yield from read_objects(file, name, problems)
        return
    content = read_at_most(file, MAX_JSON)
    if content is None:
        reason = f"JSON of more than {MAX_JSON} bytes; write an object on each line instead"
        raise DatasetError(reason, file=name)
    if not content.removeprefix(BYTE_ORDER_MARK).strip():
        return  # an empty file
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if not is_lines:
            raise DatasetError(f"not JSON: {first_line(error)}", file=name) from error
        yield from read_objects(io.BytesIO(content), name, problems)
        return
    yield from _objects_in(value, name, columns, problems)


def _begins_with_a_row(head: bytes) -> bool:
    """Whether the first line of a file is an object by itself, and not the whole of COCO's."""
    first, _, rest = head.partition(b"\n")
    value = parse_object(first)
    return isinstance(value, dict) and bool(rest.strip() or not _rows_in(value))


def _rows_in(value: dict[str, Any]) -> list[str]:
    """The keys of an object under which there are lists of objects."""
    return [
        key
        for key, rows in value.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    ]


def _objects_in(
    value: Any, name: str, columns: Columns, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of an array, or of a file with one list of them, or COCO's images; numbered."""
    rows = value
    if isinstance(value, dict):
        keys = _rows_in(value)
        if "images" in keys and "annotations" in keys:
            rows = _coco_images(value["images"], value["annotations"], name, columns, problems)
        elif len(keys) == 1:
            rows = value[keys[0]]
        else:
            found = ", ".join(map(str, value))
            expected = "an array of objects, or COCO's images and annotations"
            reason = f"expected {expected}; found {found:.300}"
            raise DatasetError(reason, file=name)
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        if isinstance(row, dict):
            yield number, row
        else:
            reason = f"expected a JSON object, found {value_text(row)}"
            problems.add(ProblemKind.BAD_VALUE, Where(file=name, line=number), reason)


def _coco_images(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    name: str,
    columns: Columns,
    problems: Problems,
) -> list[dict[str, Any]]:
    """COCO's images, each with a list of its texts."""
    texts: dict[str, dict[str, list[Any]]] = {str(image.get("id")): {} for image in images}
    for annotation in annotations:
        column = columns.choose(annotation).text
        if column is None:
            continue  # an annotation that is not a text
        of_image = texts.get(str(annotation.get("image_id")))
        if of_image is None and not columns.text_required:
            continue
        if of_image is None:
            reason = f"annotation of an image that does not exist: {annotation.get('image_id')}"
            problems.add(ProblemKind.UNKNOWN_ID, Where(file=name), reason)
        else:
            of_image.setdefault(column, []).append(annotation[column])
    return [image | texts[str(image.get("id"))] for image in images]


def _object_rows(
    objects: Iterable[tuple[int, dict[str, Any]]], name: str, columns: Columns, problems: Problems
) -> Iterator[Row]:
    for number, value in objects:
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


def read_lines(
    file: IO[bytes], name: str, problems: Problems, limit: int | None = None
) -> Iterator[Line]:
    """The lines of a file that are not empty.

    A byte order mark and Windows' line ends are reported and removed. A line of more than `limit`
    bytes, by default MAX_LINE, is a problem; it is never in memory as a whole.
    """
    limit = MAX_LINE if limit is None else limit
    number = end = 0
    windows = False
    while line := file.readline(limit):
        number += 1
        start = end
        end += len(line)
        if number == 1 and line.startswith(BYTE_ORDER_MARK):
            _remark(problems, name, number, "begins with a byte order mark")
            line = line[len(BYTE_ORDER_MARK) :]
            start += len(BYTE_ORDER_MARK)
        if len(line) == limit and not line.endswith(b"\n"):
            reason = f"a line of more than {limit} bytes"
            problems.add(ProblemKind.DAMAGED, Where(file=name, line=number), reason)
            while rest := file.readline(limit):
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


def _list_lines(file: IO[bytes], name: str, problems: Problems) -> Iterator[Line]:
    """The lines of a list that are not empty. A carriage return alone ends a line as well."""
    more = 0  # lines than `read_lines` counts
    for line in read_lines(file, name, problems, MAX_ENTRY):
        start = line.start
        for content in line.content.split(b"\r"):
            if content.strip():
                yield Line(content, line.number + more, start)
            start += len(content) + 1
            more += 1
        more -= 1


def _entries(file: IO[bytes], name: str, problems: Problems) -> Iterator[Line]:
    """The entries of a list that end in NUL bytes, without empty ones."""
    number, rest, is_long = 0, b"", False
    while chunk := file.read(_BUFFER):
        *entries, rest = (rest + chunk).split(b"\0")
        for entry in entries:
            number += 1
            if is_long:  # this is its end
                is_long = False
            elif entry.strip():
                yield Line(entry, number, 0)
        if len(rest) > MAX_ENTRY:
            is_long = True
            reason = f"an entry of more than {MAX_ENTRY} bytes"
            problems.add(ProblemKind.DAMAGED, Where(file=name, line=number + 1), reason)
        if is_long:
            rest = b""
    if rest.strip():
        yield Line(rest, number + 1, 0)


class _CsvLines:
    """The lines of a CSV file for `csv.reader`. One of more than MAX_ENTRY characters is left out.

    It is a problem, and an empty line takes its place, so that lines are counted as in the file.
    """

    def __init__(self, text: io.TextIOWrapper, name: str, problems: Problems) -> None:
        self._text, self._name, self._problems = text, name, problems
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ENTRY)
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) < MAX_ENTRY or line.endswith(("\n", "\r")):
            return line
        reason = f"a line of more than {MAX_ENTRY} characters"
        where = Where(file=self._name, line=self._number)
        self._problems.add(ProblemKind.DAMAGED, where, reason)
        while (rest := self._text.readline(MAX_ENTRY)) and not rest.endswith(("\n", "\r")):
            pass
        return "\n"


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
    return ProblemKind.BAD_VALUE, f"expected a JSON object, found {value_text(value)}"
