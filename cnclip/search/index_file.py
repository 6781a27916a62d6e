"""The file format of an index: one file that is written atomically and can be memory-mapped.

    FAISS's index, as written by faiss.write_index     (faiss.read_index can open the file)
    the items, as an Arrow file
    the description, JSON in UTF-8
    48 bytes: the magic, the description's length (8 bytes, little-endian) and its SHA-256

The description has the length and the SHA-256 of the first two parts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import open_file, replaced_atomically
from ..cache import remembered
from ..errors import IndexFileError, IndexNotFoundError

FORMAT_VERSION = 1
MAGIC = b"CNCLIPIX"
PARTS = ("vectors", "items")

_TRAILER = len(MAGIC) + 8 + 32
_MAX_DESCRIPTION = 16 << 20
_INVALID_JSON = (
    *(AttributeError, KeyError, TypeError, RecursionError),
    *(json.JSONDecodeError, UnicodeDecodeError),
)

Write = Callable[[Any], Any]


def write_index_file(
    path: Path, description: dict[str, Any], parts: dict[str, Callable[[Write], None]]
) -> None:
    """Write an index to a temporary file, then rename it to `path`.

    Args:
        path: The file.
        description: A dict for JSON.
        parts: For each of PARTS a function that writes the part with the `write` it gets.

    Raises:
        OSError: the file cannot be written. An existing file is unchanged.
    """
    try:
        with (
            replaced_atomically(path) as temporary,
            temporary.open("wb") as file,
        ):
            written = {}
            for name in PARTS:
                digest = hashlib.sha256()
                start = file.tell()

                def write(piece: Any, digest: Any = digest) -> None:
                    digest.update(piece)
                    file.write(piece)

                parts[name](write)
                length = file.tell() - start
                written[name] = {"bytes": length, "sha256": digest.hexdigest()}
            whole = {"format": FORMAT_VERSION, **description, "parts": written}
            text = json.dumps(whole, ensure_ascii=True, indent=1).encode()
            file.write(text)
            file.write(MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest())
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def is_index_file(path: Path) -> bool:
    """Whether a file ends as an index does; it may be damaged otherwise."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(-min(_TRAILER, file.seek(0, 2)), 2)
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_description(path: Path) -> dict[str, Any]:
    """Read the description of an index, and compare it with its checksum.

    Raises:
        IndexNotFoundError: there is no such file.
        IndexFileError: the file is not an index, truncated, damaged or of another version.
        OSError: the file cannot be read.
    """
    if not path.exists():
        raise IndexNotFoundError("no such index", file=path)
    if path.is_dir():
        reason = f"a folder, not an index: `cnclip index {path} -o NAME.index` makes one of it"
        raise IndexFileError(reason, file=path)
    if not path.is_file():
        raise IndexFileError("expected an index file, this is not a regular file", file=path)
    size = path.stat().st_size
    with open_file(path) as file:
        file.seek(max(0, size - _TRAILER))
        trailer = file.read()
        if len(trailer) < _TRAILER or not trailer.startswith(MAGIC):
            raise IndexFileError("not an index of cnclip, or truncated", file=path)
        length = int.from_bytes(trailer[len(MAGIC) : len(MAGIC) + 8], "little")
        if length > min(size - _TRAILER, _MAX_DESCRIPTION):
            raise _damaged(path, "the length of its description is impossible")
        file.seek(size - _TRAILER - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != trailer[-32:]:
        raise _damaged(path, "its description does not match its checksum")
    try:
        description = json.loads(text)
        version = description.get("format")
        if version != FORMAT_VERSION:
            raise IndexFileError(
                f"index format {version!r}; this version of cnclip reads format {FORMAT_VERSION}; "
                "rebuild the index",
                file=path,
            )
        total = 0
        for part in (description["parts"][name] for name in PARTS):
            if type(part["bytes"]) is not int or part["bytes"] < 0:
                raise TypeError(part["bytes"])
            if not isinstance(part["sha256"], str):
                raise TypeError(part["sha256"])
            total += part["bytes"]
    except _INVALID_JSON as error:
        raise _damaged(path, "its description lacks a field or is not valid JSON") from error
    left = size - length - _TRAILER
    if total != left:
        raise _damaged(path, f"has {left} bytes of {total}")
    if description.get("contents") == "pictures":  # the name of images in earlier versions
        description["contents"] = "images"
    checked: dict[str, Any] = description
    return checked


class IndexParts:
    """The parts of an index file, mapped into memory, read-only, or read into it.

    A file that is replaced, as cnclip does it, remains readable while it is mapped. One that is
    truncated or written in place does not: reading pages that are gone ends the process, and others
    have wrong vectors. `check` before and after each use finds this. A process that must not end at
    all, such as a server, reads the file into memory.

    Attributes:
        content: For each of PARTS uint8 [bytes].
    """

    def __init__(self, path: Path, description: dict[str, Any], *, mapped: bool = True) -> None:
        """Map or read the file.

        Raises:
            IndexFileError: it has changed since its description was read.
            OSError: it cannot be read.
        """
        self._path = path
        self._descriptor: int | None = None
        sizes = [description["parts"][name]["bytes"] for name in PARTS]
        whole: NDArray[np.uint8]
        with open_file(path) as file:
            self._state = _state(file.fileno())
            if self._state[0] < sum(sizes):
                raise self._changed()
            if mapped:
                whole = np.memmap(file, np.uint8, mode="r")
                self._descriptor = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._descriptor)
            else:
                whole = np.empty(sum(sizes), np.uint8)
                # np.fromfile hides errors of the disk.
                whole = whole[: file.readinto(whole)]  # type: ignore[attr-defined]
        if len(whole) < sum(sizes):
            raise self._changed()
        ends = list(itertools.accumulate(sizes, initial=0))
        places = zip(PARTS, itertools.pairwise(ends), strict=True)
        self.content = {name: whole[start:end] for name, (start, end) in places}

    def check(self) -> None:
        """Raise an IndexFileError if a mapped file has been truncated or written since."""
        if self._descriptor is not None and _state(self._descriptor) != self._state:
            raise self._changed()

    def _changed(self) -> IndexFileError:
        reason = "was changed in place while it was open; build it again, and open it again"
        return IndexFileError(reason, file=self._path)


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def check_once(path: Path) -> None:
    """Compare an index with its checksums, unless that was done since it was last written.

    Raises:
        IndexFileError: a part is damaged.
        OSError: the file cannot be read.
    """

    def check(file: Path) -> str:
        description = read_description(file)
        opened = IndexParts(file, description)
        for name, content in opened.content.items():
            opened.check()
            if hashlib.sha256(content.data).hexdigest() != description["parts"][name]["sha256"]:
                raise _damaged(file, f"its {name} do not match their checksum")
        return "intact"

    remembered(path, "index", check)


def _damaged(path: Path, problem: str) -> IndexFileError:
    return IndexFileError(f"damaged: {problem}; rebuild the index", file=path)
