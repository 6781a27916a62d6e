"""Image files in folders, and references to images: picklable, read when they are needed.

An `ImageRef` is one image. An `ImageStore` has many, by their numbers, in a few arrays. Both open
their files in the process that reads, so that worker processes may be forked or spawned at any
time.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import threading
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._files import not_a_file, open_checked_file, open_file
from .._text import first_line, hide_secrets, is_utf8, printable
from ..errors import DatasetError, ImageError, Where
from ..preprocessors.formats import HEAD
from ..preprocessors.image import MAX_FILE, fetch, is_url, located, shown_name
from .image_names import ImageNames
from .names import find_path, with_slashes
from .rows import Id

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class ImageFile(NamedTuple):
    """An unopened image file, or the error that prevents opening it."""

    path: str  # absolute
    size: int | None = None
    mtime_ns: int | None = None
    error: str | None = None


def image_file(path: str | os.PathLike[str]) -> ImageFile:
    """Look at an image file. A path that is not a file, or an empty file, has an error.

    A path that does not exist may be another spelling of one that does, see `find_path`.
    """
    name = os.path.abspath(path)
    try:
        try:
            return _image_file(name, os.stat(name))
        except FileNotFoundError:
            found = find_path(name)
            if found is None or found == name:
                return ImageFile(name, error="no such file")
            return _image_file(found, os.stat(found))
    except (OSError, ValueError) as error:
        return ImageFile(name, error=first_line(error))


def _image_file(path: str, state: os.stat_result) -> ImageFile:
    if (reason := not_a_file(state.st_mode)) is not None:
        return ImageFile(path, error=reason)
    error = None
    if state.st_size == 0:
        error = "an empty file"
    elif state.st_size > MAX_FILE:
        error = f"a file of more than {MAX_FILE} bytes"
    return ImageFile(path, state.st_size, state.st_mtime_ns, error)


def walk(folder: str | os.PathLike[str], names: ImageNames | None = None) -> Iterator[ImageFile]:
    """The image files in a folder, and in its folders.

    Links are followed; a folder that was seen already, as where links lead in a circle, is not
    entered again.

    Args:
        folder: Where to begin.
        names: Decides which files are images, and counts the others; by default by their suffixes.

    Yields:
        Files sorted by name, folders among files. One that cannot be used has an error, including
        a folder that cannot be listed, and anything that is neither a file nor a folder.
    """
    names = ImageNames() if names is None else names
    seen: set[tuple[int, int]] = set()
    # Names that are to be visited, the next one last.
    root = os.path.abspath(folder)
    exclusions = names.exclusions
    waiting = [root]
    while waiting:
        path = waiting.pop()
        inner = path[len(root) :].lstrip("/")
        try:
            state = os.stat(path)
        except OSError:
            if not (inner and exclusions.exclude(inner, is_folder=False)):
                yield image_file(path)
            continue
        is_folder = stat.S_ISDIR(state.st_mode)
        if inner and exclusions.exclude(inner, is_folder=is_folder):
            continue
        if is_folder:
            if (state.st_dev, state.st_ino) in seen or exclusions.is_output(path):
                continue
            seen.add((state.st_dev, state.st_ino))
            try:
                found = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            except OSError as error:
                yield ImageFile(path, error=f"cannot be listed: {first_line(error)}")
                continue
            waiting += [os.path.join(path, name) for name in names.without_raw(found)]
            continue
        if not stat.S_ISREG(state.st_mode) or names.accept(path, partial(read_head, path)):
            yield _image_file(path, state)


def read_head(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a file; none of one that cannot be read."""
    try:
        with open_file(path, buffering=0) as file:
            return file.read(HEAD)
    except OSError:
        return b""


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


# An image file's bytes, its path, or an http, https or data URL.
Content = bytes | Path | str


class ImageStore(ABC):
    """Images by their numbers, 0 to n - 1. Reading is safe on threads.

    Attributes:
        ids: The id of each image number, all different.
        groups: int64 [n], the number of the block of storage that holds each image, where a block
            is read as a whole; None where images are read one by one.
    """

    ids: Sequence[Id]
    groups: NDArray[np.int64] | None = None

    @abstractmethod
    def content(self, number: int) -> Content:
        """An image file's bytes, its path or its URL.

        Raises:
            ImageError: it cannot be read. The error has a reason and no place.
        """

    @abstractmethod
    def where(self, number: int) -> Where:
        """The file and the line or member of an image."""

    def single(self, number: int) -> tuple[ImageStore, int]:
        """A store that is cheaper to pickle and has the image, and its number there."""
        return self, number


