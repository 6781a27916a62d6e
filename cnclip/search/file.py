"""The file of an index. One file, so that it is there as a whole or not at all, and can be mapped.

    FAISS's index, as faiss.write_index writes it     (faiss.read_index opens the file itself)
    the items, as an Arrow file
    the description, JSON in UTF-8
    48 bytes: the magic, the description's length (8 bytes, little-endian) and its SHA-256

The description holds the length and the SHA-256 of each part before it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import replaced_atomically
from ..cache import remembered
from ..errors import IndexFileError, IndexNotFoundError

FORMAT_VERSION = 1
MAGIC = b"CNCLIPIX"
PARTS = ("vectors", "items")

_TRAILER = len(MAGIC) + 8 + 32
_MAX_DESCRIPTION = 16 << 20
_CHUNK = 1 << 20

Write = Callable[[Any], Any]


def write_index_file(
    path: Path, description: dict[str, Any], parts: dict[str, Callable[[Write], None]]
) -> None:
    """Write an index beside `path`, then rename it to that.

    Args:
        path: The file.
        description: What can be written as JSON.
        parts: For each of PARTS, what writes it by the function that it is given.

    Raises:
        OSError: it cannot be written; names `path`. What was there before is as it was.
    """
    try:
        with replaced_atomically(path) as temporary, temporary.open("wb") as file:
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
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def read_description(path: Path) -> dict[str, Any]:
    """An index's description, checked against its checksum.

    Raises:
        IndexNotFoundError: there is no such file.
        IndexFileError: it is no index, truncated, damaged or of another version.
        OSError: it cannot be read.
    """
    if not path.exists():
        raise IndexNotFoundError(f"{path}: no such index")
    if not path.is_file():
        raise IndexFileError(f"{path}: expected the file of an index")
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER))
        trailer = file.read()
        if len(trailer) < _TRAILER or not trailer.startswith(MAGIC):
            raise IndexFileError(f"{path}: not an index of cnclip, or cut short")
        length = int.from_bytes(trailer[len(MAGIC) : len(MAGIC) + 8], "little")
        if length > min(size - _TRAILER, _MAX_DESCRIPTION):
            raise IndexFileError(f"{path}: damaged: its description has an impossible length")
        file.seek(size - _TRAILER - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != trailer[-32:]:
        raise IndexFileError(f"{path}: damaged: its description is not what was written")
    try:
        return _checked(path, json.loads(text), size - length - _TRAILER)
    except IndexFileError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise IndexFileError(f"{path}: damaged: {error!r:.200}") from error


def _checked(path: Path, description: dict[str, Any], size: int) -> dict[str, Any]:
    """A description, if it is of this version and of parts that have `size` bytes in all."""
    if description.get("format") != FORMAT_VERSION:
        raise IndexFileError(
            f"{path}: index format {description.get('format')!r}, this cnclip reads format "
            f"{FORMAT_VERSION}; build it again"
        )
    total = sum(description["parts"][name]["bytes"] for name in PARTS)
    if total != size:
        raise IndexFileError(f"{path}: damaged: {size} bytes where {total} were written")
    return description


def map_parts(path: Path, description: dict[str, Any]) -> dict[str, NDArray[np.uint8]]:
    """The parts of an index as mapped memory, read-only: for each of PARTS uint8 [bytes]."""
    whole: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
    mapped = {}
    start = 0
    for name in PARTS:
        end = start + description["parts"][name]["bytes"]
        mapped[name] = whole[start:end]
        start = end
    return mapped


def check_once(path: Path) -> None:
    """Compare an index with its checksums, unless that was done since it was last written.

    Raises:
        IndexFileError: a part was damaged after it was written; names the part.
        OSError: the file cannot be read.
    """

    def check(file: Path) -> str:
        description = read_description(file)
        with file.open("rb") as stream:
            for name in PARTS:
                digest = hashlib.sha256()
                left = description["parts"][name]["bytes"]
                while left:
                    chunk = stream.read(min(left, _CHUNK))
                    if not chunk:
                        raise IndexFileError(f"{file}: damaged: cut short while it was read")
                    digest.update(chunk)
                    left -= len(chunk)
                if digest.hexdigest() != description["parts"][name]["sha256"]:
                    raise IndexFileError(f"{file}: damaged: its {name} are not what was written")
        return "intact"

    remembered(path, "index", check)
