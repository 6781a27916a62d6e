"""Zip files: their members, and images in them with random access."""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

from .._encoding import decode_names
from .._files import ZIP_ERRORS, open_file, open_zip_file
from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from ..preprocessors.formats import HEAD
from ..preprocessors.image import MAX_FILE
from .exclusions import Exclusions
from .image_names import ImageNames
from .images import ImageStore
from .names import with_slashes
from .rows import Id

ZIP_SUFFIX = ".zip"
_ENCRYPTED = 1
_UTF8 = 1 << 11  # the flag of a name in UTF-8
_UNICODE_PATH = 0x7075
_MAX_OPEN_ZIPS = 8
_READ_ERRORS = (OSError, *ZIP_ERRORS)


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open zip.

    Raises:
        DatasetError: the file cannot be read, or is not a zip.
    """
    try:
        archive = open_zip_file(path)
    except OSError as error:
        raise DatasetError(f"cannot be read: {first_line(error)}", file=path) from error
    except ZIP_ERRORS as error:
        raise DatasetError(f"not a zip, or damaged: {first_line(error)}", file=path) from error
    with archive:
        yield archive


def visible_members(archive: zipfile.ZipFile, encoding: str | None = None) -> list[zipfile.ZipInfo]:
    """The members of a zip without hidden files and the like, see `all_members`."""
    exclusions = Exclusions()
    members = all_members(archive, encoding)
    return [member for member in members if not exclusions.exclude_member(member.filename)]


def all_members(archive: zipfile.ZipFile, encoding: str | None = None) -> list[zipfile.ZipInfo]:
    """The members of a zip; those without a name, which a damaged zip may have, are left out.

    Names that the zip does not mark as UTF-8 are in the given encoding, by default in UTF-8 or else
    in GB18030, where all of them can be; otherwise in the zip format's own, cp437. Folders are
    separated by slashes.

    Raises:
        UnicodeError: the encoding is unknown.
    """
    members = archive.infolist()
    unmarked = [member for member in members if not member.flag_bits & _UTF8]
    raw = [member.orig_filename.encode("cp437", "surrogateescape") for member in unmarked]
    names = decode_names(raw, encoding)
    for member, name in zip(unmarked, names or (), strict=False):
        member.filename = name
    for member in members:
        name = _unicode_path(member) or member.filename
        member.filename = with_slashes(name.partition("\0")[0])  # as zipfile ends names
    return [member for member in members if member.filename]


def _unicode_path(member: zipfile.ZipInfo) -> str | None:
    """The name in UTF-8 that Info-ZIP and WinRAR write in an extra field, if it is of this name."""
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind != _UNICODE_PATH or len(field) < 5 or member.flag_bits & _UTF8:
            continue
        version, checksum = struct.unpack_from("<BL", field)
        raw = member.orig_filename.encode("cp437", "surrogateescape")
        if version == 1 and checksum == zlib.crc32(raw):
            with contextlib.suppress(UnicodeDecodeError):
                return field[5:].decode()
    return None


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
        with open_file(path) as file:
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
    def of(
        cls,
        path: Path,
        name: str,
        encoding: str | None = None,
        names: ImageNames | None = None,
    ) -> ZipImages:
        """All images of a zip.

        Args:
            path: The zip.
            name: Its name in messages.
            encoding: The encoding of names, see `all_members`.
            names: Decides which members are images, and counts the others.

        Raises:
            DatasetError: the file cannot be read, or is not a zip.
        """
        with open_zip(path) as archive:
            names = ImageNames() if names is None else names
            named = all_members(archive, encoding)
            names.leave_unnamed(len(archive.infolist()) - len(named))
            members = [one for one in named if not one.is_dir()]
            visible = set(names.visible(member.filename for member in members))
            images = [
                one
                for one in members
                if one.filename in visible
                and names.accept(one.filename, partial(_read_head, archive, one))
            ]
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


def _read_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The first bytes of a member; none of one that cannot be read."""
    try:
        with archive.open(member) as file:
            return file.read(HEAD)
    except _READ_ERRORS:
        return b""


def _version(path: Path) -> tuple[int, int, int]:
    """Changes when a file is replaced or written."""
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(_MAX_OPEN_ZIPS)
def _opened(path: Path, version: tuple[int, int, int], process: int) -> zipfile.ZipFile:
    """A zip that this process has opened: one of its parent's would share the file's position."""
    return open_zip_file(path)
