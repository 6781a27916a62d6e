"""Zip files: their members, and images in them with random access."""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from .._files import ZIP_ERRORS
from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from .images import MAX_FILE, ImageStore
from .rows import IMAGE_SUFFIXES, Id

ZIP_SUFFIX = ".zip"
_ENCRYPTED = 1
_MAX_OPEN_ZIPS = 8
_READ_ERRORS = (OSError, *ZIP_ERRORS)


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open zip.

    Raises:
        DatasetError: the file cannot be read, or is not a zip.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=path) from error
    except ZIP_ERRORS as error:
        raise DatasetError(f"not a zip, or damaged: {first_line(error)}", file=path) from error
    with archive:
        yield archive


def visible_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members of a zip without hidden files, and without those that macOS adds."""
    return [
        member
        for member in archive.infolist()
        if not member.filename.startswith("__MACOSX/")
        and not any(part.startswith(".") for part in member.filename.split("/"))
    ]


def stored_at(path: Path, member: zipfile.ZipInfo) -> int:
    """The offset in a zip at which the content of an uncompressed member begins.

    Raises:
        DatasetError: the member is compressed or encrypted, or the file cannot be read.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
        raise DatasetError(
            f"{member.filename} is compressed there, so that single images cannot be read; unpack "
            "the zip and pass the folder",
            file=path,
        )
    try:
        with path.open("rb") as file:
            file.seek(member.header_offset)
            # The last fields of the header are the lengths of the name and of the extra fields.
            lengths = struct.unpack("<26x2H", file.read(30))
    except (OSError, struct.error) as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=path) from error
    return int(member.header_offset + 30 + sum(lengths))


class ZipImages(ImageStore):
    """Members of a zip. A process opens the zip once, and again when it was replaced."""

    def __init__(self, path: Path, name: str, members: list[zipfile.ZipInfo]) -> None:
        """Take the members; `name` is the zip's name in messages."""
        self.ids: list[Id] = [member.filename for member in members]
        self._path, self._name, self._members = path, name, members

    @classmethod
    def of(cls, path: Path, name: str) -> ZipImages:
        """All images of a zip, by the suffixes of their names.

        Raises:
            DatasetError: the file cannot be read, or is not a zip.
        """
        with open_zip(path) as archive:
            members = visible_members(archive)
        suffixes = (os.path.splitext(member.filename)[1].lower() for member in members)
        images = [m for m, s in zip(members, suffixes, strict=True) if s in IMAGE_SUFFIXES]
        return cls(path, name, images)

    def content(self, number: int) -> bytes:
        """The bytes of a member."""
        try:
            archive = _opened(self._path, _version(self._path), os.getpid())
            with archive.open(self._members[number]) as file:
                # The zip's table may be wrong about the size.
                content = file.read(MAX_FILE + 1)
        except _READ_ERRORS as error:
            raise ImageError(f"cannot be read in the zip: {first_line(error)}") from error
        if len(content) > MAX_FILE:
            raise ImageError(f"a file of more than {MAX_FILE} bytes")
        if not content:
            raise ImageError("an empty file")
        return content

    def where(self, number: int) -> Where:
        """The zip and the member."""
        return Where(file=self._name, member=self._members[number].filename)

    def single(self, number: int) -> tuple[ImageStore, int]:
        """A store of this member alone."""
        path = Path(os.path.abspath(self._path))
        return ZipImages(path, self._name, [self._members[number]]), 0


def _version(path: Path) -> tuple[int, int, int]:
    """Changes when a file is replaced or written."""
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(_MAX_OPEN_ZIPS)
def _opened(path: Path, version: tuple[int, int, int], process: int) -> zipfile.ZipFile:
    """A zip that this process has opened: one of its parent's would share the file's position."""
    return zipfile.ZipFile(path)
