"""CSV files, and tables with tabs between fields. The first line has the names of the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import IO

from ..errors import Where
from .problems import ProblemKind, Problems

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_csv(
    file: IO[bytes], delimiter: str, name: str, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file, each after the number of its last line. The first has the columns' names.

    Bytes that are not UTF-8 are decoded to lone surrogates. A row may continue on several lines
    inside quotes. Empty rows are left out.

    Args:
        file: The file; closed at the end.
        delimiter: Between fields.
        name: The file's name in messages.
        problems: Gets the rows that cannot be used.
    """
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        width = 0
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                where = Where(file=name, line=reader.line_num)
                problems.add(ProblemKind.DAMAGED, where, f"not CSV: {error}")
                continue
            if row is None:
                return
            if not any(field.strip() for field in row):
                continue
            if not width:
                width = len(row)
                yield reader.line_num, [field.strip() for field in row]
            elif len(row) == width:
                yield reader.line_num, row
            else:
                where = Where(file=name, line=reader.line_num)
                reason = f"expected {width} columns, found {len(row)}"
                problems.add(ProblemKind.DAMAGED, where, reason)
