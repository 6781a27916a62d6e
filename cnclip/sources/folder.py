"""Image files: in folders, by patterns, and why one cannot be used."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .._text import first_line, is_utf8, printable
from ..errors import DatasetError
from .columns import IMAGE_SUFFIXES

# Far above any file whose image Pillow accepts.
MAX_FILE = 1 << 30
_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class ImageFile(NamedTuple):
    """An image file that has not been opened, or the reason why it cannot be."""

    path: str  # absolute
    size: int | None = None
    mtime_ns: int | None = None
    error: str | None = None


def image_file(path: str | os.PathLike[str]) -> ImageFile:
    """Look at an image file. A path that is not a file, or an empty file, has an error."""
    name = os.path.abspath(path)
    try:
        return _image_file(name, os.stat(name))
    except FileNotFoundError:
        return ImageFile(name, error="no such file")
    except (OSError, ValueError) as error:
        return ImageFile(name, error=first_line(error))


def _image_file(path: str, state: os.stat_result) -> ImageFile:
    if not stat.S_ISREG(state.st_mode):
        kind = next((kind for test, kind in _NOT_FILES if test(state.st_mode)), "a device")
        # Reading would wait for a writer.
        return ImageFile(path, error=f"{kind}, not a file")
    error = None
    if state.st_size == 0:
        error = "an empty file"
    elif state.st_size > MAX_FILE:
        error = f"a file of more than {MAX_FILE} bytes"
    return ImageFile(path, state.st_size, state.st_mtime_ns, error)


def walk(
    folder: str | os.PathLike[str], left_out: Counter[str] | None = None
) -> Iterator[ImageFile]:
    """The files in a folder, and in its folders, with the suffix of an image.

    Links are followed; a folder that was seen already, as where links lead in a circle, is not
    entered again. Hidden files and folders are left out.

    Args:
        folder: Where to begin.
        left_out: Counts the other files by their suffixes.

    Yields:
        Files sorted by name, folders among files. One that cannot be used has an error, including
        a folder that cannot be listed, and anything that is neither a file nor a folder.
    """
    seen: set[tuple[int, int]] = set()
    # Names that are to be visited, the next one last.
    waiting = [os.path.abspath(folder)]
    while waiting:
        path = waiting.pop()
        try:
            state = os.stat(path)
        except OSError:
            yield image_file(path)
            continue
        if stat.S_ISDIR(state.st_mode):
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            try:
                names = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            except OSError as error:
                yield ImageFile(path, error=f"cannot be listed: {first_line(error)}")
                continue
            waiting += [os.path.join(path, name) for name in names if not name.startswith(".")]
            continue
        suffix = os.path.splitext(path)[1].lower()
        if suffix in IMAGE_SUFFIXES or not stat.S_ISREG(state.st_mode):
            yield _image_file(path, state)
        elif left_out is not None:
            left_out[suffix] += 1


def spelled(path: str) -> str:
    """A path as it is recorded: itself, or a file: URL where its name is not UTF-8."""
    if is_utf8(path):
        return path
    try:
        return Path(os.path.abspath(path)).as_uri()
    except UnicodeEncodeError:  # no file has such a name
        return printable(path)


def is_pattern(path: str) -> bool:
    """Whether a path names files by `*`, `?`, `[...]` or `{...}`."""
    return glob.has_magic(path) or _BRACES.search(path) is not None


def expand(pattern: str) -> list[Path]:
    """The files that a pattern names: those of braces in their order, those of `*` sorted.

    Raises:
        DatasetError: there is none, or one that braces name does not exist.
    """
    found: list[str] = []
    for one in _without_braces(pattern):
        some = sorted(glob.glob(one, recursive=True))
        if not some:
            raise DatasetError("no such file", file=one)
        found += some
    return [Path(path) for path in dict.fromkeys(found)]


def _without_braces(pattern: str) -> Iterator[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    numbers = _RANGE.fullmatch(braces[1])
    if numbers is None:
        inner = braces[1].split(",")
    else:
        width = len(numbers[1])
        inner = [f"{n:0{width}d}" for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    for one in inner:
        yield from _without_braces(pattern[: braces.start()] + one + pattern[braces.end() :])
