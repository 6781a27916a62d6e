"""Lists and tables as rows: .txt, .csv, .tsv, .jsonl and Parquet files.

A list has a path, a URL or a text on each line. Of a table some columns are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .._text import first_line
from ..errors import DatasetError, Where
from .columns import Columns, Row
from .csv_files import DELIMITERS, read_csv
from .lines import read_lines, read_objects
from .parquet_files import ParquetTable
from .problems import ProblemKind, Problems

TABLE_SUFFIXES = frozenset({".txt", ".jsonl", ".parquet", *DELIMITERS})
_BUFFER = 1 << 20


def read_table(path: Path, name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    """The rows of a list or table. Values are as the file has them: of any type, or None.

    Args:
        path: The file.
        name: Its name in messages.
        columns: The columns that are wanted.
        problems: Gets the rows that cannot be used.

    Raises:
        DatasetError: the file cannot be read, or lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from ParquetTable(path, name, columns).read(problems)
        return
    try:
        with path.open("rb", _BUFFER) as file:
            if suffix in DELIMITERS:
                yield from _csv_rows(file, DELIMITERS[suffix], name, columns, problems)
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
    rows = read_csv(file, delimiter, name, problems)
    number, names = next(rows, (0, []))
    if not names:
        return
    chosen = columns.choose(names)
    hint = "; the first line must have the names of the columns, in UTF-8"
    columns.check(chosen, names, Where(file=name, line=number), hint)
    image, text, id = (None if one is None else names.index(one) for one in chosen)
    for number, row in rows:
        yield Row(
            number,
            None if image is None else row[image],
            None if text is None else row[text],
            None if id is None else row[id],
        )


def _object_rows(file: IO[bytes], name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    """The objects of a JSON Lines file; each may have its own columns."""
    for number, value in read_objects(file, name, problems):
        chosen = columns.choose(value)
        image, text, id = chosen
        # A row with an image and no text is used for the image.
        main = image if columns.image else text
        if main is None or (columns.id_required and id is None):
            kind = ProblemKind.NO_IMAGE if columns.image else ProblemKind.NO_TEXT
            reason = columns.missing(chosen, list(value)) or ""
            problems.add(kind, Where(file=name, line=number), reason)
            continue
        yield Row(
            number,
            None if image is None else value[image],
            None if text is None else value[text],
            None if id is None else value[id],
        )
