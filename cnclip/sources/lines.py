"""Text files: their lines, and the objects of JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from .._text import first_line
from ..errors import Where
from .problems import ProblemKind, Problems

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An image of a data set, in base64, has a few hundred kB.
MAX_LINE = 256 << 20


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