class ImageRef(NamedTuple):
    """An image that is read when it is needed."""

    origin: Content | ImageStore
    number: int = 0  # of the image in the store

    def read(self) -> bytes:
        """The image file's bytes, read or downloaded.

        Raises:
            ImageError: it cannot be read. The error has a reason and no place.
        """
        if isinstance(self.origin, ImageStore):
            return read_inner(self.origin.content(self.number))
        return read_content(located(self.origin) if isinstance(self.origin, str) else self.origin)

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.origin, ImageStore):
            return ImageRef, self.origin.single(self.number)
        return ImageRef, (self.origin,)


def read_content(content: Content) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: it cannot be read. The error has a reason and no place.
    """
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return fetch(content)
    file = image_file(content)
    if file.error is not None:
        raise ImageError(file.error)
    try:
        with open_checked_file(file.path, buffering=0) as opened:
            return opened.read()
    except OSError as error:
        raise ImageError(first_line(error)) from error


def read_inner(content: Content) -> bytes:
    """The bytes of an image in a container, which may refer to a file or URL.

    Raises:
        ImageError: it cannot be read. The error has a reason, with the path or URL, and no place.
    """
    try:
        return read_content(content)
    except ImageError as error:
        raise ImageError(f"{shown_name(str(content))}: {error.reason}") from error


def located_inside(value: str, folder: Path) -> Path | str:
    """What a path or URL in a data set refers to: a file in the data set's folder, or a data: URL.

    A path that does not exist may be another spelling of one that does, see `find_path`.

    Raises:
        ImageError: it refers to something else, which a foreign data set should not make us read.
    """
    place = located(value, folder)
    if isinstance(place, str):
        if place[:5].lower() == "data:":
            return place
        raise ImageError(
            f"{hide_secrets(value)!r:.60} would have to be downloaded; download it first"
        )
    if is_url(value) and place.is_relative_to(folder.absolute()):
        value = str(place.relative_to(folder.absolute()))
    # Backslashes may separate folders, see `find_path`.
    if Path(value).is_absolute() or ".." in with_slashes(value).split("/"):
        raise ImageError(f"{value!r:.60} is outside the data set's folder")
    path = Path(folder, value)
    if os.path.lexists(path):
        return path
    return Path(find_path(str(path)) or path)


class ProcessLock:
    """A lock that is new in each process: at a fork, another thread may hold the parent's."""

    def __init__(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return ProcessLock, ()


class Slices(ImageStore):
    """Images that are slices of files, as the members of tar files and the lines of TSV files."""

    def __init__(self, paths: Sequence[Path], names: Sequence[str]) -> None:
        """Take the files, and their names in messages."""
        self.ids: list[Id] = []
        self._paths, self._names = paths, names
        self._starts, self._lengths = array("q"), array("q")
        self._file_of, self._lines = array("i"), array("q")

    def add(
        self, id: Id, start: int, length: int, *, file: int = 0, line: int | None = None
    ) -> None:
        """Append an image.

        Args:
            id: Its id; of a member of an archive, the name of the member.
            start: The offset of the slice.
            length: Its bytes.
            file: The index of its file.
            line: The number of its line; None for members of archives.
        """
        several = len(self._paths) > 1
        # Members of several files may have the same names.
        self.ids.append(f"{self._names[file]}:{id}" if several else id)
        self._starts.append(start)
        self._lengths.append(length)
        if several:
            self._file_of.append(file)
        if line is not None:
            self._lines.append(line)

    def _file(self, number: int) -> int:
        return self._file_of[number] if self._file_of else 0

    def _member(self, number: int) -> str:
        prefix = len(self._names[self._file(number)]) + 1 if self._file_of else 0
        return str(self.ids[number])[prefix:]

    def content(self, number: int) -> bytes:
        """The bytes of a slice."""
        start, length = self._starts[number], self._lengths[number]
        path = self._paths[self._file(number)]
        try:
            with open_file(path, buffering=0) as file:
                content = os.pread(file.fileno(), length, start)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {first_line(error)}") from error
        if len(content) < length:
            raise ImageError(f"{path.name} ends in the middle of it")
        return content

    def where(self, number: int) -> Where:
        """The file and the line or member."""
        name = self._names[self._file(number)]
        if self._lines:
            return Where(file=name, line=self._lines[number])
        return Where(file=name, member=self._member(number))

    def single(self, number: int) -> tuple[ImageStore, int]:
        """A store of this slice alone."""
        file = self._file(number)
        one = type(self)([Path(os.path.abspath(self._paths[file]))], [self._names[file]])
        line = self._lines[number] if self._lines else None
        one.add(self._member(number), self._starts[number], self._lengths[number], line=line)
        return one, 0
