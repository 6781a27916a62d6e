"""Lines of text files, whatever wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from .problems import Problems

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An image of a data set, in base64, has a few hundred kB.
MAX_LINE = 256 << 20


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        where: `name:number`.
        content: The line without its end.
        number: From 1.
        start: Where the content begins, in bytes from where reading began.
    """

    where: str
    content: bytes
    number: int
    start: int


def read_lines(file: IO[bytes], name: str, problems: Problems) -> Iterator[Line]:
    """The lines of a file that are not empty.

    A byte order mark and Windows' line ends are named and taken away.
    """
    number = end = 0
    windows = False
    while line := file.readline(MAX_LINE):
        number += 1
        start = end
        end += len(line)
        where = f"{name}:{number}"
        if number == 1 and line.startswith(BYTE_ORDER_MARK):
            problems.add(where, "begins with a byte order mark", skipped=False)
            line = line[len(BYTE_ORDER_MARK) :]
            start += len(BYTE_ORDER_MARK)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            problems.add(where, f"a line of more than {MAX_LINE} bytes")
            while rest := file.readline(MAX_LINE):
                end += len(rest)
                if rest.endswith(b"\n"):
                    break
            continue
        if line.endswith(b"\r\n"):
            if not windows:
                problems.add(where, "ends in CR LF, as may lines that follow", skipped=False)
            windows = True
        line = line.rstrip(b"\r\n")
        if line.strip():
            yield Line(where, line, number, start)


def line_number(where: str) -> int:
    """The number in `name:number`."""
    return int(where.rpartition(":")[2])


def read_objects(
    file: IO[bytes], name: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file: (`name:number`, object). Damaged lines are named."""
    for where, line, _, _ in read_lines(file, name, problems):
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            problems.add(where, f"not UTF-8: byte {error.start + 1} of the line")
        except (ValueError, RecursionError) as error:
            problems.add(where, f"not JSON: {str(error)[:200]}")
        else:
            if isinstance(value, dict):
                yield where, value
            else:
                problems.add(where, f"expected a JSON object, found {type(value).__name__}")
